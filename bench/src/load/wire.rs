//! What a user and the service say to each other: one byte that names what the connection is for, which
//! the service answers with the same byte, so that every connection has passed one byte each way.

use std::io::{self, Read, Write};
use std::time::Duration;

use clap::ValueEnum;

/// What a connection is for: its first byte, and the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// The service's event loop sends back what comes.
    Echo = b'E' as isize,
    /// A thread of the service's sends back messages of [`MESSAGE`] bytes.
    Ping = b'P' as isize,
    /// A [`Window`], then bytes for the service, which answers with a [`Report`] after their end.
    Upload = b'U' as isize,
    /// A [`Window`], then the service sends as long as that says, and ends.
    Download = b'D' as isize,
}

impl Op {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Echo, Self::Ping, Self::Upload, Self::Download].into_iter().find(|op| op.byte() == byte)
    }

    pub(crate) const fn byte(self) -> u8 {
        self as u8
    }
}

/// Which way bulk goes, as the user sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// From the user to the service.
    Up,
    /// From the service to the user.
    Down,
}

/// The size of a ping-pong's message.
pub(crate) const MESSAGE: usize = 64;

/// What is written to and read from a socket at a time: more gains nothing.
pub(crate) const CHUNK: usize = 256 * 1024;

/// Says what the connection is for and waits for the answer.
pub(crate) fn greet(stream: &mut (impl Read + Write), op: Op) -> io::Result<()> {
    stream.write_all(&[op.byte()])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer[0] == op.byte() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{op:?} was answered with {:?}", char::from(answer[0]))))
    }
}

/// How long bulk flows: first while nothing is counted, then while it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) warm_ms: u32,
    pub(crate) measure_ms: u32,
}

impl Window {
    pub(crate) fn warm(self) -> Duration {
        Duration::from_millis(self.warm_ms.into())
    }

    pub(crate) fn whole(self) -> Duration {
        self.warm() + Duration::from_millis(self.measure_ms.into())
    }

    pub(crate) fn write(self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.warm_ms.to_be_bytes());
        bytes[4..].copy_from_slice(&self.measure_ms.to_be_bytes());
        to.write_all(&bytes)
    }

    pub(crate) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut field = || {
            let mut bytes = [0; 4];
            from.read_exact(&mut bytes).map(|()| u32::from_be_bytes(bytes))
        };
        Ok(Self { warm_ms: field()?, measure_ms: field()? })
    }
}

/// What the receiver of bulk saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Bytes inside the measured part of the window.
    pub(crate) counted: u64,
    /// How long that part was, in nanoseconds.
    pub(crate) nanos: u64,
    /// Bytes in all.
    pub(crate) total: u64,
}

impl Report {
    pub(crate) fn write(self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(24);
        for field in [self.counted, self.nanos, self.total] {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        to.write_all(&bytes)
    }

    pub(crate) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut field = || {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes).map(|()| u64::from_be_bytes(bytes))
        };
        Ok(Self { counted: field()?, nanos: field()?, total: field()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_come_back_from_their_bytes() {
        for op in [Op::Echo, Op::Ping, Op::Upload, Op::Download] {
            assert_eq!(Op::from_byte(op.byte()), Some(op));
        }
        assert_eq!(Op::from_byte(0), None);
    }

    #[test]
    fn windows_and_reports_come_back() {
        let window = Window { warm_ms: 250, measure_ms: 1500 };
        let report = Report { counted: 1, nanos: 2, total: u64::MAX };
        let mut bytes = Vec::new();
        window.write(&mut bytes).unwrap();
        report.write(&mut bytes).unwrap();
        let mut bytes = &bytes[..];
        assert_eq!(Window::read(&mut bytes).unwrap(), window);
        assert_eq!(Report::read(&mut bytes).unwrap(), report);
        assert!(bytes.is_empty());
    }
}
