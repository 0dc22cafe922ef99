//! Encryption: what a segment says, for those only who hold one of the identities that it is encrypted to.
//!
//! Each segment has a key of its own, made for it and forgotten with it; its manifest holds it, encrypted with age to the recipients. So whoever
//! writes needs public keys only. Each part of a segment (a row group's metadata, its data, the footer) is encrypted by itself with
//! ChaCha20-Poly1305 and stands where it would stand otherwise, longer by [`TAG_BYTES`]: a plan is made without touching the data here, too, and
//! hashes, signatures, copies and what an index carries are of the encrypted bytes, which takes no key.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use age::secrecy::ExposeSecret as _;
use age::x25519;
use chacha20poly1305::aead::{AeadInPlace as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// By how much a part is longer for being encrypted: what shows that nobody changed it.
pub(crate) const TAG_BYTES: u64 = 16;
/// Bytes of a segment's key.
const KEY_BYTES: usize = 32;
/// Begins what a part is bound to.
const CONTEXT: &[u8] = b"tapeworm format 7 part\0";
/// Recipients that a segment is encrypted to at most: their stanzas stand in every manifest.
const RECIPIENTS_MAX: usize = 32;

/// How a segment is encrypted; stands in its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// Who can read it: age recipients.
    pub recipients: Vec<String>,
    /// The segment's key, encrypted to them: an armored age file of 32 bytes.
    pub key: String,
}

/// Whom segments are encrypted to.
#[derive(Clone)]
pub struct Recipients(Arc<Vec<x25519::Recipient>>);

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Recipients {
    /// From age recipients as `age-keygen` prints them (`age1...`).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what is none, for none at all, and for too many.
    pub fn parse(texts: &[String]) -> Result<Self> {
        if texts.is_empty() || texts.len() > RECIPIENTS_MAX {
            return Err(Error::Unsupported(format!(
                "{} recipients: 1 to {RECIPIENTS_MAX} are possible",
                texts.len()
            )));
        }
        texts
            .iter()
            .map(|text| {
                text.trim().parse().map_err(|why| {
                    Error::Unsupported(format!("{text:?} is no age recipient (age1...): {why}"))
                })
            })
            .collect::<Result<Vec<_>>>()
            .map(|recipients| Self(Arc::new(recipients)))
    }

    /// As they are written.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    fn encrypt(&self, key: &[u8; KEY_BYTES]) -> std::result::Result<String, String> {
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).map_err(|error| error.to_string())?;
        let write = || {
            let armored = age::armor::ArmoredWriter::wrap_output(Vec::new(), age::armor::Format::AsciiArmor)?;
            let mut stream = encryptor.wrap_output(armored)?;
            stream.write_all(key)?;
            stream.finish()?.finish()
        };
        let bytes = write().map_err(|error| error.to_string())?;
        String::from_utf8(bytes).map_err(|error| error.to_string())
    }
}

/// Secrets that encrypted segments are read with; by default none.
#[derive(Clone, Default)]
pub struct Identities(Arc<Vec<x25519::Identity>>);

impl fmt::Debug for Identities {
    /// Whose they are: secrets are not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.recipients()).finish()
    }
}

impl Identities {
    /// From the text of identity files, as `age-keygen` writes them: one `AGE-SECRET-KEY-1...` on a line, lines that begin with `#` say nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a line that is none, and where there is none.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim);
        let identities = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                // The line may be a secret that was cut off: it is not repeated.
                line.parse::<x25519::Identity>()
                    .map_err(|why| Error::Unsupported(format!("a line is no age identity: {why}")))
            })
            .collect::<Result<Vec<_>>>()?;
        if identities.is_empty() {
            return Err(Error::Unsupported("there is no age identity in it".to_owned()));
        }
        Ok(Self(Arc::new(identities)))
    }

    /// One that nobody has yet: the text of its identity file.
    pub fn generate() -> String {
        let identity = x25519::Identity::generate();
        let secret = identity.to_string();
        format!(
            "# public key: {}\n{}\n",
            identity.to_public(),
            secret.expose_secret()
        )
    }

    /// Those and others.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        Self(Arc::new(self.0.iter().chain(others.0.iter()).cloned().collect()))
    }

    /// Whom to encrypt to, so that these can read it.
    pub fn recipients(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|identity| identity.to_public().to_string())
            .collect()
    }

    /// The key that a manifest holds.
    fn decrypt(&self, encryption: &Encryption) -> std::result::Result<[u8; KEY_BYTES], age::DecryptError> {
        let armored = age::armor::ArmoredReader::new(encryption.key.as_bytes());
        let identities = self.0.iter().map(|identity| identity as &dyn age::Identity);
        let mut stream = age::Decryptor::new(armored)?.decrypt(identities)?;
        let mut key = [0; KEY_BYTES];
        stream.read_exact(&mut key)?;
        Ok(key)
    }
}

/// Where a segment stands: its key is bound to that.
pub(crate) struct Place<'a> {
    pub(crate) volume: &'a str,
    pub(crate) chain: &'a str,
    pub(crate) epoch: u64,
    pub(crate) index: u64,
}

impl Place<'_> {
    fn context(&self) -> Vec<u8> {
        let Self {
            volume,
            chain,
            epoch,
            index,
        } = self;
        [
            CONTEXT,
            volume.as_bytes(),
            b"\0",
            chain.as_bytes(),
            b"\0",
            &epoch.to_le_bytes(),
            &index.to_le_bytes(),
        ]
        .concat()
    }
}

/// The key of one segment.
pub(crate) struct SegmentKey {
    cipher: ChaCha20Poly1305,
    context: Vec<u8>,
}

impl SegmentKey {
    /// Makes a key, and what its manifest says of it.
    pub(crate) fn make(recipients: &Recipients, place: &Place<'_>) -> Result<(Self, Encryption)> {
        let mut key = [0; KEY_BYTES];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut key))
            .map_err(|error| Error::io("read random numbers", error))?;
        let encrypted = recipients
            .encrypt(&key)
            .map_err(|why| Error::Unsupported(format!("encrypt a segment's key: {why}")))?;
        let encryption = Encryption {
            recipients: recipients.names(),
            key: encrypted,
        };
        Ok((Self::new(&key, place), encryption))
    }

    /// The key of a segment whose manifest says so.
    ///
    /// # Errors
    /// [`Error::KeyNeeded`] where none of the identities fits, [`Error::Integrity`] where nothing can.
    pub(crate) fn find(identities: &Identities, encryption: &Encryption, place: &Place<'_>) -> Result<Self> {
        match identities.decrypt(encryption) {
            Ok(key) => Ok(Self::new(&key, place)),
            Err(age::DecryptError::NoMatchingKeys) => {
                let given = if identities.0.is_empty() {
                    "no identity was given"
                } else {
                    "none of the identities given is one of theirs"
                };
                Err(Error::KeyNeeded(format!(
                    "it is encrypted to {}, and {given}",
                    encryption.recipients.join(", ")
                )))
            }
            Err(error) => Err(Error::Integrity(format!("its key cannot be read: {error}"))),
        }
    }

    fn new(key: &[u8; KEY_BYTES], place: &Place<'_>) -> Self {
        Self {
            cipher: ChaCha20Poly1305::new(Key::from_slice(key)),
            context: place.context(),
        }
    }

    /// Encrypts a part in place; what it returns comes after it.
    pub(crate) fn encrypt(&self, part: usize, bytes: &mut [u8]) -> Result<[u8; TAG_BYTES as usize]> {
        self.cipher
            .encrypt_in_place_detached(&nonce(part), &self.context, bytes)
            .map(Into::into)
            .map_err(|_| Error::Integrity("a part of a segment is too long to be encrypted".to_owned()))
    }

    /// Decrypts a part in place, and takes off what came after it; `None` where it is not what was encrypted.
    pub(crate) fn decrypt(&self, part: usize, bytes: &mut Vec<u8>) -> Option<()> {
        let length = bytes.len().checked_sub(TAG_BYTES as usize)?;
        let (encrypted, tag) = bytes.split_at_mut(length);
        self.cipher
            .decrypt_in_place_detached(&nonce(part), &self.context, encrypted, Tag::from_slice(tag))
            .ok()?;
        bytes.truncate(length);
        Some(())
    }
}

/// No key encrypts two parts of one number: each segment has its own.
fn nonce(part: usize) -> Nonce {
    let mut nonce = Nonce::default();
    nonce[..8].copy_from_slice(&(part as u64).to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place {
        volume: "volume",
        chain: "chain",
        epoch: 1,
        index: 2,
    };

    fn pair() -> (Recipients, Identities) {
        let identities = Identities::parse(&Identities::generate()).unwrap();
        (Recipients::parse(&identities.recipients()).unwrap(), identities)
    }

    #[test]
    fn only_a_recipient_reads_a_part_and_only_where_it_stood() {
        let (recipients, identities) = pair();
        let (key, encryption) = SegmentKey::make(&recipients, &PLACE).unwrap();
        let mut part = b"content".to_vec();
        let tag = key.encrypt(3, &mut part).unwrap();
        part.extend(tag);
        assert!(!part.windows(7).any(|window| window == b"content"));

        let found = SegmentKey::find(&identities, &encryption, &PLACE).unwrap();
        let mut again = part.clone();
        found.decrypt(3, &mut again).unwrap();
        assert_eq!(again, b"content");

        assert!(found.decrypt(4, &mut part.clone()).is_none(), "another part");
        let elsewhere = Place { index: 3, ..PLACE };
        let moved = SegmentKey::find(&identities, &encryption, &elsewhere).unwrap();
        assert!(moved.decrypt(3, &mut part.clone()).is_none(), "another segment");
        let mut altered = part.clone();
        altered[0] ^= 1;
        assert!(found.decrypt(3, &mut altered).is_none(), "another content");
        assert!(found.decrypt(3, &mut part[..10].to_vec()).is_none(), "cut off");
    }

    #[test]
    fn whoever_is_no_recipient_is_told_so() {
        let (recipients, _) = pair();
        let (_, other) = pair();
        let (_, mut encryption) = SegmentKey::make(&recipients, &PLACE).unwrap();
        for identities in [Identities::default(), other] {
            let refused = SegmentKey::find(&identities, &encryption, &PLACE).err().unwrap();
            assert!(matches!(refused, Error::KeyNeeded(_)), "{refused}");
            assert!(refused.to_string().contains(&recipients.names()[0]));
        }
        encryption.key.truncate(100);
        let broken = SegmentKey::find(&Identities::default(), &encryption, &PLACE);
        assert!(matches!(broken, Err(Error::Integrity(_))));
    }

    #[test]
    fn keys_are_text_and_back() {
        assert!(Recipients::parse(&[]).is_err());
        assert!(Recipients::parse(&["age1no".to_owned()]).is_err());
        assert!(Identities::parse("# nothing\n").is_err());
        let wrong = Identities::parse("AGE-SECRET-KEY-1SECRET").err().unwrap();
        assert!(!wrong.to_string().contains("SECRET"), "{wrong}");
        let (_, one) = pair();
        let (_, other) = pair();
        assert_eq!(one.and(&other).recipients().len(), 2);
    }
}
