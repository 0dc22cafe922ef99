//! Segments that a manifest vouches for, and what is left of others. Everything read here comes from outside and is doubted.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::crypt::{Identities, SegmentKey};
use crate::error::{Error, Result};
use crate::index::{Carried, Index};
use crate::label::MediumName;
use crate::manifest::{Manifest, manifest_name};
use crate::record::Record;
use crate::segment::{Data, DataReader, Projection, Sealed, SegmentReader};
use crate::store::{ReadAt, Store};

/// Where a record stands: segment index in the journal, and row in it. Ordered as the journal is. Small, for a fold keeps one for every run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowRef {
    /// Index of the segment.
    pub segment: u32,
    /// Row in the segment.
    pub row: u32,
}

/// A segment that a manifest vouches for.
#[derive(Clone)]
pub struct Segment {
    /// Its manifest.
    pub manifest: Manifest,
    pub(crate) manifest_hash: String,
    store: Arc<dyn Store>,
    /// The medium that it lies on.
    lies_on: MediumName,
    /// Where that medium was not given, and another one carries its metadata: there.
    carried: Option<(Arc<Index>, Carried)>,
    /// Who reads it, where it is encrypted.
    identities: Identities,
    /// What comparing its bytes with the manifest showed, once that is done: `None` if they are what was sealed.
    verdict: Arc<OnceLock<Option<String>>>,
}

impl Segment {
    pub(crate) fn new(
        manifest: Manifest,
        manifest_hash: String,
        store: Arc<dyn Store>,
        lies_on: MediumName,
        identities: &Identities,
    ) -> Self {
        Self {
            manifest,
            manifest_hash,
            store,
            lies_on,
            carried: None,
            identities: identities.clone(),
            verdict: Arc::default(),
        }
    }

    /// One that lies on a medium which was not given, and that an index tells of.
    ///
    /// # Errors
    /// [`Error::Integrity`] where the index has no manifest of ours, [`Error::Io`].
    pub(crate) fn carried(
        index: &Arc<Index>,
        carried: &Carried,
        store: Arc<dyn Store>,
        identities: &Identities,
    ) -> Result<Self> {
        let (manifest, manifest_hash) = index.manifest(carried)?;
        Ok(Self {
            carried: Some((Arc::clone(index), carried.clone())),
            ..Self::new(manifest, manifest_hash, store, carried.medium.clone(), identities)
        })
    }

    /// Whether only its metadata is there: its data lies on a medium that was not given.
    pub fn is_carried(&self) -> bool {
        self.carried.is_some()
    }

    /// Whether both are copies of one segment.
    pub fn is_copy_of(&self, other: &Self) -> bool {
        self.manifest_hash == other.manifest_hash
    }

    /// The medium that it lies on, given or not.
    pub fn lies_on(&self) -> &MediumName {
        &self.lies_on
    }

    fn needs_medium(&self) -> Error {
        Error::MediumNeeded(format!(
            "segment {} of volume {} lies on medium {}: mount it and name it with --medium",
            self.manifest.index, self.manifest.volume.uuid, self.lies_on
        ))
    }

    /// The bytes of its manifest, as sealed.
    ///
    /// # Errors
    /// [`Error::Integrity`] where they changed since they were read first, [`Error::Io`].
    pub fn manifest_bytes(&self) -> Result<Vec<u8>> {
        let bytes = match &self.carried {
            Some((index, carried)) => index.manifest_bytes(carried)?,
            None => {
                let name = manifest_name(&self.manifest.volume.uuid, self.manifest.index);
                let context = |error| Error::io(format!("read {name} on {}", self.medium()), error);
                let object = self.store.open(&name).map_err(context)?;
                let mut bytes = vec![0; usize::try_from(object.bytes()).unwrap_or(0)];
                object.read_exact_at(&mut bytes, 0).map_err(context)?;
                bytes
            }
        };
        if *blake3::hash(&bytes).to_hex() == *self.manifest_hash {
            return Ok(bytes);
        }
        Err(Error::Integrity(
            self.damaged("its manifest is not what it was a moment ago"),
        ))
    }

    /// Hands over its metadata, part by part as [`Manifest::row_groups`] has them, then the footer: as sealed, so encrypted where it is.
    pub(crate) fn each_metadata(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let object = self.open_parts(None)?;
        let mut end = 0;
        let read = |offset: u64, length: u64| {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            object
                .read_bytes(offset, length)
                .map_err(|error| self.unreadable(error))
        };
        for group in &self.manifest.row_groups {
            if let Some(parts) = &group.parts {
                take(&read(group.offset, parts.metadata_bytes)?)?;
            }
            end = group.offset + group.bytes;
        }
        take(&read(end, self.manifest.bytes.saturating_sub(end))?)
    }

    /// Name on its medium.
    pub fn name(&self) -> String {
        self.manifest.segment_name()
    }

    /// The medium it is on.
    pub fn medium(&self) -> String {
        self.store.describe()
    }

    fn unreadable(&self, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::InvalidData {
            Error::Integrity(self.damaged(error))
        } else {
            Error::io(format!("read {}", self.name()), error)
        }
    }

    fn damaged(&self, why: impl fmt::Display) -> String {
        let Manifest {
            index,
            epoch,
            first_seq,
            last_seq,
            ..
        } = &self.manifest;
        let named = format!("segment {index} ({} on {}): {why}", self.name(), self.medium());
        match self.manifest.checkpoint {
            None => format!("{named}; it holds sequence numbers {first_seq} to {last_seq} of epoch {epoch}"),
            Some(of) => format!(
                "{named}; it is of the checkpoint at sequence number {} of epoch {epoch}",
                of.seq
            ),
        }
    }

    /// Compares all of the segment's bytes with what was sealed: they are read once, however often this is asked.
    ///
    /// # Errors
    /// [`Error::Integrity`], naming what the segment holds; [`Error::Io`].
    pub fn check_hash(&self) -> Result<()> {
        if self.is_carried() {
            return Err(self.needs_medium());
        }
        let verdict = match self.verdict.get() {
            Some(verdict) => verdict,
            None => {
                let found = self.find_damage()?;
                self.verdict.get_or_init(|| found)
            }
        };
        match verdict {
            None => Ok(()),
            Some(why) => Err(Error::Integrity(why.clone())),
        }
    }

    /// Whether its bytes were compared, and are not what was sealed.
    pub(crate) fn is_damaged(&self) -> bool {
        self.verdict.get().is_some_and(Option::is_some)
    }

    fn find_damage(&self) -> Result<Option<String>> {
        let object = match self.open() {
            Err(Error::Integrity(why)) => return Ok(Some(why)),
            object => object?,
        };
        let (found, sealed) = (object.bytes(), self.manifest.bytes);
        if found != sealed {
            let why = format!("the file has {found} bytes, {sealed} were sealed");
            return Ok(Some(self.damaged(why)));
        }
        let hash = crate::store::hash(&*object)
            .map_err(|error| Error::io(format!("read {}", self.name()), error))?;
        let same = hash == self.manifest.blake3;
        Ok((!same).then(|| self.damaged("its content is not what was sealed (BLAKE3 differs)")))
    }

    fn open(&self) -> Result<Box<dyn ReadAt>> {
        if let Some((index, carried)) = &self.carried {
            return Ok(index.metadata(carried, &self.manifest));
        }
        self.store.open(&self.name()).map_err(|error| {
            if is_no_object(&error) {
                Error::Integrity(self.damaged(NO_FILE))
            } else {
                Error::io(format!("open {}", self.name()), error)
            }
        })
    }

    /// The object, of which nothing is given out that is not what was sealed: formats before 6 are compared as a whole for that.
    fn open_sealed(&self) -> Result<Arc<dyn ReadAt>> {
        let Some(encryption) = &self.manifest.encryption else {
            return self.open_parts(None);
        };
        let found = SegmentKey::find(&self.identities, encryption, &self.manifest.place());
        let key = found.map_err(|error| match error {
            Error::KeyNeeded(why) => {
                let Manifest { index, volume, .. } = &self.manifest;
                Error::KeyNeeded(format!("segment {index} of volume {}: {why}", volume.uuid))
            }
            Error::Integrity(why) => Error::Integrity(self.damaged(why)),
            other => other,
        })?;
        self.open_parts(Some(key))
    }

    fn open_parts(&self, key: Option<SegmentKey>) -> Result<Arc<dyn ReadAt>> {
        if self.manifest.footer_blake3.is_none() {
            self.check_hash()?;
            return Ok(Arc::from(self.open()?));
        }
        match Sealed::new(self.open()?, &self.manifest, key) {
            Some(sealed) => Ok(Arc::new(sealed)),
            None => Err(Error::Integrity(
                self.damaged("its manifest has no hashes of its parts"),
            )),
        }
    }

    /// Reads its records. What is read is compared with what was sealed before anything of it is given out; what the projection leaves out
    /// is not touched.
    ///
    /// # Errors
    /// [`Error::Integrity`], [`Error::Io`], [`Error::KeyNeeded`]; the iterator too.
    pub fn records(&self, projection: Projection) -> Result<impl Iterator<Item = Result<(RowRef, Record)>>> {
        if projection == Projection::All && self.is_carried() {
            return Err(self.needs_medium());
        }
        let segment = self.number()?;
        let reader = SegmentReader::new(self.open_sealed()?, &self.name(), projection)
            .map_err(|error| self.located(error))?;
        Ok(reader.map(move |item| {
            item.map(|(row, record)| (RowRef { segment, row }, record))
                .map_err(|error| self.located(error))
        }))
    }

    /// Its index, as rows are named by it.
    fn number(&self) -> Result<u32> {
        // Manifests that say otherwise are refused when they are read.
        u32::try_from(self.manifest.index)
            .map_err(|_| Error::Integrity(self.damaged("its index is none of ours")))
    }

    /// Reads the data of some rows, whose numbers rise. Only their row groups are touched, and compared with what was sealed.
    ///
    /// # Errors
    /// As for [`Segment::records`]; also where a row is none, or holds no data.
    pub fn data(&self, rows: Vec<u64>) -> Result<impl Iterator<Item = Result<(u64, Data)>> + use<>> {
        if self.is_carried() {
            return Err(self.needs_medium());
        }
        let reader =
            DataReader::new(self.open_sealed()?, &self.name(), rows).map_err(|error| self.located(error))?;
        let segment = self.clone();
        Ok(reader.map(move |item| item.map_err(|error| segment.located(error))))
    }

    /// Reads the whole of it as a Parquet file, front to back, decrypted where it is encrypted. Each piece was compared with what was sealed.
    ///
    /// # Errors
    /// As for [`Segment::records`].
    pub fn plain(&self) -> Result<impl Iterator<Item = Result<Bytes>>> {
        if self.is_carried() {
            return Err(self.needs_medium());
        }
        let object = self.open_sealed()?;
        let mut at = 0;
        Ok(std::iter::from_fn(move || {
            let length = usize::try_from(object.run(at))
                .unwrap_or(usize::MAX)
                .min(PLAIN_BYTES);
            if length == 0 {
                return None;
            }
            let piece = object.read_bytes(at, length);
            // After an error there is nothing more.
            at = if piece.is_ok() {
                at + length as u64
            } else {
                u64::MAX
            };
            Some(piece.map_err(|error| self.unreadable(error)))
        }))
    }

    /// An error of its content, with what that costs; it is remembered as damaged.
    fn located(&self, error: Error) -> Error {
        match error {
            Error::Integrity(why) => {
                let why = self.damaged(why);
                // What it costs is told of every segment that was found damaged.
                let _verdict_of_the_whole = self.verdict.set(Some(why.clone()));
                Error::Integrity(why)
            }
            other => other,
        }
    }

    pub(crate) fn is_on(&self, store: &Arc<dyn Store>) -> bool {
        !self.is_carried() && Arc::ptr_eq(&self.store, store)
    }

    /// The bytes that there are under its name, whatever they are.
    pub(crate) fn remains(&self) -> Remains {
        Remains {
            store: Arc::clone(&self.store),
            name: self.name(),
        }
    }
}

/// Longest piece that [`Segment::plain`] gives.
const PLAIN_BYTES: usize = 4 << 20;
const NO_FILE: &str = "the file is missing, or is no file";

/// Whether there is nothing of the name that was ever sealed.
pub(crate) fn is_no_object(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
    )
}

/// A segment's object that no manifest vouches for.
#[derive(Clone)]
pub(crate) struct Remains {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) name: String,
}

impl Remains {
    pub(crate) fn open(&self) -> Result<SegmentReader> {
        let object: Arc<dyn ReadAt> = Arc::from(
            self.store
                .open(&self.name)
                .map_err(|error| Error::io(format!("open {}", self.name), error))?,
        );
        SegmentReader::new(object, &self.name, Projection::Metadata)
    }
}
