//! A segment's object that gives out nothing that is not what was sealed: each part of it (footer, a row group's metadata, its data) is read
//! as a whole and compared with its hash the first time any of it is wanted. So a plan is made without touching the data.

use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

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
    start: u64,
    end: u64,
    blake3: String,
}

/// An object whose parts are compared as they are read.
pub(crate) struct Sealed {
    object: Box<dyn ReadAt>,
    bytes: u64,
    /// In order, without gaps.
    parts: Vec<Part>,
    /// Parts that were read and are sound: by kind, the index and the bytes.
    kept: Mutex<[Option<(usize, Bytes)>; 3]>,
}

impl Sealed {
    /// The parts that a manifest tells of; `None` where its format has none.
    pub(crate) fn new(object: Box<dyn ReadAt>, manifest: &Manifest) -> Option<Self> {
        let footer = manifest.footer_blake3.clone()?;
        let mut parts = Vec::with_capacity(manifest.row_groups.len() * 2 + 1);
        let mut at = 0;
        for group in &manifest.row_groups {
            let hashes = group.parts.as_ref()?;
            let (data, end) = (group.offset + hashes.metadata_bytes, group.offset + group.bytes);
            parts.push(Part {
                kind: Kind::Metadata,
                start: group.offset,
                end: data,
                blake3: hashes.metadata_blake3.clone(),
            });
            parts.push(Part {
                kind: Kind::Data,
                start: data,
                end,
                blake3: hashes.data_blake3.clone(),
            });
            at = end;
        }
        parts.push(Part {
            kind: Kind::Footer,
            start: at,
            end: manifest.bytes,
            blake3: footer,
        });
        Some(Self {
            object,
            bytes: manifest.bytes,
            parts,
            kept: Mutex::default(),
        })
    }

    /// The part that a byte is in.
    fn part(&self, offset: u64) -> Option<(usize, &Part)> {
        let index = self.parts.partition_point(|part| part.end <= offset);
        self.parts.get(index).map(|part| (index, part))
    }

    fn load(&self, part: &Part) -> io::Result<Bytes> {
        let found = self.object.bytes();
        if found != self.bytes {
            return Err(altered(format!(
                "the file has {found} bytes, {} were sealed",
                self.bytes
            )));
        }
        let length = usize::try_from(part.end - part.start)
            .map_err(|_| altered("it is larger than memory".to_owned()))?;
        let mut bytes = vec![0; length];
        self.object.read_exact_at(&mut bytes, part.start)?;
        if *blake3::hash(&bytes).to_hex() != *part.blake3 {
            let Part { kind, start, end, .. } = part;
            return Err(altered(format!(
                "bytes {start} to {end} are not what was sealed (BLAKE3 of the {} differs)",
                kind.name()
            )));
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
        self.bytes
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
                &mut kept.insert((index, self.load(part)?)).1
            }
        };
        // Within the part, so within memory.
        let start = (offset - part.start) as usize;
        Ok(bytes.slice(start..start + length))
    }
}
