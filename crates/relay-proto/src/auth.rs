//! How a client proves that it knows its token, without sending it.
//!
//! ```text
//! ClientKey = HMAC(token, "relay/1 client key")          Verifier = SHA-256(ClientKey)
//! Message   = label, name, nonce, binding, each behind its length (two bytes, big-endian)
//! Proof     = ClientKey XOR HMAC(Verifier, Message)
//! ```
//!
//! HMAC is that of RFC 2104 with SHA-256. It is the way of SCRAM (RFC 5802) without the password's stretching,
//! which 256 random bits do not need. The relay turns the proof back into the ClientKey and compares its hash.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::handshake::Id;
use crate::identity::{Name, Token, Verifier, decode, encode, hmac};

/// What the relay asks a client to prove its token over; fresh for each connection, and used once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce([u8; 32]);

/// What ties a proof to the connection: the relay's certificate, or nothing in plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: the connection is plain text.
    None,
    /// SHA-256 of the relay's certificate, whole, in DER.
    Certificate([u8; 32]),
}

impl Binding {
    /// The binding to a certificate in DER.
    pub fn to_certificate(der: &[u8]) -> Self {
        Self::Certificate(Sha256::digest(der).into())
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Certificate(hash) => hash,
        }
    }
}

/// The answer to a nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof([u8; 32]);

/// What both sides know after a proof, and nobody who has only heard it.
#[derive(Clone)]
pub struct SessionKey([u8; 32]);

impl Nonce {
    /// A nonce from a cryptographic generator's bytes.
    pub fn from_random(random: [u8; 32]) -> Self {
        Self(random)
    }
}

fn message(label: &str, fields: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::new();
    for field in [label.as_bytes()].iter().chain(fields) {
        // Names, nonces and ids are shorter than a line.
        message.extend_from_slice(&u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes());
        message.extend_from_slice(field);
    }
    message
}

fn question(name: &Name, nonce: &Nonce, binding: &Binding) -> Vec<u8> {
    message("relay/1 proof", &[name.as_str().as_bytes(), &nonce.0, binding.bytes()])
}

fn xor(mut left: [u8; 32], right: [u8; 32]) -> [u8; 32] {
    left.iter_mut().zip(right).for_each(|(left, right)| *left ^= right);
    left
}

impl Token {
    /// Proves the token for that name, nonce and connection.
    pub fn prove(&self, name: &Name, nonce: &Nonce, binding: &Binding) -> Proof {
        Proof(xor(self.client_key(), hmac(&self.verifier().0, &question(name, nonce, binding))))
    }

    /// What the relay and this client both know after the proof.
    pub fn session_key(&self, name: &Name, nonce: &Nonce, binding: &Binding) -> SessionKey {
        SessionKey::new(&self.client_key(), &question(name, nonce, binding))
    }
}

impl Verifier {
    /// Checks a proof, in the same time whatever is wrong with it. `None` when it is not right.
    pub fn check(&self, name: &Name, nonce: &Nonce, binding: &Binding, proof: &Proof) -> Option<SessionKey> {
        let question = question(name, nonce, binding);
        let key = xor(proof.0, hmac(&self.0, &question));
        let right: bool = Sha256::digest(key)[..].ct_eq(&self.0).into();
        right.then(|| SessionKey::new(&key, &question))
    }
}

impl SessionKey {
    fn new(client_key: &[u8; 32], question: &[u8]) -> Self {
        Self(hmac(client_key, &message("relay/1 session", &[question])))
    }

    /// What goes with an id in plain text, so that only the one it was given to can use it. `count` makes each one
    /// different: the relay takes none twice.
    pub fn seal(&self, id: &Id, count: u64) -> Proof {
        Proof(hmac(&self.0, &message("relay/1 id", &[id.to_string().as_bytes(), &count.to_be_bytes()])))
    }

    /// Whether a seal is that of this id and count, in constant time.
    pub fn is_seal(&self, id: &Id, count: u64, seal: &Proof) -> bool {
        self.seal(id, count).0.ct_eq(&seal.0).into()
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

/// Both are 43 characters on the wire.
macro_rules! text {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&encode(&self.0))
            }
        }

        impl FromStr for $type {
            type Err = NotBase64;

            fn from_str(text: &str) -> Result<Self, NotBase64> {
                decode(text).map(Self).ok_or(NotBase64)
            }
        }
    };
}

text!(Nonce);
text!(Proof);

/// A text that is not 32 bytes in base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotBase64;

impl fmt::Display for NotBase64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not 43 characters of base64url")
    }
}

impl std::error::Error for NotBase64 {}
