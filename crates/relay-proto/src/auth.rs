//! How a client proves that it knows its token, without sending it.
//!
//! ```text
//! ClientKey = HMAC(token, "relay/1 client key")          Verifier = SHA-256(ClientKey)
//! Message   = label, name, nonce, binding, each behind its length (two bytes, big-endian)
//! Proof     = ClientKey XOR HMAC(Verifier, Message)
//! ```
//!
//! HMAC is that of RFC 2104 with SHA-256. It is the way of SCRAM (RFC 5802) without the password's stretching,
//! which 256 random bits do not need. The relay turns the proof back into the `ClientKey` and compares its hash.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invite::hex;

    /// What docs/PROTOCOL.md publishes; made by another program, in Python.
    const SPECIFICATION: &str = include_str!("../../../docs/PROTOCOL.md");
    const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    const NONCE: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8";
    const ID: &str = "2C624232CC5D4A1B8F0E93A6D7C0B1E4";

    fn name() -> Name {
        "laptop".parse().unwrap()
    }

    fn token() -> Token {
        TOKEN.parse().unwrap()
    }

    fn nonce() -> Nonce {
        NONCE.parse().unwrap()
    }

    #[test]
    fn every_value_is_as_published() {
        let published = |name: &str, value: &str| {
            let row = format!("| {name} | `{value}` |");
            assert!(SPECIFICATION.contains(&row), "{row}");
        };
        published("token", TOKEN);
        published("nonce", NONCE);
        published("ClientKey", &hex(&token().client_key()));
        published("Verifier", &hex(&token().verifier().0));
        let id = Id::parse(ID).unwrap();
        for (case, binding) in [("TLS", Binding::to_certificate(b"certificate")), ("plain text", Binding::None)] {
            let question = question(&name(), &nonce(), &binding);
            let key = token().session_key(&name(), &nonce(), &binding);
            published(&format!("Message, {case}"), &hex(&question));
            published(&format!("HMAC, {case}"), &hex(&hmac(&token().verifier().0, &question)));
            published(&format!("Proof, {case}"), &token().prove(&name(), &nonce(), &binding).to_string());
            published(&format!("SessionKey, {case}"), &hex(&key.0));
            if binding == Binding::None {
                published("Seal, count 1", &key.seal(&id, 1).to_string());
                published("Seal, count 2", &key.seal(&id, 2).to_string());
            }
        }
    }

    #[test]
    fn a_proof_is_right_for_what_it_was_made_for_alone() {
        let tls = Binding::to_certificate(b"certificate");
        let proof = token().prove(&name(), &nonce(), &tls);
        let verifier = token().verifier();
        let right = |name: &str, nonce: &Nonce, binding: &Binding, proof: &Proof| {
            verifier.check(&name.parse().unwrap(), nonce, binding, proof).is_some()
        };
        assert!(right("laptop", &nonce(), &tls, &proof));
        assert!(!right("laptops", &nonce(), &tls, &proof));
        assert!(!right("laptop", &Nonce::from_random([0; 32]), &tls, &proof));
        assert!(!right("laptop", &nonce(), &Binding::None, &proof));
        assert!(!right("laptop", &nonce(), &Binding::to_certificate(b"another"), &proof));
        for bit in 0..256 {
            let mut wrong = proof.clone();
            wrong.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!right("laptop", &nonce(), &tls, &wrong), "{bit}");
        }
        for other in [Token::from_random([0; 32]).verifier(), Verifier::decoy([0; 32])] {
            assert!(other.check(&name(), &nonce(), &tls, &proof).is_none());
        }
    }

    /// The message has no second reading: what ends one field cannot begin the next.
    #[test]
    fn fields_do_not_run_into_each_other() {
        assert_ne!(message("a", &[b"bc", b"d"]), message("a", &[b"b", b"cd"]));
        assert_ne!(message("a", &[b"b"]), message("ab", &[]));
    }

    #[test]
    fn both_sides_have_the_same_key_and_a_seal_is_of_one_id_and_count() {
        let client = token().session_key(&name(), &nonce(), &Binding::None);
        let proof = token().prove(&name(), &nonce(), &Binding::None);
        let relay = token().verifier().check(&name(), &nonce(), &Binding::None, &proof).unwrap();
        let id = Id::from_random(1);
        let seal = client.seal(&id, 7);
        assert!(relay.is_seal(&id, 7, &seal));
        assert!(!relay.is_seal(&id, 8, &seal) && !relay.is_seal(&Id::from_random(2), 7, &seal));
        let another = token().session_key(&name(), &Nonce::from_random([0; 32]), &Binding::None);
        assert!(!another.is_seal(&id, 7, &seal));
        for bit in 0..256 {
            let mut wrong = seal.clone();
            wrong.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!relay.is_seal(&id, 7, &wrong), "{bit}");
        }
        assert_eq!(format!("{relay:?}"), "SessionKey(…)");
    }

    #[test]
    fn nonces_and_proofs_have_one_spelling() {
        let proof = token().prove(&name(), &nonce(), &Binding::None);
        assert_eq!(proof.to_string().parse(), Ok(proof));
        assert_eq!(nonce().to_string(), NONCE);
        for bad in ["", &NONCE[1..], &format!("{NONCE}A"), &NONCE.replace('8', "9"), &"=".repeat(43)] {
            assert_eq!((bad.parse::<Nonce>(), bad.parse::<Proof>()), (Err(NotBase64), Err(NotBase64)), "{bad}");
        }
    }
}
