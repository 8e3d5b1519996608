//! One line at a time.

use super::HandshakeError;

/// The longest line either side may send, in bytes, newline included.
///
/// Far above any line of the protocol (an id has 32 digits), far below what would hurt to hold for
/// each of a thousand pending handshakes.
pub const MAX_LINE: usize = 512;

/// The longest line that names a protocol with options, in bytes, newline included: room for
/// [`MAX_NETWORKS`](super::MAX_NETWORKS) networks of the longest kind. Only a client that has said `relay/1`
/// may send it.
pub const MAX_REQUEST_LINE: usize = 4096;

/// What is skipped around words.
const BLANKS: [char; 2] = [' ', '\t'];

/// Collects one line at a time from pieces of any size.
#[derive(Debug, Default)]
pub struct LineReader {
    line: Vec<u8>,
}

impl LineReader {
    /// Takes bytes from `input` up to and including the next newline. Gives the line without its
    /// newline and without blanks, tabs and a carriage return around it; `None` when `input` ended first.
    ///
    /// # Errors
    /// [`HandshakeError::LineTooLong`] and [`HandshakeError::NotText`]; the reader is of no use afterwards.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<String>, HandshakeError> {
        self.read_within(MAX_LINE, input)
    }

    /// Like [`read`](Self::read), with another limit. It must not shrink within a line.
    pub(super) fn read_within(&mut self, limit: usize, input: &mut &[u8]) -> Result<Option<String>, HandshakeError> {
        let room = limit - self.line.len();
        let window = &input[..input.len().min(room)];
        let newline = window.iter().position(|&byte| byte == b'\n');
        let taken = newline.map_or(window.len(), |at| at + 1);
        self.line.extend_from_slice(&window[..taken]);
        *input = &input[taken..];
        if newline.is_none() {
            return if self.line.len() < limit { Ok(None) } else { Err(HandshakeError::LineTooLong(limit)) };
        }
        let line = std::mem::take(&mut self.line);
        let text = str::from_utf8(&line).map_err(|_| HandshakeError::NotText)?;
        Ok(Some(text.trim_matches([' ', '\t', '\r', '\n']).to_owned()))
    }
}

/// The words of a line.
pub(super) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(BLANKS).filter(|word| !word.is_empty())
}

/// The first word of a line, and what follows it.
pub(super) fn first_word(line: &str) -> (&str, &str) {
    line.split_once(BLANKS).map_or((line, ""), |(word, rest)| (word, rest.trim_matches(BLANKS)))
}
