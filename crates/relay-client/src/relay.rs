//! Which relay is meant, and how it is spoken to: as its owner wrote it, never in another way.

use std::fmt;
use std::str::FromStr;

use relay_proto::address::{AddressError, Problem, RelayAddr};
use relay_proto::invite::{Invite, InviteError};

/// A relay. Parsed from an invite, `tls://HOST[:PORT]` or `HOST[:PORT]`. `Debug` has stars for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Relay {
    /// Over TLS, with the identity of an invite, to a relay with the certificate that the invite pins or, if it pins
    /// none, one that this system trusts.
    Invite(Invite),
    /// Over TLS, to a relay whose certificate an authority vouches for.
    Tls(RelayAddr),
    /// In plain text and without an identity, as the original.
    Plain(RelayAddr),
}

impl Relay {
    /// Where it is.
    pub fn address(&self) -> &RelayAddr {
        match self {
            Self::Invite(invite) => &invite.relay,
            Self::Tls(address) | Self::Plain(address) => address,
        }
    }
}

impl FromStr for Relay {
    type Err = RelayError;

    fn from_str(text: &str) -> Result<Self, RelayError> {
        let address = |text: &str| text.parse().map_err(|error: AddressError| RelayError::Address(error.problem()));
        // Whatever is meant to be an invite, and was damaged on its way, is none of the others.
        if text.contains("relay:") || text.contains('@') {
            text.parse().map(Self::Invite).map_err(RelayError::Invite)
        } else if let Some(rest) = text.strip_prefix("tls://") {
            address(rest).map(Self::Tls)
        } else {
            address(text).map(Self::Plain)
        }
    }
}

/// A text that names no relay. The caller's fault. Never shows the text, which may hold a token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayError {
    /// A damaged invite.
    Invite(InviteError),
    /// No address: what is wrong with it.
    Address(Problem),
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invite(error) => error.fmt(f),
            Self::Address(problem) => {
                write!(f, "the relay is an invite, tls://HOST[:PORT] or HOST[:PORT], and this is none: {problem}")
            }
        }
    }
}

impl std::error::Error for RelayError {}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    #[test]
    fn every_form_is_understood() {
        let meaning = |text: &str| match text.parse() {
            Ok(Relay::Invite(invite)) => format!("invite {} {}", invite.name, invite.relay),
            Ok(Relay::Tls(address)) => format!("tls {address}"),
            Ok(Relay::Plain(address)) => format!("plain {address}"),
            Err(error) => panic!("{text}: {error}"),
        };
        assert_eq!(meaning(&format!("relay://laptop:{TOKEN}@vps.example")), "invite laptop vps.example:7000");
        assert_eq!(meaning(&format!(" 'relay://laptop:{TOKEN}@[::1]:1'\n")), "invite laptop [::1]:1");
        assert_eq!(meaning("tls://vps.example"), "tls vps.example:7000");
        assert_eq!(meaning("tls://[::1]:1"), "tls [::1]:1");
        assert_eq!(meaning("vps.example:1"), "plain vps.example:1");
    }

    /// Whatever one letter does to an invite, it is never taken for an address, and no error shows the token.
    #[test]
    fn a_damaged_invite_is_none_and_stays_secret() {
        let invite = format!("relay://laptop:{TOKEN}@vps.example:7000");
        for at in 0..invite.len() {
            for other in ["", "x", "%", " ", "/", ":", "?", "\n", "ä"] {
                let damaged = format!("{}{other}{}", &invite[..at], &invite[at + 1..]);
                match damaged.parse::<Relay>() {
                    Ok(Relay::Invite(_)) => {}
                    Ok(relay) => panic!("{damaged:?} is {relay:?}"),
                    Err(error) => {
                        let said = format!("{error} {error:?}");
                        assert!(!said.contains(&TOKEN[..10]) && !said.contains(&TOKEN[33..]), "{said}");
                    }
                }
            }
        }
    }
}
