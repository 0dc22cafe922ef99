//! The last field of label and manifest: the hash of all that stands before it, so that no byte of either can change unseen. The chain
//! cannot do that for the newest manifest, and nothing is chained to a label.

use serde::Serialize;

use crate::sign::Signer;

/// What stands before the hash.
const BEFORE: &[u8] = b"\n  \"check\": \"";
/// What stands after it.
const AFTER: &[u8] = b"\"\n}\n";
/// Hexadecimal digits of BLAKE3.
const DIGITS: usize = 64;

/// Before the digits of a signature, which stands before the hash where there is one.
const BEFORE_SIGNATURE: &[u8] = b"\n  \"signature\": \"";
/// Between a signature and the hash.
const AFTER_SIGNATURE: &[u8] = b"\",";
/// Hexadecimal digits of a signature.
const SIGNATURE_DIGITS: usize = 128;

/// First format that has the field.
pub(crate) const SINCE_FORMAT: u32 = 5;

/// The bytes to seal. The last field of `value` must be called `check`, and be empty.
pub(crate) fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>, String> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| error.to_string())?;
    bytes.truncate(bytes.len().saturating_sub(b"\"\n}".len()));
    if !bytes.ends_with(BEFORE) {
        return Err("its last field is not `check`".to_owned());
    }
    let hash = blake3::hash(&bytes).to_hex();
    bytes.extend_from_slice(hash.as_bytes());
    bytes.extend_from_slice(AFTER);
    Ok(bytes)
}

/// As [`to_bytes`], signed: the field before `check` must be called `signature`, and be empty.
pub(crate) fn to_signed_bytes(value: &impl Serialize, signer: &Signer) -> Result<Vec<u8>, String> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| error.to_string())?;
    let tail = [AFTER_SIGNATURE, BEFORE, b"\"\n}"].concat();
    bytes.truncate(bytes.len().saturating_sub(tail.len()));
    if !bytes.ends_with(BEFORE_SIGNATURE) {
        return Err("the field before its last is not `signature`".to_owned());
    }
    let signature = signer.sign(&bytes);
    bytes.extend_from_slice(signature.as_bytes());
    bytes.extend_from_slice(AFTER_SIGNATURE);
    bytes.extend_from_slice(BEFORE);
    let hash = blake3::hash(&bytes).to_hex();
    bytes.extend_from_slice(hash.as_bytes());
    bytes.extend_from_slice(AFTER);
    Ok(bytes)
}

/// What a signature in sound bytes signs; `None` where they have none.
pub(crate) fn signed_part(bytes: &[u8]) -> Option<&[u8]> {
    let tail = SIGNATURE_DIGITS + AFTER_SIGNATURE.len() + BEFORE.len() + DIGITS + AFTER.len();
    let message = bytes.get(..bytes.len().checked_sub(tail)?)?;
    message.ends_with(BEFORE_SIGNATURE).then_some(message)
}

/// Whether the bytes are as they were sealed.
pub(crate) fn is_sound(bytes: &[u8]) -> bool {
    let Some(at) = bytes.len().checked_sub(DIGITS + AFTER.len()) else {
        return false;
    };
    let (head, tail) = bytes.split_at(at);
    let (digits, after) = tail.split_at(DIGITS);
    head.ends_with(BEFORE) && after == AFTER && digits == blake3::hash(head).to_hex().as_bytes()
}

/// Whether the bytes are what their format promises: formats before [`SINCE_FORMAT`] promise nothing, and every later one keeps the field.
/// A format that nobody knows is believed only where the bytes are sound.
pub(crate) fn fits(format: u32, bytes: &[u8]) -> bool {
    (1..SINCE_FORMAT).contains(&format) || is_sound(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Value {
        name: String,
        check: String,
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let value = Value {
            name: "\"check\": \"".to_owned(),
            check: String::new(),
        };
        let sound = to_bytes(&value).unwrap();
        assert!(is_sound(&sound));
        for at in 0..sound.len() {
            assert!(!is_sound(&sound[..at]), "cut at {at}");
            for bit in 0..8 {
                let mut bytes = sound.clone();
                bytes[at] ^= 1 << bit;
                assert!(!is_sound(&bytes), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_value_without_the_field_is_no_value() {
        assert!(to_bytes(&["check"]).is_err());
    }
}
