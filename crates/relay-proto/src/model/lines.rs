//! The handshake's readers: where the bytes are split must not matter.

use super::pieces;
use crate::handshake::{EstablishedReader, HandshakeError, LineReader, MAX_LINE, Protocol, RequestReader};

/// Reads `bytes` whole and in pieces, with each reader.
pub fn run(bytes: &[u8], lengths: &[u8]) {
    let _ = same(bytes, lengths, || {
        let mut reader = LineReader::default();
        move |input: &mut &[u8]| reader.read(input)
    });
    let request = same(bytes, lengths, || {
        let mut reader = RequestReader::default();
        move |input: &mut &[u8]| reader.read(input)
    });
    if let Ok(Some((request, _))) = request {
        let written = request.to_string();
        assert_eq!(RequestReader::default().read(&mut written.as_bytes()), Ok(Some(request)));
    }
    for protocol in [Protocol::Multiplex, Protocol::Pool, Protocol::Event] {
        let answer = same(bytes, lengths, || {
            let mut reader = EstablishedReader::new(protocol);
            move |input: &mut &[u8]| reader.read(input)
        });
        if let Ok(Some((answer, _))) = answer {
            let written = answer.to_string();
            assert_eq!(EstablishedReader::new(protocol).read(&mut written.as_bytes()), Ok(Some(answer)));
        }
    }
}

/// What was read and how many bytes were left.
type Outcome<T> = Result<Option<(T, usize)>, HandshakeError>;

fn same<T, R>(bytes: &[u8], lengths: &[u8], reader: impl Fn() -> R) -> Outcome<T>
where
    T: PartialEq + std::fmt::Debug,
    R: FnMut(&mut &[u8]) -> Result<Option<T>, HandshakeError>,
{
    let whole = read(std::iter::once(bytes), bytes.len(), reader());
    let split = read(pieces(bytes, lengths), bytes.len(), reader());
    assert_eq!(whole, split);
    if let Err(error) = &whole {
        let text = error.to_string();
        assert!(text.len() < 16 * MAX_LINE && text.chars().all(|c| !c.is_control()), "{text:?}");
    }
    whole
}

fn read<'a, T>(
    pieces: impl Iterator<Item = &'a [u8]>,
    mut left: usize,
    mut reader: impl FnMut(&mut &[u8]) -> Result<Option<T>, HandshakeError>,
) -> Outcome<T> {
    for piece in pieces {
        let mut input = piece;
        let got = reader(&mut input)?;
        left -= piece.len() - input.len();
        match got {
            Some(got) => return Ok(Some((got, left))),
            None => assert!(input.is_empty(), "what is not yet a line is kept by the reader"),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn word() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => prop::sample::select(vec!["multiplex", "pool", "event", "new", "1235", "0", "65536", "ABCDEF0123", "", "+1"])
                .prop_map(|word| word.as_bytes().to_vec()),
            1 => vec(any::<u8>(), 0..20),
            1 => vec(Just(b'x'), 500..520),
        ]
    }

    fn end() -> impl Strategy<Value = Vec<u8>> {
        prop::sample::select(vec!["\n", "\r\n", " \t\n", "\n\n", ""]).prop_map(|end| end.as_bytes().to_vec())
    }

    proptest! {
        #[test]
        fn splitting_changes_nothing(lines in vec((word(), end()), 0..5), lengths in vec(any::<u8>(), 0..8)) {
            let bytes: Vec<u8> = lines.into_iter().flat_map(|(word, end)| [word, end].concat()).collect();
            super::run(&bytes, &lengths);
        }
    }
}
