//! A segment's object that gives out nothing that is not what was sealed: each part of it (footer, a row group's metadata, its data) is read
//! as a whole and compared with its hash the first time any of it is wanted. So a plan is made without touching the data. What is encrypted is
//! decrypted then: whoever reads here sees plain Parquet.

use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::crypt::{SegmentKey, TAG_BYTES};
use crate::manifest::Manifest;
use crate::store::ReadAt;

/// What a part holds; of each kind one part is kept at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Metadata,
    Data,
    Footer,
}

/// A run of bytes with a hash of its own.
struct Part {
    kind: Kind,
    /// Where it is found by whoever reads.
    start: u64,
    end: u64,
    /// First byte in the object; as long as it is there, it is longer than here if it is encrypted.
    stored_at: u64,
    blake3: String,
}

/// An object whose parts are compared as they are read.
pub(crate) struct Sealed {
    object: Box<dyn ReadAt>,
    /// Of the object, as sealed.
    bytes_stored: u64,
    key: Option<SegmentKey>,
    /// In order, without gaps.
    parts: Vec<Part>,
    /// Parts that were read and are sound: by kind, the index and the bytes.
    kept: Mutex<[Option<(usize, Bytes)>; 3]>,
}

impl Sealed {
    /// The parts that a manifest tells of, decrypted where there is a key; `None` where its format has none.
    pub(crate) fn new(object: Box<dyn ReadAt>, manifest: &Manifest, key: Option<SegmentKey>) -> Option<Self> {
        let footer = manifest.footer_blake3.as_ref()?;
        let tag_bytes = key.as_ref().map_or(0, |_| TAG_BYTES);
        let mut parts: Vec<Part> = Vec::with_capacity(manifest.row_groups.len() * 2 + 1);
        let mut push = |kind, stored_at: u64, stored_end: u64, blake3: &String| {
            let start = parts.last().map_or(0, |part| part.end);
            let end = start + stored_end.checked_sub(stored_at)?.checked_sub(tag_bytes)?;
            parts.push(Part {
                kind,
                start,
                end,
                stored_at,
                blake3: blake3.clone(),
            });
            Some(())
        };
        let mut at = 0;
        for group in &manifest.row_groups {
            let hashes = group.parts.as_ref()?;
            let (data, end) = (group.offset + hashes.metadata_bytes, group.offset + group.bytes);
            push(Kind::Metadata, group.offset, data, &hashes.metadata_blake3)?;
            push(Kind::Data, data, end, &hashes.data_blake3)?;
            at = end;
        }
        push(Kind::Footer, at, manifest.bytes, footer)?;
        Some(Self {
            object,
            bytes_stored: manifest.bytes,
            key,
            parts,
            kept: Mutex::default(),
        })
    }

    /// The part that a byte is in.
    fn part(&self, offset: u64) -> Option<(usize, &Part)> {
        let index = self.parts.partition_point(|part| part.end <= offset);
        self.parts.get(index).map(|part| (index, part))
    }

    fn load(&self, index: usize, part: &Part) -> io::Result<Bytes> {
        let found = self.object.bytes();
        if found != self.bytes_stored {
            return Err(altered(format!(
                "the file has {found} bytes, {} were sealed",
                self.bytes_stored
            )));
        }
        let Part {
            kind,
            start,
            end,
            stored_at,
            blake3,
        } = part;
        let length = end - start + self.key.as_ref().map_or(0, |_| TAG_BYTES);
        let mut bytes =
            vec![0; usize::try_from(length).map_err(|_| altered("it is larger than memory".to_owned()))?];
        self.object.read_exact_at(&mut bytes, *stored_at)?;
        let differs = |how: &str| {
            altered(format!(
                "bytes {stored_at} to {} are not what was sealed ({how} of the {} differs)",
                stored_at + length,
                kind.name()
            ))
        };
        if *blake3::hash(&bytes).to_hex() != **blake3 {
            return Err(differs("BLAKE3"));
        }
        if let Some(key) = &self.key {
            key.decrypt(index, &mut bytes)
                .ok_or_else(|| differs("authentication"))?;
        }
        Ok(bytes.into())
    }
}

fn altered(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Data => "data",
            Self::Footer => "footer",
        }
    }
}

impl ReadAt for Sealed {
    fn bytes(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.end)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.read_bytes(offset, buffer.len())?;
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    fn run(&self, offset: u64) -> u64 {
        self.part(offset).map_or(0, |(_, part)| part.end - offset)
    }

    fn read_bytes(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let (index, part) = self
            .part(offset)
            .filter(|(_, part)| length as u64 <= part.end - offset)
            .ok_or_else(|| {
                altered(format!(
                    "{length} bytes at {offset} are not within one part of it"
                ))
            })?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut kept[part.kind as usize];
        let bytes = match kept {
            Some((of, bytes)) if *of == index => bytes,
            _ => {
                // What was kept goes before its successor comes.
                *kept = None;
                &mut kept.insert((index, self.load(index, part)?)).1
            }
        };
        // Within the part, so within memory.
        let start = (offset - part.start) as usize;
        Ok(bytes.slice(start..start + length))
    }
}
