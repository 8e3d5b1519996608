//! Which relay a forwarder uses, and how it speaks to it: as its owner wrote it, never anything else.

use std::fmt;
use std::str::FromStr;

use relay_client::{AddressError, RelayAddr};
use relay_proto::invite::{Invite, InviteError};

/// A relay. Parsed from an invite, `tls://HOST[:PORT]` or `HOST[:PORT]`. `Debug` has stars for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relay {
    /// Over TLS, with the identity of an invite.
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

    /// Whether authorities, or a client certificate, can go with it.
    ///
    /// # Errors
    /// They cannot: why, and what to do.
    pub fn takes(&self, authorities: bool, certificate: bool) -> Result<(), &'static str> {
        match self {
            Self::Invite(_) if certificate => {
                Err("an invite is an identity already: leave the client certificate out, or write tls://HOST[:PORT]")
            }
            Self::Invite(invite) if authorities && invite.pin.is_some() => {
                Err("the invite says which certificate the relay must have: leave the CA file out")
            }
            Self::Plain(_) if authorities || certificate => {
                Err("certificates are for TLS, and HOST[:PORT] is plain text: write the relay as tls://HOST[:PORT]")
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for Relay {
    type Err = RelayError;

    fn from_str(text: &str) -> Result<Self, RelayError> {
        let address =
            |text: &str| text.parse().map_err(|error: AddressError| RelayError::Address(error.problem().to_string()));
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
    Address(String),
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

    #[test]
    fn certificates_go_with_tls_alone() {
        let invite: Relay = format!("relay://laptop:{TOKEN}@host").parse().unwrap();
        let pin = "0f".repeat(32);
        let pinned: Relay = format!("relay://laptop:{TOKEN}@host?pin=sha256-{pin}").parse().unwrap();
        let (tls, plain): (Relay, Relay) = ("tls://host".parse().unwrap(), "host".parse().unwrap());
        for (relay, authorities, certificate) in
            [(&invite, true, false), (&pinned, false, false), (&tls, true, true), (&plain, false, false)]
        {
            assert_eq!(relay.takes(true, false).is_ok(), authorities, "{relay:?}");
            assert_eq!(relay.takes(false, true).is_ok(), certificate, "{relay:?}");
            assert!(relay.takes(false, false).is_ok());
        }
    }
}
