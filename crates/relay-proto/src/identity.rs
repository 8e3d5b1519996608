//! Who a client is: a name, and a token that only it knows.
//!
//! The relay keeps a [`Verifier`], from which the token cannot be had: it can tell that a proof is right, but
//! not make one. How a proof comes about is in [`auth`](crate::auth).

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What an identity is called: a letter or digit, then up to 62 more, dots, dashes and underscores; lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// The longest name, in bytes.
    pub const MAX: usize = 63;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let first = text.bytes().next().is_some_and(alphanumeric);
        let rest = text.bytes().all(|byte| alphanumeric(byte) || matches!(byte, b'.' | b'_' | b'-'));
        if first && rest && text.len() <= Self::MAX { Ok(Self(text.into())) } else { Err(IdentityError::Name) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 32 secret bytes as 43 characters of base64url without padding (RFC 4648, section 5).
pub(crate) fn encode(bytes: &[u8; 32]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

pub(crate) fn decode(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    // A shorter text would leave zeros, and the last character has bits that must be none.
    let decoded = Base64UrlUnpadded::decode(text, &mut bytes).ok()?.len();
    (decoded == bytes.len() && encode(&bytes) == text).then_some(bytes)
}

pub(crate) fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    // No length of key is refused.
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap_or_else(|_| unreachable!());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The secret of an identity: 256 random bits. Shown as stars by `Debug`; [`expose`](Self::expose) gives its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// A token from a cryptographic generator's bytes.
    pub fn from_random(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The token's text, 43 characters, for the one who is to have it.
    pub fn expose(&self) -> String {
        encode(&self.0)
    }

    /// What proves the token without being it.
    pub(crate) fn client_key(&self) -> [u8; 32] {
        hmac(&self.0, b"relay/1 client key")
    }

    /// What a relay keeps of it.
    pub fn verifier(&self) -> Verifier {
        Verifier(Sha256::digest(self.client_key()).into())
    }
}

impl FromStr for Token {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        decode(text).map(Self).ok_or(IdentityError::Token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a relay keeps of a token: enough to check a proof, of no use to make one.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier(pub(crate) [u8; 32]);

impl Verifier {
    /// A verifier that no token has, from random bytes: to spend the same time on a name that does not exist.
    pub fn decoy(random: [u8; 32]) -> Self {
        Self(random)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl FromStr for Verifier {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        decode(text).map(Self).ok_or(IdentityError::Verifier)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(…)")
    }
}

/// A text that is not what it should be. Never shows it: it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not a [`Name`].
    Name,
    /// Not a [`Token`].
    Token,
    /// Not a [`Verifier`].
    Verifier,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "a name has 1 to 63 of a-z, 0-9, dot, dash and underscore, and begins with a letter or digit",
            Self::Token => "a token has 43 characters of A-Z, a-z, 0-9, dash and underscore",
            Self::Verifier => "a verifier has 43 characters of A-Z, a-z, 0-9, dash and underscore",
        })
    }
}

impl std::error::Error for IdentityError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_the_url_needs_them() {
        for good in ["a", "0", "laptop", "a.b_c-d", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", ".a", "-a", "_a", "A", "a b", "a/b", "a:b", "a@b", "ä", "a\n", "a%", &"x".repeat(64)] {
            assert_eq!(bad.parse::<Name>(), Err(IdentityError::Name), "{bad:?}");
        }
    }

    #[test]
    fn a_token_is_43_characters_of_one_spelling() {
        let token = Token::from_random([0xff; 32]);
        let text = token.expose();
        assert_eq!(text, format!("{}8", "_".repeat(42)));
        assert_eq!(text.parse(), Ok(token));
        for bad in [
            "",
            &text[1..],
            &format!("{text}A"),
            &format!("{}9", "_".repeat(42)),
            &"+".repeat(43),
            &format!("{}=", &text[..42]),
        ] {
            assert_eq!(bad.parse::<Token>(), Err(IdentityError::Token), "{bad:?}");
        }
    }

    #[test]
    fn secrets_are_shown_as_stars() {
        let token = Token::from_random([7; 32]);
        assert_eq!(format!("{token:?} {:?}", token.verifier()), "*** Verifier(…)");
    }
}
