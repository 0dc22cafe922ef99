//! Where sealed things go: sequential append, and nothing else.
//!
//! The interface has no rename, no rewrite and no delete, so that tapes, discs and buckets fit behind it. It knows nothing of
//! segments or manifests: an object is a name and bytes. Nothing outside this module creates, syncs or renames files on a medium.

mod dir;
pub mod disk;
pub mod faults;
pub mod memory;

pub use dir::DirStore;

use std::io;

use bytes::Bytes;

use crate::error::{Error, Result};

/// Longest object name in bytes.
const OBJECT_NAME_BYTES_MAX: usize = 200;

/// Bytes copied at once.
const COPY_BUFFER_BYTES: usize = 1 << 20;

/// Bytes read at once to be hashed.
const HASH_BUFFER_BYTES: usize = 1 << 20;

/// One sealed object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectInfo {
    /// Name: components separated by '/'.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// How an object is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Bytes.
    Plain,
    /// A program that can be run from the medium, where the medium knows such a thing.
    Executable,
}

/// A medium that objects are written to once and read from.
pub trait Store: Send + Sync {
    /// Begins an object. It does not exist for [`Store::list`] and [`Store::open`] until it is sealed.
    ///
    /// # Errors
    /// `AlreadyExists` where a sealed object has the name, `InvalidInput` for a name that is none, or what the system says.
    fn create(&self, name: &str, kind: ObjectKind) -> io::Result<Box<dyn Append>>;

    /// All sealed objects, sorted by name. Foreign files are listed too; their names tell.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<ObjectInfo>>;

    /// Opens a sealed object.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>>;

    /// Makes durable what bears the name of a sealed object, and lets go of what is cached of it: whoever sealed it may have died before it
    /// could tell, and what is read next is what the medium holds.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn make_durable(&self, name: &str) -> io::Result<()>;

    /// Bytes that still fit, where the medium can tell.
    ///
    /// # Errors
    /// What the system says.
    fn bytes_free(&self) -> io::Result<Option<u64>>;

    /// How to name this medium in messages.
    fn describe(&self) -> String;
}

/// An object being written. Dropped without [`Append::seal`], it never was.
pub trait Append: io::Write + Send {
    /// Makes the object durable and immutable, and reads it back; when this returns, a power cut does not take it away.
    ///
    /// # Errors
    /// What the system says. The object may exist all the same, where only its name could not be made durable.
    fn seal(self: Box<Self>) -> io::Result<()>;
}

/// A sealed object, read at any place.
pub trait ReadAt: Send + Sync {
    /// Size in bytes.
    fn bytes(&self) -> u64;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end, or what the system says.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Some bytes from `offset`; without a copy where they are in memory.
    ///
    /// # Errors
    /// As [`ReadAt::read_exact_at`].
    fn read_bytes(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let is_within = offset
            .checked_add(length as u64)
            .is_some_and(|end| end <= self.bytes());
        if !is_within {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut buffer = vec![0; length];
        self.read_exact_at(&mut buffer, offset)?;
        Ok(buffer.into())
    }

    /// How many bytes from `offset` on may be asked for at once.
    fn run(&self, offset: u64) -> u64 {
        self.bytes().saturating_sub(offset)
    }
}

/// What became of an object that was to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// It was written: so many bytes.
    Now(u64),
    /// It was there already.
    There,
    /// Another object has the name there, and stays.
    Another,
}

/// Copies a sealed object from one medium to another, under its name. With `sealed`, the BLAKE3 of its bytes, they are compared with that in the
/// same pass, before they get their name; so is what is there already, which is made durable: whoever put it there may have died before it could
/// tell. Without, what is there already stays as it is. `go_on` is asked time and again, and ends it.
///
/// # Errors
/// [`Error::Integrity`] where what is read is not what was sealed. Of reading with what is read named, so that a medium that is full is told from
/// one that cannot be read; [`Error::Io`] of the kind `Interrupted` where it is not to go on.
pub fn copy(
    name: &str,
    from: &dyn Store,
    to: &dyn Store,
    sealed: Option<&str>,
    go_on: &dyn Fn() -> bool,
) -> Result<Copied> {
    let reading = |error| Error::io(format!("read {name} on {}", from.describe()), error);
    let writing = |error| Error::io(format!("write {name} on {}", to.describe()), error);
    let source = from.open(name).map_err(reading)?;
    let mut object = match to.create(name, ObjectKind::Plain) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return match sealed {
                None => Ok(Copied::There),
                Some(sealed) => compare(name, to, sealed),
            };
        }
        object => object.map_err(writing)?,
    };
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut offset = 0;
    while offset < source.bytes() {
        if !go_on() {
            return Err(reading(io::ErrorKind::Interrupted.into()));
        }
        let length = usize::try_from(source.bytes() - offset)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let piece = &mut buffer[..length];
        source.read_exact_at(piece, offset).map_err(reading)?;
        hasher.update(piece);
        object.write_all(piece).map_err(writing)?;
        offset += length as u64;
    }
    if sealed.is_some_and(|sealed| *hasher.finalize().to_hex() != *sealed) {
        return Err(Error::Integrity(format!(
            "{name} on {} is not what was sealed (BLAKE3 differs): it is not copied",
            from.describe()
        )));
    }
    object.seal().map_err(writing)?;
    Ok(Copied::Now(source.bytes()))
}

/// Whether what bears the name on a medium is what was sealed.
fn compare(name: &str, on: &dyn Store, sealed: &str) -> Result<Copied> {
    let context = |error| Error::io(format!("compare {name} on {}", on.describe()), error);
    on.make_durable(name).map_err(context)?;
    let found = on.open(name).and_then(|object| hash(&*object)).map_err(context)?;
    Ok(if found == sealed {
        Copied::There
    } else {
        Copied::Another
    })
}

/// BLAKE3 of a sealed object, hexadecimal.
pub(crate) fn hash(object: &dyn ReadAt) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![
        0;
        usize::try_from(object.bytes())
            .map_or(HASH_BUFFER_BYTES, |bytes| bytes.min(HASH_BUFFER_BYTES))
    ];
    let mut offset = 0;
    while offset < object.bytes() {
        let length = usize::try_from(object.bytes() - offset)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        object.read_exact_at(&mut buffer[..length], offset)?;
        hasher.update(&buffer[..length]);
        offset += length as u64;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Refuses names that could mean something to a directory: empty or dotted components, absolute paths, odd characters.
fn check_name(name: &str) -> io::Result<()> {
    let component = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    if name.len() <= OBJECT_NAME_BYTES_MAX && name.split('/').all(component) && name.split('/').count() <= 2 {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} cannot name an object"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "", ".", "..", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a\0b", "a b", "a/b/c",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("volume-1/0000000001.parquet").is_ok());
    }
}
