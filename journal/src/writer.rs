//! Appends to a volume's journal on one medium: continues the chain found there, or begins one.

use std::io::{self, Write};
use std::sync::Arc;

use crate::crypt::{Encryption, Place, Recipients, SegmentKey};
use crate::error::{Error, Result};
use crate::head::{End, Head};
use crate::index::newest_carried;
use crate::label::Label;
use crate::manifest::{
    CheckpointOf, FORMAT_VERSION, Manifest, Point, PointKind, VolumeInfo, manifest_name, object_name,
    parse_index_name, parse_name,
};
use crate::record::{Op, Record};
use crate::scan::read_manifest;
use crate::segment::SegmentWriter;
use crate::sign::Signer;
use crate::store::{ObjectKind, Store};

/// More void indexes in a row than this are no accident.
pub(crate) const VOID_INDEXES_MAX: usize = 1024;

/// What [`Writer::seal`] made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// Index in the chain.
    pub index: u64,
    /// First sequence number.
    pub first_seq: u64,
    /// Last sequence number.
    pub last_seq: u64,
    /// Rows.
    pub records: u64,
    /// Bytes of the segment on the medium.
    pub bytes: u64,
    /// BLAKE3 of the segment, hexadecimal.
    pub blake3: String,
}

/// Where the chain goes on.
struct Chain {
    id: String,
    /// Index of the newest manifest, 0 where there is none, and its hash.
    sealed_index: u64,
    previous: Option<String>,
    next_index: u64,
    void_indexes: Vec<u64>,
}

struct Pending {
    segment: SegmentWriter,
    encryption: Option<Encryption>,
    checkpoint: Option<CheckpointOf>,
    first_seq: u64,
    last_seq: u64,
    first_time_ns: i64,
    last_time_ns: i64,
    points: Vec<Point>,
}

/// The one writer of a volume's journal on a medium.
///
/// When [`Writer::push`] or [`Writer::seal`] fails, everything since the last successful seal is discarded and has to be pushed again:
/// the caller keeps it until it is sealed.
pub struct Writer {
    store: Arc<dyn Store>,
    volume: VolumeInfo,
    epoch: u64,
    chain: Chain,
    /// The medium that the segment begun is written to.
    medium: String,
    pending: Option<Pending>,
    last_seq: Option<u64>,
    sealed_seq: Option<u64>,
    /// Signs manifests.
    signer: Option<Signer>,
    /// Segments are for them alone.
    recipients: Option<Recipients>,
    /// The checkpoint that is being written, and its last number that is sealed.
    checkpoint: Option<(CheckpointOf, u64)>,
    /// Something failed since the last seal: the medium may have been away, and need not be the one that comes back.
    has_failed: bool,
}

impl Writer {
    /// Continues the volume's chain on the medium, in a new epoch; on a medium that holds nothing of the volume a chain begins, with
    /// epoch 1.
    ///
    /// # Errors
    /// [`Error::Integrity`] if the newest manifest there is damaged: nothing is chained to what cannot be trusted.
    /// [`Error::NoJournal`] without a label, [`Error::Unsupported`] on a medium of an older format.
    pub fn open(store: Arc<dyn Store>, volume: VolumeInfo) -> Result<Self> {
        let End { label, newest, void } = End::find(&*store, &volume.uuid)?;
        let (id, previous, epoch, index) = match newest {
            Some((manifest, hash)) => (manifest.chain, Some(hash), manifest.epoch + 1, manifest.index),
            None => (label.medium.clone(), None, 1, 0),
        };
        let chain = Chain {
            id,
            sealed_index: index,
            previous,
            next_index: index + 1 + void.len() as u64,
            void_indexes: void,
        };
        Ok(Self {
            store,
            volume,
            epoch,
            chain,
            medium: label.medium,
            pending: None,
            last_seq: None,
            sealed_seq: None,
            signer: None,
            recipients: None,
            checkpoint: None,
            has_failed: false,
        })
    }

    /// Continues the volume's chain on the medium within its newest epoch, for whoever takes the place of a writer that ended without
    /// ending the epoch. `None` where the chain on the medium does not end with `head`: its epoch cannot go on there.
    ///
    /// # Errors
    /// As [`Writer::open`].
    pub fn resume(store: Arc<dyn Store>, volume: VolumeInfo, head: &Head) -> Result<Option<Self>> {
        if Head::of(&*store, &volume.uuid)?.as_ref() != Some(head) {
            return Ok(None);
        }
        Ok(Some(Self {
            epoch: head.epoch,
            last_seq: Some(head.last_seq),
            sealed_seq: Some(head.last_seq),
            ..Self::open(store, volume)?
        }))
    }

    /// Signs every manifest from now on.
    #[must_use]
    pub fn signed_by(self, signer: Option<Signer>) -> Self {
        Self { signer, ..self }
    }

    /// Encrypts every segment from the next one on.
    #[must_use]
    pub fn encrypted_to(self, recipients: Option<Recipients>) -> Self {
        Self { recipients, ..self }
    }

    /// The end of the chain as it will be once everything up to `last_seq` is sealed.
    pub fn head_at(&self, last_seq: u64) -> Head {
        Head {
            chain: self.chain.id.clone(),
            epoch: self.epoch,
            last_seq,
        }
    }

    /// The epoch that this writer writes.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The medium is another one from the next record on: nothing goes there before it has shown that it carries the end of the chain.
    pub fn medium_changed(&mut self) {
        self.discard();
    }

    /// Index of the newest segment that is sealed; 0 where none is.
    pub fn sealed_index(&self) -> u64 {
        self.chain.sealed_index
    }

    /// Bytes of the segment begun, before compression for what is still in memory; 0 if none is begun.
    pub fn bytes_pending(&self) -> u64 {
        self.pending.as_ref().map_or(0, |pending| pending.segment.bytes())
    }

    /// Last sequence number pushed and not sealed, if any.
    pub fn pending_seq(&self) -> Option<u64> {
        self.pending.as_ref().map(|pending| pending.last_seq)
    }

    /// Appends a record; begins a segment where none is begun. After a failure that is not done before the medium has shown that it holds
    /// what was sealed there, and nothing that somebody else has.
    ///
    /// # Errors
    /// [`Error::MediumFull`], [`Error::Io`]; [`Error::MediumNeeded`] where the medium is not as it was left; [`Error::Integrity`] for a sequence
    /// number that does not rise.
    pub fn push(&mut self, record: &Record) -> Result<()> {
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.checkpoint.is_some())
        {
            return Err(Error::Integrity(
                "a segment of a checkpoint is not sealed yet".to_owned(),
            ));
        }
        if let Some(last) = self.last_seq
            && record.seq <= last
        {
            return Err(Error::Integrity(format!(
                "record {} pushed after {last}",
                record.seq
            )));
        }
        let result = self.try_push(record, None);
        match result {
            Ok(()) => self.last_seq = Some(record.last_seq),
            Err(_) => self.discard(),
        }
        result
    }

    /// Seals some records of a checkpoint as one segment, between those of the history: nothing of that may be begun. Their numbers are the
    /// checkpoint's own, from 1.
    ///
    /// # Errors
    /// As [`Writer::push`] and [`Writer::seal`]; nothing of them is there then, and they can be sealed again. [`Error::Integrity`] where they do not
    /// go on from what was sealed before of the same checkpoint.
    pub fn seal_checkpoint(&mut self, of: CheckpointOf, records: &[Record]) -> Result<Option<SealedSegment>> {
        let sealed = match self.checkpoint {
            Some((before, sealed)) if before == of => sealed,
            _ => 0,
        };
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(None);
        };
        if self.pending.is_some() || (first.seq != 1 && first.seq != sealed + 1) {
            return Err(Error::Integrity(format!(
                "record {} of a checkpoint does not come after {sealed}, or a segment of the history is begun",
                first.seq
            )));
        }
        let last_seq = last.last_seq;
        let pushed = records
            .iter()
            .try_for_each(|record| self.try_push(record, Some(of)));
        let sealed = match (pushed, self.pending.take()) {
            (Ok(()), Some(pending)) => self.try_seal(pending),
            (Ok(()), None) => return Ok(None),
            (Err(error), _) => Err(error),
        };
        match sealed {
            Ok(sealed) => {
                self.checkpoint = Some((of, last_seq));
                Ok(Some(sealed))
            }
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    fn try_push(&mut self, record: &Record, checkpoint: Option<CheckpointOf>) -> Result<()> {
        if self.has_failed && self.pending.is_none() {
            self.check_end()?;
            // It may be another one by now: the next medium of the chain.
            self.medium = Label::of_writable(&*self.store)?.medium;
            self.has_failed = false;
        }
        let pending = match &mut self.pending {
            Some(pending) => pending,
            none => none.insert(Self::begin(
                &*self.store,
                &self.volume,
                self.epoch,
                &mut self.chain,
                self.recipients.as_ref(),
                (record, checkpoint),
            )?),
        };
        pending.segment.push(record)?;
        (pending.last_seq, pending.last_time_ns) = (record.last_seq, record.time_ns);
        let (mut continued, mut since) = (None, None);
        let (kind, name) = match &record.op {
            Op::Mark { name } => (PointKind::Mark, name.clone()),
            Op::BaseBegin { continues } => {
                continued = *continues;
                (PointKind::BaseBegin, String::new())
            }
            Op::BaseEnd { .. } => (PointKind::BaseEnd, String::new()),
            Op::Hole { since_seq, .. } => {
                since = *since_seq;
                (PointKind::Hole, String::new())
            }
            Op::HoleClosed { .. } => (PointKind::HoleClosed, String::new()),
            _ => return Ok(()),
        };
        pending.points.push(Point {
            kind,
            seq: record.seq,
            time_ns: record.time_ns,
            name,
            since_seq: since,
            continues: continued,
        });
        Ok(())
    }

    /// Fails where the chain on the medium does not end where this writer left it.
    fn check_end(&self) -> Result<()> {
        let Self {
            store, volume, chain, ..
        } = self;
        let named = store.describe();
        let objects = store
            .list()
            .map_err(|error| Error::io(format!("list {named}"), error))?;
        let manifests: Vec<u64> = objects
            .iter()
            .filter_map(|object| parse_name(&object.name))
            .filter_map(|(uuid, index, is_manifest)| (is_manifest && uuid == volume.uuid).then_some(index))
            .collect();
        let other = manifests
            .iter()
            .find(|index| **index > chain.sealed_index && !chain.void_indexes.contains(index));
        if let Some(index) = other {
            return Err(Error::MediumNeeded(format!(
                "somebody else has written segment {index} of volume {} to {named}: bring back the medium as it was",
                volume.uuid
            )));
        }
        let Some(previous) = &chain.previous else {
            return Ok(());
        };
        let name = manifest_name(&volume.uuid, chain.sealed_index);
        let lost = |why: String| {
            Error::MediumNeeded(format!(
                "{name} was sealed on {named}, and {why}: bring back the medium as it was"
            ))
        };
        if !manifests.contains(&chain.sealed_index) {
            let carried = objects
                .iter()
                .filter_map(|object| parse_index_name(&object.name))
                .any(|(uuid, next)| uuid == volume.uuid && next == chain.sealed_index + 1);
            return match carried
                .then(|| newest_carried(&**store, &volume.uuid, chain.sealed_index + 1))
                .transpose()?
                .flatten()
            {
                Some((_, hash)) if hash == *previous => Ok(()),
                _ => Err(lost("is not there any more".to_owned())),
            };
        }
        store
            .make_durable(&name)
            .map_err(|error| Error::io(format!("make {name} durable"), error))?;
        match read_manifest(&**store, &name) {
            Ok((_, hash)) if hash == *previous => Ok(()),
            Ok(_) => Err(lost("another one is there".to_owned())),
            Err(Error::Integrity(why)) => Err(lost(why)),
            Err(error) => Err(error),
        }
    }

    fn begin(
        store: &dyn Store,
        volume: &VolumeInfo,
        epoch: u64,
        chain: &mut Chain,
        recipients: Option<&Recipients>,
        (record, checkpoint): (&Record, Option<CheckpointOf>),
    ) -> Result<Pending> {
        let object = loop {
            let is_encrypted = recipients.is_some();
            let name = object_name(&volume.uuid, chain.next_index, checkpoint.is_some(), is_encrypted);
            match store.create(&name, ObjectKind::Plain) {
                Ok(object) => break object,
                // A seal that failed after the object had its name (its directory could not be synced): the index is void.
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists
                        && chain.void_indexes.len() < VOID_INDEXES_MAX =>
                {
                    chain.void_indexes.push(chain.next_index);
                    chain.next_index += 1;
                }
                Err(error) => return Err(Error::io(format!("create {name}"), error)),
            }
        };
        let mut keys = vec![
            ("format", FORMAT_VERSION.to_string()),
            ("volume", volume.uuid.clone()),
            ("chain", chain.id.clone()),
            ("epoch", epoch.to_string()),
            ("index", chain.next_index.to_string()),
            ("first_seq", record.seq.to_string()),
            ("previous", chain.previous.clone().unwrap_or_default()),
        ];
        if let Some(of) = checkpoint {
            keys.push(("checkpoint", of.seq.to_string()));
        }
        let place = Place {
            volume: &volume.uuid,
            chain: &chain.id,
            epoch,
            index: chain.next_index,
        };
        let (key, encryption) = recipients
            .map(|recipients| SegmentKey::make(recipients, &place))
            .transpose()?
            .unzip();
        Ok(Pending {
            segment: SegmentWriter::new(object, &keys, key)?,
            encryption,
            checkpoint,
            first_seq: record.seq,
            last_seq: record.last_seq,
            first_time_ns: record.time_ns,
            last_time_ns: record.time_ns,
            points: Vec::new(),
        })
    }

    /// Ends the segment begun, seals it and its manifest; `None` where none is begun. When this returns, everything pushed is durable.
    ///
    /// # Errors
    /// [`Error::MediumFull`], [`Error::Io`].
    pub fn seal(&mut self) -> Result<Option<SealedSegment>> {
        let Some(pending) = self.pending.take() else {
            return Ok(None);
        };
        let result = self.try_seal(pending);
        match &result {
            Ok(sealed) => self.sealed_seq = Some(sealed.last_seq),
            Err(_) => self.discard(),
        }
        result.map(Some)
    }

    fn try_seal(&mut self, pending: Pending) -> Result<SealedSegment> {
        let Pending {
            segment,
            encryption,
            checkpoint,
            first_seq,
            last_seq,
            first_time_ns,
            last_time_ns,
            points,
        } = pending;
        let index = self.chain.next_index;
        let summary = segment.seal()?;
        // From here the index is taken, whatever becomes of the manifest.
        self.chain.next_index = index + 1;
        let void_indexes = self.chain.void_indexes.clone();
        self.chain.void_indexes.push(index);
        let manifest = Manifest {
            format: FORMAT_VERSION,
            chain: self.chain.id.clone(),
            medium: self.medium.clone(),
            volume: self.volume.clone(),
            epoch: self.epoch,
            checkpoint,
            sealed_seq: checkpoint.map(|_| self.sealed_seq.unwrap_or(0)),
            index,
            first_seq,
            last_seq,
            first_time_ns,
            last_time_ns,
            records: summary.records,
            bytes: summary.bytes,
            blake3: summary.blake3.clone(),
            row_groups: summary.row_groups,
            footer_blake3: Some(summary.footer_blake3),
            encryption,
            previous: self.chain.previous.clone(),
            void_indexes,
            points,
            writer: concat!("tapeworm ", env!("CARGO_PKG_VERSION")).to_owned(),
            signer: self
                .signer
                .as_ref()
                .map_or_else(String::new, |signer| signer.public_key().to_string()),
            signature: String::new(),
            check: String::new(),
        };
        let bytes = manifest.to_bytes(self.signer.as_ref())?;
        let name = manifest_name(&self.volume.uuid, index);
        let context = |error| Error::io(format!("write {name}"), error);
        let mut object = self.store.create(&name, ObjectKind::Plain).map_err(context)?;
        object.write_all(&bytes).map_err(context)?;
        object.seal().map_err(context)?;
        self.chain.void_indexes.clear();
        self.chain.sealed_index = index;
        self.chain.previous = Some(blake3::hash(&bytes).to_hex().to_string());
        Ok(SealedSegment {
            index,
            first_seq,
            last_seq,
            records: summary.records,
            bytes: summary.bytes,
            blake3: summary.blake3,
        })
    }

    fn discard(&mut self) {
        self.pending = None;
        self.last_seq = self.sealed_seq;
        self.has_failed = true;
    }
}
