//! The frame's header: twelve bytes, big-endian (hashicorp/yamux `spec.md`, "Framing").

use std::fmt;
use std::num::NonZeroU32;
use std::ops::BitOr;

/// The length of every header, in bytes.
pub const HEADER_LEN: usize = 12;

const VERSION: u8 = 0;

/// A stream's number; 0 is the session itself and no stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(NonZeroU32);

impl StreamId {
    /// The stream with that number, unless it is 0.
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number on the wire.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Payload of a stream follows the header.
    Data = 0,
    /// Credit for a stream; its length field is the number of bytes granted.
    WindowUpdate = 1,
    /// A question (SYN) or its answer (ACK); its length field is an opaque value to be sent back.
    Ping = 2,
    /// The sender takes no new streams; its length field is a code: 0 normal, 1 protocol error, 2 internal.
    GoAway = 3,
}

/// The flags of a frame. Bits without a meaning are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Opens a stream, or asks with a ping.
    pub const SYN: Self = Self(1);
    /// Accepts a stream, or answers a ping.
    pub const ACK: Self = Self(2);
    /// The sender has no more bytes for the stream.
    pub const FIN: Self = Self(4);
    /// Ends the stream at once, both ways.
    pub const RST: Self = Self(8);

    /// Whether all flags of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Its flags.
    pub flags: Flags,
    /// The stream's number, 0 for the session.
    pub stream: u32,
    /// Payload bytes that follow, bytes granted, opaque value or code, as [`Kind`] says.
    pub length: u32,
}

/// The twelve bytes are no header of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A version other than 0.
    Version(u8),
    /// A type above 3.
    Kind(u8),
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// The version or the type is none that this protocol has.
    pub const fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::WindowUpdate,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            other => return Err(FrameError::Kind(other)),
        };
        Ok(Self {
            kind,
            flags: Flags(u16::from_be_bytes([f0, f1])),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// Writes the header.
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        let [f0, f1] = self.flags.0.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        [VERSION, self.kind as u8, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3]
    }

    pub(crate) const fn of_stream(kind: Kind, flags: Flags, stream: StreamId, length: u32) -> Self {
        Self { kind, flags, stream: stream.get(), length }
    }

    pub(crate) const fn of_session(kind: Kind, flags: Flags, length: u32) -> Self {
        Self { kind, flags, stream: 0, length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_twelve_bytes_decode_or_are_refused(bytes: [u8; HEADER_LEN]) {
            match Header::decode(bytes) {
                Ok(header) => prop_assert_eq!(header.encode(), bytes),
                Err(FrameError::Version(version)) => prop_assert!(version == bytes[0] && version != 0),
                Err(FrameError::Kind(kind)) => prop_assert!(kind == bytes[1] && kind > 3),
            }
        }
    }

    #[test]
    fn fields_stand_where_the_specification_has_them() {
        let header = Header {
            kind: Kind::WindowUpdate,
            flags: Flags::SYN | Flags::FIN,
            stream: 0x0102_0304,
            length: 0x0506_0708,
        };
        assert_eq!(header.encode(), [0, 1, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
