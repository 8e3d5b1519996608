//! All that a client needs to know of its relay, in one line that can be pasted.
//!
//! ```text
//! relay://NAME:TOKEN@HOST[:PORT][?pin=sha256-HEX]
//! ```

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use crate::address::{AddressError, Problem, RelayAddr};
use crate::identity::{IdentityError, Name, Token};

/// How an invite begins.
const SCHEME: &str = "relay://";

/// How a pin begins: what its digits are.
const SHA256: &str = "sha256-";

/// An identity and where it is one, from the operator of a relay to the owner of a service.
///
/// `Display` writes the URL, and with it the token: show it only to the one who is to have it. `Debug` has stars there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// What the identity is called.
    pub name: Name,
    /// Its secret.
    pub token: Token,
    /// Where the relay is.
    pub relay: RelayAddr,
    /// SHA-256 of the relay's certificate, whole, in DER. Without it the certificate must be one that the system
    /// trusts for that host.
    pub pin: Option<[u8; 32]>,
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}:{}@{}", self.name, self.token.expose(), self.relay)?;
        self.pin.iter().try_for_each(|pin| write!(f, "?pin={SHA256}{}", hex(pin)))
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    /// Takes an invite as it was pasted: white space, and one pair of quotes, may be around it.
    fn from_str(text: &str) -> Result<Self, InviteError> {
        let text = unquoted(text.trim());
        if text.contains(|c: char| matches!(c, '&' | '%' | '!') || c.is_whitespace() || c.is_control()) {
            return Err(InviteError::Character);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InviteError::Scheme)?;
        let (identity, rest) = rest.split_once('@').ok_or(InviteError::NoIdentity)?;
        let (name, token) = identity.split_once(':').ok_or(InviteError::NoIdentity)?;
        let (relay, pin) = match rest.split_once('?') {
            None => (rest, None),
            Some((relay, query)) => (relay, Some(pin(query)?)),
        };
        Ok(Self {
            name: name.parse().map_err(InviteError::Identity)?,
            token: token.parse().map_err(InviteError::Identity)?,
            relay: address(relay).map_err(|problem| InviteError::Address(problem.to_string().into()))?,
            pin,
        })
    }
}

fn unquoted(text: &str) -> &str {
    let quoted = ['\'', '"'].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote));
    quoted.unwrap_or(text).trim()
}

fn address(text: &str) -> Result<RelayAddr, Problem> {
    // People may type a bare IPv6 address; a URL has it in brackets.
    if !text.starts_with('[') && text.matches(':').count() > 1 {
        return Err(Problem::Brackets);
    }
    text.parse().map_err(|error: AddressError| error.problem())
}

fn pin(query: &str) -> Result<[u8; 32], InviteError> {
    let digits = query.strip_prefix("pin=").and_then(|value| value.strip_prefix(SHA256));
    let digits = digits.ok_or(InviteError::Newer)?;
    parse_hex(digits).ok_or(InviteError::Pin)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// 64 lower-case hexadecimal digits.
fn parse_hex(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    // One spelling only.
    (hex(&bytes) == digits).then_some(bytes)
}

/// The name for which a pinned client asks in its TLS handshake (SNI, RFC 6066), so that a relay with several
/// certificates presents the pinned one: two labels of 32 digits each, under a domain that nobody has (RFC 6761).
pub fn server_name(pin: &[u8; 32]) -> String {
    let digits = hex(pin);
    let (first, last) = digits.split_at(32);
    format!("{first}.{last}.pin.invalid")
}

/// A text that is no invite: it was not copied whole, or is for a newer program. Never shows the text, which
/// may hold a token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InviteError {
    /// It begins otherwise.
    Scheme,
    /// It has a character that no invite has.
    Character,
    /// No name and token before the host.
    NoIdentity,
    /// The name or the token is none.
    Identity(IdentityError),
    /// The host or the port is none. Says what is wrong.
    Address(Box<str>),
    /// It says something that this program does not know, and must not leave out.
    Newer,
    /// The pin has not the digits that it must have.
    Pin,
}

impl fmt::Display for InviteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = match self {
            Self::Newer => {
                return f.write_str("the invite was made by a newer relay: use a newer version of this program");
            }
            Self::Scheme => "it does not begin with relay://",
            Self::Character => "it has a blank or another character that no invite has",
            Self::NoIdentity => "NAME:TOKEN@ is missing before the host",
            Self::Identity(error) => &error.to_string(),
            Self::Address(problem) => problem,
            Self::Pin => "the pin has not 64 digits of 0-9 and a-f",
        };
        write!(f, "not a whole invite, copy it again: {problem}")
    }
}

impl std::error::Error for InviteError {}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    const PIN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn every_form_is_understood() {
        for (host, shown, pinned) in [
            ("vps.example", "vps.example:7000", true),
            ("vps.example:1", "vps.example:1", false),
            ("192.0.2.1:443", "192.0.2.1:443", true),
            ("[2001:db8::1]", "[2001:db8::1]:7000", true),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535", false),
        ] {
            let pin = if pinned { format!("?pin=sha256-{PIN}") } else { String::new() };
            let url = format!("relay://laptop:{TOKEN}@{host}{pin}");
            let whole = format!("relay://laptop:{TOKEN}@{shown}{pin}");
            for pasted in [url.clone(), format!(" \t{url}\r\n"), format!("'{url}'"), format!(" \" {url}\" ")] {
                let invite: Invite = pasted.parse().unwrap();
                assert_eq!(invite.to_string(), whole);
                assert_eq!((invite.name.as_str(), invite.token.expose().as_str()), ("laptop", TOKEN));
                assert_eq!((invite.relay.to_string().as_str(), invite.pin.is_some()), (shown, pinned));
                assert_eq!(whole.parse(), Ok(invite));
            }
        }
    }

    #[test]
    fn what_is_no_invite_is_named_with_its_problem() {
        let address = |problem: Problem| InviteError::Address(problem.to_string().into());
        let identity = InviteError::Identity;
        for (text, error) in [
            (String::new(), InviteError::Scheme),
            ("'".into(), InviteError::Scheme),
            ("vps.example:7000".into(), InviteError::Scheme),
            (format!("RELAY://laptop:{TOKEN}@host"), InviteError::Scheme),
            (format!("''relay://laptop:{TOKEN}@host''"), InviteError::Scheme),
            ("relay://host".into(), InviteError::NoIdentity),
            ("relay://laptop@host".into(), InviteError::NoIdentity),
            (format!("relay://laptop:{TOKEN}"), InviteError::NoIdentity),
            (format!("relay://Laptop:{TOKEN}@host"), identity(IdentityError::Name)),
            (format!("relay://:{TOKEN}@host"), identity(IdentityError::Name)),
            ("relay://laptop:secret@host".into(), identity(IdentityError::Token)),
            (format!("relay://laptop:{TOKEN}=@host"), identity(IdentityError::Token)),
            (format!("relay://laptop:{TOKEN}@"), address(Problem::NoHost)),
            (format!("relay://laptop:{TOKEN}@host:0"), address(Problem::Port)),
            (format!("relay://laptop:{TOKEN}@host/"), address(Problem::Host)),
            (format!("relay://laptop:{TOKEN}@host#x"), address(Problem::Host)),
            (format!("relay://laptop:{TOKEN}@::1"), address(Problem::Brackets)),
            (format!("relay://laptop:{TOKEN}@[host]"), address(Problem::Brackets)),
            (format!("relay://laptop:{TOKEN}@host:1?"), InviteError::Newer),
            (format!("relay://laptop:{TOKEN}@host?via=other"), InviteError::Newer),
            (format!("relay://laptop:{TOKEN}@host?pin=sha512-{PIN}"), InviteError::Newer),
            (format!("relay://laptop:{TOKEN}@host?pin=sha256-{}", &PIN[1..]), InviteError::Pin),
            (format!("relay://laptop:{TOKEN}@host?pin=sha256-{PIN}0"), InviteError::Pin),
            (format!("relay://laptop:{TOKEN}@host?pin=sha256-{}", PIN.to_uppercase()), InviteError::Pin),
            (format!("relay://laptop:{TOKEN}@host?pin=sha256-{PIN}&a=b"), InviteError::Character),
            (format!("relay://lap top:{TOKEN}@host"), InviteError::Character),
            (format!("relay://laptop:{TOKEN}@ho%73t"), InviteError::Character),
            (format!("relay://laptop:{TOKEN}@ho\nst"), InviteError::Character),
            (format!("relay://laptop:{TOKEN}@ho\x1bst"), InviteError::Character),
        ] {
            assert_eq!(text.parse::<Invite>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn no_error_shows_what_was_pasted() {
        let url = format!("relay://laptop:{TOKEN}@vps.example:7000?pin=sha256-{PIN}");
        for at in 0..=url.len() {
            for other in ["", "@", ":", "?", " ", "[", "\x1b"] {
                for rest in [&url[at..], &url[(at + 1).min(url.len())..]] {
                    let mangled = format!("{}{other}{rest}", &url[..at]);
                    let Err(error) = mangled.parse::<Invite>() else { continue };
                    let shown = format!("{error} {error:?}");
                    assert!(![&TOKEN[..8], &TOKEN[35..], &PIN[..8]].iter().any(|part| shown.contains(part)), "{shown}");
                }
            }
        }
        let invite: Invite = url.parse().unwrap();
        assert!(format!("{invite:?}").contains("***") && !format!("{invite:?}").contains(TOKEN));
    }

    #[test]
    fn a_pin_is_asked_for_in_two_labels() {
        let pin = parse_hex(PIN).unwrap();
        assert_eq!(server_name(&pin), "00112233445566778899aabbccddeeff.00112233445566778899aabbccddeeff.pin.invalid");
    }
}
