//! The label: what makes a directory a medium of ours, and what lies beside it so that the medium explains itself.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use crate::check;
use crate::error::{Error, Result};
use crate::manifest::{FORMAT_VERSION, Version, check_format, check_signature};
use crate::reader::is_no_object;
use crate::sign::Signer;
use crate::store::{ObjectKind, Store};

/// Object name of the label.
pub const LABEL_NAME: &str = "tapeworm.label.json";
const FORMAT_NAME: &str = "FORMAT.md";
const README_NAME: &str = "README.txt";
const REPLAYER_NAME: &str = "replayer";
const LABEL_BYTES_MAX: u64 = 1 << 16;
/// Longest name of a medium or pool, in bytes.
const NAMING_BYTES_MAX: usize = 64;

const README: &str = "\
This is a medium of tapeworm: a journal of everything that happened to a file system.

It can be read with what lies here and nothing else:
  ./replayer points  --medium .        the moments that can be restored
  ./replayer verify  --medium .        hashes, chain, every record
  ./replayer restore --medium . --to /an/empty/directory
  ./replayer restore --medium . --device /dev/a-blank-disk

replayer is one static program for x86-64 Linux. FORMAT.md specifies every byte, should it not run any more; each segment
(*.parquet; *.checkpoint.parquet say again what was) is plain Apache Parquet and opens in any SQL engine that reads it.
Where segments end in .encrypted, all but points and verify also take --identity FILE, with a secret that is not here.
Nothing here is ever changed once written. If a program offers to repair this medium, copy it first.
";

/// The label of a medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// [`FORMAT_VERSION`], or one before it.
    pub format: u32,
    /// The medium's own uuid.
    pub medium: String,
    /// When it was labelled, nanoseconds since 1970.
    pub created_ns: i64,
    /// Program and version that labelled it.
    pub writer: String,
    /// What people call it: printed on the medium itself, and what is asked for. Formats before 7 have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The set of media that it belongs to; empty where it belongs to none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pool: String,
    /// Whether what lies there was written to other media first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copies: bool,
    /// What lies beside it, so that a reader is not run, nor a page believed, that is not what was put there. Formats before 5 say nothing.
    #[serde(default)]
    pub objects: Vec<LabelObject>,
    /// Public key of the recorder that labelled it, hexadecimal, which signs what it writes; absent where it signs nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signer: String,
    /// Its signature of all that stands before, in the bytes only: empty here.
    #[serde(default)]
    signature: String,
    /// Hash of all that stands before it, in the bytes only: always empty here. Formats before 5 have none.
    #[serde(default)]
    check: String,
}

/// Names a medium to people and programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediumName {
    /// The medium's own uuid.
    pub uuid: String,
    /// What people call it.
    pub name: String,
}

impl std::fmt::Display for MediumName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { uuid, name } = self;
        if name.is_empty() {
            write!(f, "{uuid}")
        } else {
            write!(f, "{name} ({uuid})")
        }
    }
}

/// How a medium is to be called.
#[derive(Clone, Default)]
pub struct Naming {
    /// What people call it; without it the begin of its uuid.
    pub name: Option<String>,
    /// The set of media that it belongs to; empty for none.
    pub pool: String,
    /// Whether it is for copies of what was written to other media.
    pub copies: bool,
    /// Signs the label.
    pub signer: Option<Signer>,
}

impl Naming {
    /// Refuses what could not be printed, typed or told from something else: names have 1 to 64 letters, digits and `.-_`, a pool may be empty.
    fn check(&self) -> Result<()> {
        let is_fit = |name: &str| {
            name.len() <= NAMING_BYTES_MAX
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        };
        let name_is_fit = self
            .name
            .as_deref()
            .is_none_or(|name| !name.is_empty() && is_fit(name));
        if name_is_fit && is_fit(&self.pool) {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "a medium or pool is called by at most {NAMING_BYTES_MAX} letters, digits, '.', '-' and '_'"
        )))
    }
}

/// One of the objects that explain a medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelObject {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its BLAKE3, hexadecimal.
    pub blake3: String,
}

impl LabelObject {
    fn of(store: &dyn Store, name: &str) -> std::io::Result<Self> {
        let object = store.open(name)?;
        Ok(Self {
            name: name.to_owned(),
            bytes: object.bytes(),
            blake3: crate::store::hash(&*object)?,
        })
    }
}

impl Label {
    /// How it is called.
    pub fn named(&self) -> MediumName {
        MediumName {
            uuid: self.medium.clone(),
            name: self.name.clone(),
        }
    }

    /// Reads a medium's label; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Integrity`] for a label that is damaged, [`Error::Unsupported`] for one of a later format.
    pub fn read(store: &dyn Store) -> Result<Option<Self>> {
        let object = match store.open(LABEL_NAME) {
            Ok(object) => object,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Error::io(
                    format!("open the label of {}", store.describe()),
                    error,
                ));
            }
        };
        let broken =
            |why: String| Error::Integrity(format!("the label of {} is damaged: {why}", store.describe()));
        if object.bytes() > LABEL_BYTES_MAX {
            return Err(broken(format!("{} bytes", object.bytes())));
        }
        let mut bytes = vec![0; usize::try_from(object.bytes()).unwrap_or(0)];
        object
            .read_exact_at(&mut bytes, 0)
            .map_err(|error| Error::io("read the label", error))?;
        let Version { format } = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        let altered = || broken("it is not as it was sealed".to_owned());
        if !check::fits(format, &bytes) {
            return Err(altered());
        }
        check_format(format, &store.describe())?;
        let mut label: Self = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        if label.check.is_empty() != (format < check::SINCE_FORMAT) {
            return Err(altered());
        }
        label.check.clear();
        check_signature(&bytes, &label.signer, &std::mem::take(&mut label.signature)).map_err(broken)?;
        Ok(Some(label))
    }

    /// What is wrong with the objects that it names.
    ///
    /// # Errors
    /// Where reading fails.
    pub(crate) fn verify_objects(&self, store: &dyn Store) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        for sealed in &self.objects {
            let name = format!("{} on {}", sealed.name, store.describe());
            match LabelObject::of(store, &sealed.name) {
                Ok(found) if found == *sealed => {}
                Ok(_) => problems.push(format!(
                    "{name} is not what was sealed: do not use it, take it from another medium; it costs nothing of the journal"
                )),
                Err(error) if is_no_object(&error) => problems.push(format!(
                    "{name} is missing: take it from another medium; it costs nothing of the journal"
                )),
                Err(error) => return Err(Error::io(format!("read {name}"), error)),
            }
        }
        Ok(problems)
    }

    /// Reads the label of a medium that is to be written: one of an older format explains that format and carries its replayer, so
    /// nothing newer is put there.
    ///
    /// # Errors
    /// As [`Label::read`]; [`Error::NoJournal`] without a label, [`Error::Unsupported`] for an older format.
    pub(crate) fn of_writable(store: &dyn Store) -> Result<Self> {
        let name = store.describe();
        let label = Self::read(store)?
            .ok_or_else(|| Error::NoJournal(format!("{name} has no label ({LABEL_NAME})")))?;
        if label.format != FORMAT_VERSION {
            return Err(Error::Unsupported(format!(
                "{name} has format {}: it is read, and not written any more (this program writes {FORMAT_VERSION}): take a new medium",
                label.format
            )));
        }
        Ok(label)
    }

    /// Reads the label, or labels a medium that has none: specification, README and replayer first, the label last, so that
    /// a labelled medium is always self-sufficient.
    ///
    /// # Errors
    /// As [`Label::read`]; [`Error::MediumFull`].
    pub fn ensure(store: &dyn Store, replayer: &[u8], now_ns: i64) -> Result<Self> {
        Self::ensure_as(store, replayer, now_ns, &Naming::default())
    }

    /// As [`Label::ensure`], with a name for a medium that has no label yet.
    ///
    /// # Errors
    /// As [`Label::ensure`]; [`Error::Unsupported`] for a name that is none.
    pub fn ensure_as(store: &dyn Store, replayer: &[u8], now_ns: i64, naming: &Naming) -> Result<Self> {
        naming.check()?;
        if let Some(label) = Self::read(store)? {
            return Ok(label);
        }
        put(
            store,
            FORMAT_NAME,
            ObjectKind::Plain,
            include_bytes!("../FORMAT.md"),
        )?;
        put(store, README_NAME, ObjectKind::Plain, README.as_bytes())?;
        put(store, REPLAYER_NAME, ObjectKind::Executable, replayer)?;
        // What an interrupted labelling left there stays, and may be an older program's: what lies there is what is sealed.
        let objects = [FORMAT_NAME, README_NAME, REPLAYER_NAME]
            .into_iter()
            .map(|name| LabelObject::of(store, name))
            .collect::<std::io::Result<_>>()
            .map_err(|error| Error::io(format!("read back what was put on {}", store.describe()), error))?;
        let medium = random_uuid()?;
        let Naming {
            name,
            pool,
            copies,
            signer,
        } = naming.clone();
        let label = Self {
            format: FORMAT_VERSION,
            name: name.unwrap_or_else(|| medium.chars().take(8).collect()),
            pool,
            copies,
            medium,
            created_ns: now_ns,
            writer: concat!("tapeworm ", env!("CARGO_PKG_VERSION")).to_owned(),
            objects,
            signer: signer
                .as_ref()
                .map_or_else(String::new, |signer| signer.public_key().to_string()),
            signature: String::new(),
            check: String::new(),
        };
        let bytes = match &signer {
            Some(signer) => check::to_signed_bytes(&label, signer),
            None => check::to_bytes(&label),
        }
        .map_err(Error::Integrity)?;
        put(store, LABEL_NAME, ObjectKind::Plain, &bytes)?;
        Ok(label)
    }
}

/// Seals an object; one that is there already, from an interrupted labelling, is left as it is.
fn put(store: &dyn Store, name: &str, kind: ObjectKind, bytes: &[u8]) -> Result<()> {
    let context = || format!("write {name} to {}", store.describe());
    let mut object = match store.create(name, kind) {
        Ok(object) => object,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(Error::io(context(), error)),
    };
    object
        .write_all(bytes)
        .and_then(|()| object.seal())
        .map_err(|error| Error::io(context(), error))
}

/// A version 4 uuid from the kernel's random numbers.
fn random_uuid() -> Result<String> {
    let mut bytes = [0u8; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::io("read random numbers", error))?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    ))
}
