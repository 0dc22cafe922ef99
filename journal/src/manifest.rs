//! The manifest: what stands beside each segment and ties it into the chain. JSON, written once after its segment.

use serde::{Deserialize, Serialize};

use crate::check;
use crate::crypt::{Encryption, Place, TAG_BYTES};
use crate::error::{Error, Result};
use crate::pages::ROW_GROUP_BYTES_MAX;
use crate::record::{Continued, InodeKey};
use crate::segment::FOOTER_BYTES_MAX;
use crate::sign::{PublicKey, Signer};

/// Version of everything on a medium. A change is one commit: this number, FORMAT.md, golden bytes, an upgrade test.
pub const FORMAT_VERSION: u32 = 7;
/// Oldest version that is still read.
pub(crate) const FORMAT_VERSION_OLDEST: u32 = 1;
/// From this version on the parts of a row group have hashes of their own.
const PARTS_SINCE_FORMAT: u32 = 6;
/// From this version on a manifest names the medium that it was written to.
const MEDIUM_SINCE_FORMAT: u32 = 7;
/// From this version on a segment may be encrypted.
const ENCRYPTION_SINCE_FORMAT: u32 = 7;
/// What the name of an encrypted segment ends with: it is no Parquet.
const ENCRYPTED_SUFFIX: &str = ".encrypted";
/// Largest index of a segment: a fold names every run of bytes by it.
const INDEX_MAX: u64 = u32::MAX as u64;
/// Largest manifest that is read, in bytes.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// The recorded file system, as it was at attach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeInfo {
    /// Its own uuid, lower case with dashes.
    pub uuid: String,
    /// Type: ext4, xfs, btrfs.
    pub fs_type: String,
    /// Its label; empty if it has none.
    pub label: String,
    /// Block size in bytes.
    pub block_size: u32,
    /// Size of the file system in bytes.
    pub size_bytes: u64,
    /// Root directory.
    pub root: InodeKey,
    /// Where it was mounted.
    pub mount_path: String,
    /// Host that recorded it.
    pub hostname: String,
}

/// A row group of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowGroup {
    /// First byte in the segment.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
    /// BLAKE3 of the bytes, hexadecimal. Formats before 6 have this in place of `parts`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub blake3: String,
    /// Its two parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
}

impl RowGroup {
    /// Bytes of it that can be left unread.
    fn data_bytes(&self) -> u64 {
        self.parts
            .as_ref()
            .map_or(0, |parts| self.bytes.saturating_sub(parts.metadata_bytes))
    }
}

/// The parts of a row group, which are read and checked apart: what a plan is made of, and what it may leave alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// Bytes of all columns but the data: they come first.
    pub metadata_bytes: u64,
    /// BLAKE3 of these, hexadecimal.
    pub metadata_blake3: String,
    /// BLAKE3 of the others.
    pub data_blake3: String,
}

/// What kind of point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointKind {
    /// A named moment.
    Mark,
    /// An epoch's base begins.
    BaseBegin,
    /// An epoch's base is complete: from here on any moment can be restored.
    BaseEnd,
    /// A hole begins.
    Hole,
    /// A hole is repaired.
    HoleClosed,
}

/// A moment worth knowing without reading the segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// What it is.
    pub kind: PointKind,
    /// Its sequence number.
    pub seq: u64,
    /// When, nanoseconds since 1970.
    pub time_ns: i64,
    /// Name of a mark, empty otherwise.
    pub name: String,
    /// Of a hole: the number after which no moment is whole, where that is below its own ([`crate::record::Op::Hole`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_seq: Option<u64>,
    /// Of a base's begin: the epoch that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<Continued>,
}

/// Of which moment a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointOf {
    /// The state after this number of the epoch.
    pub seq: u64,
    /// Time of that record, nanoseconds since 1970.
    pub time_ns: i64,
}

/// The manifest of one segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`], or one before it.
    pub format: u32,
    /// Which chain of the volume's: the uuid of the medium on which it began. Empty in format 1, which knew one chain only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chain: String,
    /// The medium that the segment was written to; copies of it say the same. Formats before 7 do not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub medium: String,
    /// The volume.
    pub volume: VolumeInfo,
    /// Epoch of the chain, from 1.
    pub epoch: u64,
    /// Where the segment is of a checkpoint: of which. Its numbers are its own then, from 1, and no sequence numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointOf>,
    /// Of a checkpoint's segment: last number of the history that was sealed before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_seq: Option<u64>,
    /// Index of the segment in its chain, from 1.
    pub index: u64,
    /// First sequence number.
    pub first_seq: u64,
    /// Last sequence number.
    pub last_seq: u64,
    /// Time of the first record, nanoseconds since 1970.
    pub first_time_ns: i64,
    /// Time of the last record.
    pub last_time_ns: i64,
    /// Rows.
    pub records: u64,
    /// Size of the segment in bytes.
    pub bytes: u64,
    /// BLAKE3 of the segment, hexadecimal.
    pub blake3: String,
    /// Its row groups.
    pub row_groups: Vec<RowGroup>,
    /// BLAKE3 of what follows the row groups, hexadecimal. Formats before 6 have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footer_blake3: Option<String>,
    /// Where the segment is encrypted: how. What is said above of its bytes is of the encrypted ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// BLAKE3 of the bytes of the manifest before this one; absent in the first.
    pub previous: Option<String>,
    /// Indexes directly below `index` that were begun and never completed: nothing is missing there.
    pub void_indexes: Vec<u64>,
    /// Marks, bases and holes in this segment, sorted by sequence number.
    pub points: Vec<Point>,
    /// Program and version that wrote it.
    pub writer: String,
    /// Public key of who signed it, hexadecimal; absent where nobody did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signer: String,
    /// The signature of all that stands before it, in the bytes only: empty here.
    #[serde(default)]
    pub(crate) signature: String,
    /// Hash of all that stands before it, in the bytes only: always empty here. Formats before 5 have none.
    #[serde(default)]
    pub(crate) check: String,
}

/// All that is read of a label or manifest before its format is known.
#[derive(Deserialize)]
pub(crate) struct Version {
    pub(crate) format: u32,
}

impl Manifest {
    /// The bytes that are sealed, and hashed by the next manifest.
    pub(crate) fn to_bytes(&self, signer: Option<&Signer>) -> Result<Vec<u8>> {
        match signer {
            Some(signer) => check::to_signed_bytes(self, signer),
            None => check::to_bytes(self),
        }
        .map_err(|error| Error::Integrity(format!("encode manifest: {error}")))
    }

    /// The key that signed it; `None` where nobody did. It was checked when it was read.
    pub fn signed_by(&self) -> Option<PublicKey> {
        self.signer.parse().ok()
    }

    /// Reads and checks what can be checked without the segment.
    ///
    /// # Errors
    /// [`Error::Integrity`], or [`Error::Unsupported`] for a later format.
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        let broken =
            |error: &dyn std::fmt::Display| Error::Integrity(format!("{name} is no manifest: {error}"));
        let Version { format } = serde_json::from_slice(bytes).map_err(|error| broken(&error))?;
        if !check::fits(format, bytes) {
            return Err(broken(&"it is not as it was sealed"));
        }
        check_format(format, name)?;
        let mut manifest: Self = serde_json::from_slice(bytes).map_err(|error| broken(&error))?;
        if manifest.check.is_empty() != (format < check::SINCE_FORMAT) {
            return Err(broken(&"it is not as it was sealed"));
        }
        manifest.check.clear();
        check_signature(bytes, &manifest.signer, &std::mem::take(&mut manifest.signature))
            .map_err(|why| broken(&why))?;
        if (format == 1) != manifest.chain.is_empty() {
            return Err(broken(&"its chain is not what its format says"));
        }
        if (format < MEDIUM_SINCE_FORMAT) != manifest.medium.is_empty() {
            return Err(broken(&"its medium is not what its format says"));
        }
        if manifest.checkpoint.is_some() != manifest.sealed_seq.is_some() {
            return Err(broken(&"it is half of a checkpoint"));
        }
        if name != manifest_name(&manifest.volume.uuid, manifest.index) {
            let (uuid, index) = (&manifest.volume.uuid, manifest.index);
            return Err(Error::Integrity(format!(
                "{name} claims to be segment {index} of volume {uuid}: renamed or swapped"
            )));
        }
        if manifest.first_seq > manifest.last_seq
            || manifest.epoch == 0
            || manifest.index == 0
            || manifest.index > INDEX_MAX
            || manifest.records == 0
        {
            return Err(broken(&"its ranges are impossible"));
        }
        if manifest
            .void_indexes
            .iter()
            .any(|&void| void == 0 || void >= manifest.index)
        {
            return Err(broken(&"it declares an index void that is not below its own"));
        }
        manifest
            .check_parts()
            .map_err(|why| broken(&format_args!("row groups: {why}")))?;
        Ok(manifest)
    }

    /// Name of the segment's object.
    pub(crate) fn segment_name(&self) -> String {
        let Self {
            volume,
            index,
            checkpoint,
            encryption,
            ..
        } = self;
        object_name(&volume.uuid, *index, checkpoint.is_some(), encryption.is_some())
    }

    /// Names of the segment's object, as if it were not encrypted, and of its manifest's.
    pub fn plain_names(&self) -> (String, String) {
        let uuid = &self.volume.uuid;
        (
            object_name(uuid, self.index, self.checkpoint.is_some(), false),
            manifest_name(uuid, self.index),
        )
    }

    /// Where the segment stands, as its key is bound to it.
    pub(crate) fn place(&self) -> Place<'_> {
        Place {
            volume: &self.volume.uuid,
            chain: &self.chain,
            epoch: self.epoch,
            index: self.index,
        }
    }

    /// Bytes that are read to know what happened, of all that the segment has.
    pub fn metadata_bytes(&self) -> u64 {
        let data: u64 = self.row_groups.iter().map(RowGroup::data_bytes).sum();
        // Before format 6 nothing can be compared with what was sealed but the whole.
        self.bytes.saturating_sub(data)
    }

    /// Bytes that are read, beside the metadata, for the data of some rows, whose numbers rise.
    pub fn data_bytes(&self, rows: impl IntoIterator<Item = u64>) -> u64 {
        let mut ends = self.row_groups.iter().scan(0, |end, group| {
            *end += group.rows;
            Some((*end, group.data_bytes()))
        });
        let (mut group_end, mut bytes) = (0, 0);
        for row in rows {
            if row >= group_end {
                let Some((end, of_group)) = ends.find(|(end, _)| row < *end) else {
                    break;
                };
                group_end = end;
                bytes += of_group;
            }
        }
        bytes
    }

    /// The rows of the row group that a row is in: they are read and unpacked together. `None` where the segment has no such row.
    pub fn row_group_of(&self, row: u64) -> Option<std::ops::Range<u64>> {
        let mut groups = self.row_groups.iter().scan(0_u64, |first, group| {
            let rows = *first..first.saturating_add(group.rows);
            *first = rows.end;
            Some(rows)
        });
        groups.find(|rows| rows.contains(&row))
    }

    /// Whether the row groups follow each other, each with its parts, and leave room for a footer. By them the
    /// segment is read, each part as a whole: none is believed that is larger than what may be unpacked.
    fn check_parts(&self) -> std::result::Result<(), &'static str> {
        let has_parts = self.format >= PARTS_SINCE_FORMAT;
        let tag_bytes = match &self.encryption {
            Some(_) if self.format < ENCRYPTION_SINCE_FORMAT => return Err("the format has no encryption"),
            Some(_) => TAG_BYTES,
            None => 0,
        };
        if self.footer_blake3.is_some() != has_parts {
            return Err("the footer is not as its format says");
        }
        let (mut at, mut rows) = (0_u64, 0_u64);
        for group in &self.row_groups {
            if group.parts.is_some() != has_parts || group.blake3.is_empty() != has_parts {
                return Err("hashes are not as the format says");
            }
            let Some(parts) = &group.parts else { continue };
            if group.bytes > ROW_GROUP_BYTES_MAX {
                return Err("one is larger than any of ours");
            }
            if group.offset != at || parts.metadata_bytes > group.bytes {
                return Err("they do not follow each other");
            }
            if parts.metadata_bytes.min(group.bytes - parts.metadata_bytes) < tag_bytes {
                return Err("one is shorter than anything encrypted");
            }
            at += group.bytes;
            rows = rows.saturating_add(group.rows);
        }
        if !has_parts {
            return Ok(());
        }
        match self.bytes.checked_sub(at) {
            Some(footer) if footer < tag_bytes => Err("what follows them is shorter than anything encrypted"),
            Some(footer) if footer > FOOTER_BYTES_MAX => Err("what follows them is larger than any of ours"),
            Some(_) if rows == self.records => Ok(()),
            _ => Err("they are not the segment's"),
        }
    }
}

/// Checks a signature that bytes have; nothing where they have none.
pub(crate) fn check_signature(
    bytes: &[u8],
    signer: &str,
    signature: &str,
) -> std::result::Result<(), String> {
    if signer.is_empty() && signature.is_empty() {
        return Ok(());
    }
    let key: PublicKey = signer
        .parse()
        .map_err(|why| format!("its signer is none: {why}"))?;
    let has_signed = check::signed_part(bytes).is_some_and(|message| key.has_signed(message, signature));
    if has_signed {
        Ok(())
    } else {
        Err(format!("its signature is not that of key {key}"))
    }
}

/// Refuses a format that this program does not read.
pub(crate) fn check_format(format: u32, of: &str) -> Result<()> {
    if (FORMAT_VERSION_OLDEST..=FORMAT_VERSION).contains(&format) {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "{of} has format {format}, this program reads {FORMAT_VERSION_OLDEST} to {FORMAT_VERSION}: use the replayer that lies on its medium"
    )))
}

/// Name of a segment's object.
pub(crate) fn object_name(uuid: &str, index: u64, is_of_checkpoint: bool, is_encrypted: bool) -> String {
    let of_checkpoint = if is_of_checkpoint { ".checkpoint" } else { "" };
    let encrypted = if is_encrypted { ENCRYPTED_SUFFIX } else { "" };
    format!("{uuid}/{index:010}{of_checkpoint}.parquet{encrypted}")
}

/// Whether an object of this name is an encrypted segment: without its manifest it says nothing.
pub(crate) fn is_encrypted_name(name: &str) -> bool {
    name.ends_with(ENCRYPTED_SUFFIX)
}

/// Name of the manifest's object.
pub(crate) fn manifest_name(uuid: &str, index: u64) -> String {
    format!("{uuid}/{index:010}.manifest.json")
}

/// Name of the index that is carried on the medium whose first segment has this number.
pub(crate) fn index_name(uuid: &str, next_index: u64) -> String {
    format!("{uuid}/{next_index:010}.index")
}

/// Volume and number in the name of an index.
pub(crate) fn parse_index_name(name: &str) -> Option<(&str, u64)> {
    let (uuid, file) = name.split_once('/')?;
    let digits = file.strip_suffix(".index")?;
    let is_number = digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Some((uuid, digits.parse().ok()?)))?
}

/// Volume and index in the name of a segment or (true) a manifest.
pub(crate) fn parse_name(name: &str) -> Option<(&str, u64, bool)> {
    let (uuid, file) = name.split_once('/')?;
    let (digits, suffix) = file.split_at_checked(10)?;
    let index = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())??;
    match suffix.strip_suffix(ENCRYPTED_SUFFIX).unwrap_or(suffix) {
        ".manifest.json" if is_encrypted_name(suffix) => None,
        ".parquet" | ".checkpoint.parquet" => Some((uuid, index, false)),
        ".manifest.json" => Some((uuid, index, true)),
        _ => None,
    }
}
