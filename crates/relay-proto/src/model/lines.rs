//! The handshake's readers: where the bytes are split must not matter, and what was read is what is written.

use std::fmt::{Debug, Display};

use super::pieces;
use crate::handshake::{
    Answer, AnswerError, AnswerReader, ClientReader, HandshakeError, LineReader, MAX_LINE, Protocol, Said,
};

/// The most lines or answers that one connection is read for: enough to come through every order of them.
const MOST: usize = 16;

/// Reads `bytes` whole and in pieces: as lines, as what a client says, and as what a relay answers to `asked`.
pub fn run(bytes: &[u8], lengths: &[u8], asked: &[u8]) {
    same(bytes, lengths, |_: &[String]| false, LineReader::default, |lines, _, input| lines.read(input));

    let requested = |said: &[Said]| matches!(said.last(), Some(Said::Request(..)));
    let said = same(bytes, lengths, requested, ClientReader::default, |reader, _, input| reader.read(input));
    let written: String = said.iter().map(ToString::to_string).collect();
    let mut reader = ClientReader::default();
    let mut input = written.as_bytes();
    for said in said {
        assert_eq!(reader.read(&mut input), Ok(Some(said)));
    }
    assert!(input.is_empty());

    let asked = |at: usize| asked.get(at).copied().unwrap_or_default();
    let answers = same(
        bytes,
        lengths,
        |_: &[Answer]| false,
        AnswerReader::default,
        |reader, at, input| answer(reader, asked(at), input),
    );
    for (at, answer_read) in answers.into_iter().enumerate() {
        let written = answer_read.to_string();
        assert_eq!(answer(&mut AnswerReader::default(), asked(at), &mut written.as_bytes()), Ok(Some(answer_read)));
    }
}

/// Reads the one answer that `asked` stands for.
fn answer(reader: &mut AnswerReader, asked: u8, input: &mut &[u8]) -> Result<Option<Answer>, AnswerError> {
    let mut established = |protocol| Ok(reader.established(protocol, input)?.map(Answer::Established));
    match asked % 6 {
        0 => Ok(reader.features(input)?.map(Answer::Features)),
        1 => Ok(reader.nonce(input)?.map(Answer::Nonce)),
        2 => Ok(reader.ok(input)?.map(|()| Answer::Ok)),
        3 => established(Protocol::Multiplex),
        4 => established(Protocol::Pool),
        _ => established(Protocol::Event),
    }
}

/// Reads until `last`, an error or the end, whole and in pieces; gives what was read before an error.
fn same<T: PartialEq + Debug, E: PartialEq + Debug + Display + Into<AnswerError>, R>(
    bytes: &[u8],
    lengths: &[u8],
    last: impl Fn(&[T]) -> bool,
    reader: impl Fn() -> R,
    step: impl Fn(&mut R, usize, &mut &[u8]) -> Result<Option<T>, E>,
) -> Vec<T> {
    let whole = read(std::iter::once(bytes), bytes.len(), &last, reader(), &step);
    let split = read(pieces(bytes, lengths), bytes.len(), &last, reader(), &step);
    assert_eq!(whole, split);
    let (read, end) = whole;
    if let Err(error) = end {
        let text = error.to_string();
        assert!(text.len() < 4 * MAX_LINE && text.chars().all(|c| !c.is_control()), "{text:?}");
        if let AnswerError::Misbehaved(error) = error.into() {
            assert_answerable(&error);
        }
    }
    read
}

/// Whatever a client says, the answer is one line that it can read.
fn assert_answerable(error: &HandshakeError) {
    let refusal = error.refusal();
    let line = refusal.to_string();
    assert!(line.len() <= MAX_LINE && line.find('\n') == Some(line.len() - 1), "{line:?}");
    assert_eq!(AnswerReader::default().ok(&mut line.as_bytes()), Err(AnswerError::Refused(refusal)));
}

/// What was read, and how many bytes were left or what was wrong.
type Outcome<T, E> = (Vec<T>, Result<usize, E>);

fn read<'a, T, E, R>(
    pieces: impl Iterator<Item = &'a [u8]>,
    mut left: usize,
    last: impl Fn(&[T]) -> bool,
    mut reader: R,
    step: impl Fn(&mut R, usize, &mut &[u8]) -> Result<Option<T>, E>,
) -> Outcome<T, E> {
    let mut all = Vec::new();
    for piece in pieces {
        let mut input = piece;
        loop {
            let before = input.len();
            let next = step(&mut reader, all.len(), &mut input);
            left -= before - input.len();
            match next {
                Ok(Some(next)) => all.push(next),
                Ok(None) => break assert!(input.is_empty(), "what is not yet a line is kept by the reader"),
                Err(error) => return (all, Err(error)),
            }
            if last(&all) || all.len() == MOST {
                return (all, Ok(left));
            }
        }
    }
    (all, Ok(left))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    const WORDS: [&str; 36] = [
        "relay/1",
        "auth",
        "laptop",
        "multiplex",
        "pool",
        "event",
        "new",
        "port=16379",
        "port=0",
        "wish=1",
        "allow=10.0.0.1/8",
        "allow=::ffff:10.0.0.0/104",
        "allow=2001:db8::1",
        "allow=x",
        "udp=1",
        "1235",
        "0",
        "65536",
        "ABCDEF0123",
        "",
        "+1",
        "7",
        "18446744073709551616",
        "ok",
        "error",
        "denied",
        "unheard-of",
        "port",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9",
        "\u{1b}[31m",
        "\u{202e}",
        "…",
        "'\"\\",
        "\r",
        "\u{a0}",
    ];

    fn word() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            20 => prop::sample::select(WORDS.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
            1 => vec(any::<u8>(), 0..20),
            1 => vec(Just(b'x'), 500..520),
        ]
    }

    /// A conversation as it should be, or nearly.
    fn usual() -> impl Strategy<Value = Vec<u8>> {
        prop::sample::subsequence(
            vec![
                "relay/1\n",
                "relay/1 auth port wish service allow\n",
                "auth laptop\n",
                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n",
                "ok\n",
                "multiplex port=1 allow=10.0.0.1\n",
                "pool wish=7\n",
                "event\n",
                "new\n",
                "1235\n",
                "0123456789ABCDEF 12 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n",
                "error busy come back\n",
            ],
            0..=12,
        )
        .prop_map(|lines| lines.concat().into_bytes())
    }

    fn any_lines() -> impl Strategy<Value = Vec<u8>> {
        let blank = prop::sample::select(vec![" ", "\t ", "  "]);
        let end = prop::sample::select(vec!["\n", "\r\n", " \t\n", "\n\n", ""]);
        let line = (vec((word(), blank), 0..5), end).prop_map(|(words, end)| {
            let words = words.into_iter().flat_map(|(word, blank)| [word, blank.as_bytes().to_vec()].concat());
            words.chain(end.bytes()).collect::<Vec<u8>>()
        });
        vec(line, 0..8).prop_map(|lines| lines.concat())
    }

    proptest! {
        #[test]
        fn splitting_changes_nothing(
            before in usual(),
            lines in any_lines(),
            lengths in vec(any::<u8>(), 0..8),
            asked in vec(any::<u8>(), 0..8),
        ) {
            super::run(&[before, lines].concat(), &lengths, &asked);
        }
    }
}
