//! Signatures: who wrote a label or manifest. A chain of hashes shows that nothing was changed in between; only a key that the reader has from
//! elsewhere shows that it was not all written by somebody else.
//!
//! What is signed (Ed25519) is the bytes of the object up to the signature's own digits: volume, epoch, index, medium and the hash of the
//! manifest before stand in them, so that no signed object means anything in another place.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::error::{Error, Result};

/// Bytes of a secret and of a public key.
const KEY_BYTES: usize = 32;
/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;
/// Begins what is signed, so that a signature of ours is none of anything else.
const CONTEXT: &[u8] = b"tapeworm format 7\0";
/// Hexadecimal digits of a fingerprint in a group, and groups.
const FINGERPRINT_GROUP: usize = 4;
const FINGERPRINT_GROUPS: usize = 8;

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// For people to compare: 128 bits of the key's BLAKE3, in groups.
    pub fn fingerprint(&self) -> String {
        let hash = blake3::hash(&self.0).to_hex();
        let groups: Vec<&str> = (0..FINGERPRINT_GROUPS)
            .filter_map(|group| hash.get(group * FINGERPRINT_GROUP..(group + 1) * FINGERPRINT_GROUP))
            .collect();
        groups.join("-")
    }

    /// Whether this key's owner signed the message.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &str) -> bool {
        let Some(bytes) = from_hex::<SIGNATURE_BYTES>(signature) else {
            return false;
        };
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            key.verify_strict(&signed(message), &Signature::from_bytes(&bytes))
                .is_ok()
        })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        from_hex(text.trim())
            .map(Self)
            .ok_or_else(|| format!("a public key has {} hexadecimal digits", KEY_BYTES * 2))
    }
}

/// A secret key, which signs what a recorder writes.
#[derive(Clone)]
pub struct Signer(SigningKey);

impl Signer {
    /// From 32 random bytes.
    pub fn new(secret: &[u8; KEY_BYTES]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// From 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for anything else.
    pub fn from_hex(text: &str) -> Result<Self> {
        from_hex(text.trim())
            .map(|secret| Self::new(&secret))
            .ok_or_else(|| {
                Error::Unsupported(format!("a secret key has {} hexadecimal digits", KEY_BYTES * 2))
            })
    }

    /// The key that its signatures are checked with.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> String {
        to_hex(&self.0.sign(&signed(message)).to_bytes())
    }
}

/// What is signed for a message: its hash, in our context.
fn signed(message: &[u8]) -> Vec<u8> {
    [CONTEXT, blake3::hash(message).as_bytes()].concat()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_and_the_message_that_were_signed_fit() {
        let signer = Signer::new(&[7; KEY_BYTES]);
        let signature = signer.sign(b"message");
        let key = signer.public_key();
        assert!(key.has_signed(b"message", &signature));
        assert!(!key.has_signed(b"messagf", &signature));
        assert!(
            !Signer::new(&[8; KEY_BYTES])
                .public_key()
                .has_signed(b"message", &signature)
        );
        for bad in [
            "",
            "zz",
            &signature[1..],
            &signature.replace(&signature[..2], "00"),
        ] {
            assert!(!key.has_signed(b"message", bad), "{bad}");
        }
    }

    #[test]
    fn keys_are_text_and_back() {
        let key = Signer::new(&[7; KEY_BYTES]).public_key();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!("12".parse::<PublicKey>().is_err());
        assert_eq!(
            key.fingerprint().len(),
            FINGERPRINT_GROUPS * (FINGERPRINT_GROUP + 1) - 1
        );
    }
}
