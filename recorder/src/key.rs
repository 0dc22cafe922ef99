//! The keys of this host: one signs what its recorders write, another reads what they have encrypted. Made once, and kept on the host.
//!
//! A signature shows that media come from this host; whoever reads them must have the public key from elsewhere for that (`recorder key` prints
//! it). An identity is made only where a volume is encrypted, and the host is to read its journal: to go on from it, and to make checkpoints of it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use journal::{Identities, Recipients, Signer};

use crate::cli::exit::{NOTHING_THERE, USAGE, coded};

/// Where they lie.
const DIRECTORY: &str = "/var/lib/tapeworm";
const KEY: &str = "key";
const IDENTITY: &str = "identity";
/// Longest file that is read for a key, in bytes.
const BYTES_MAX: u64 = 1024;

/// What media are written and read with.
#[derive(Clone)]
pub(crate) struct Keys {
    /// Signs what is written.
    pub(crate) signer: Signer,
    /// Whom it is encrypted to; without them it is not.
    pub(crate) recipients: Option<Recipients>,
    /// Reads what was encrypted to this host.
    pub(crate) identities: Identities,
}

impl Keys {
    /// The keys for a volume that is encrypted to `recipients`, or not at all. Unless the host is to write only, it is one of the recipients: its
    /// identity is made where there is none.
    ///
    /// # Errors
    /// Wrong usage for a recipient that is none; files that are no keys, or that others can read; what the system says.
    pub(crate) fn of_volume(recipients: &[String], is_write_only: bool) -> Result<Self> {
        Self::at(Path::new(DIRECTORY), recipients, is_write_only)
    }

    fn at(directory: &Path, recipients: &[String], is_write_only: bool) -> Result<Self> {
        let parse = |all: &[String]| match all {
            [] => Ok(None),
            all => Recipients::parse(all)
                .map(Some)
                .map_err(|error| coded(USAGE, error.to_string())),
        };
        // Nothing is made for what is refused.
        parse(recipients)?;
        let path = directory.join(IDENTITY);
        let identities = if is_write_only {
            Identities::default()
        } else if !recipients.is_empty() || exists(&path)? {
            own_identity(&path)?
        } else {
            Identities::default()
        };
        let mut all = recipients.to_vec();
        if !all.is_empty() {
            all.extend(identities.recipients());
        }
        Ok(Self {
            signer: own_at(&directory.join(KEY))?,
            recipients: parse(&all)?,
            identities,
        })
    }
}

/// The key of this host; makes it where there is none.
///
/// # Errors
/// A file that is no key, or that others can read; what the system says.
pub(crate) fn own() -> Result<Signer> {
    own_at(&Path::new(DIRECTORY).join(KEY))
}

/// The key of this host, if it was made.
///
/// # Errors
/// Exit code 10 where there is none; as [`own`].
pub(crate) fn existing() -> Result<Signer> {
    let path = Path::new(DIRECTORY).join(KEY);
    if !exists(&path)? {
        return Err(coded(
            NOTHING_THERE,
            format!(
                "{} is not there: the key is made when a medium is first labelled or attached",
                path.display()
            ),
        ));
    }
    read_signer(&path)
}

fn own_at(path: &Path) -> Result<Signer> {
    if exists(path)? {
        return read_signer(path);
    }
    let mut secret = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut secret))
        .context("read random numbers")?;
    let signer = Signer::new(&secret);
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    write(path, &format!("{hex}\n"))?;
    eprintln!(
        "made the key of this host: {}; keep its public key elsewhere (recorder key)",
        signer.public_key().fingerprint()
    );
    Ok(signer)
}

fn own_identity(path: &Path) -> Result<Identities> {
    if !exists(path)? {
        write(path, &Identities::generate())?;
        eprintln!(
            "made the identity of this host, {}: with it the recorder reads what it has encrypted; restoring needs it or that of a recipient",
            path.display()
        );
    }
    Identities::parse(&read(path)?).with_context(|| format!("read the identity {}", path.display()))
}

fn read_signer(path: &Path) -> Result<Signer> {
    Signer::from_hex(&read(path)?).with_context(|| format!("read the key {}", path.display()))
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists()
        .with_context(|| format!("look at {}", path.display()))
}

/// A secret, which nobody else may be able to read.
fn read(path: &Path) -> Result<String> {
    let context = || format!("read the key {}", path.display());
    let file = File::open(path).with_context(context)?;
    let mode = file.metadata().with_context(context)?.permissions().mode();
    ensure!(
        mode & 0o077 == 0,
        "{} may be read by others (mode {:o}): chmod 600, and if anybody may have read it, remove it and begin new media",
        path.display(),
        mode & 0o777
    );
    let mut text = String::new();
    file.take(BYTES_MAX)
        .read_to_string(&mut text)
        .with_context(context)?;
    Ok(text)
}

/// Whole or not at all: it is written beside, synced, then named.
fn write(path: &Path, text: &str) -> Result<()> {
    let context = || format!("make the key {}", path.display());
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).with_context(context)?;
    let new = path.with_extension("new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)?;
    file.sync_all().with_context(context)?;
    fs::rename(&new, path).with_context(context)?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib").join("key");
        let made = own_at(&path).unwrap().public_key();
        assert_eq!(own_at(&path).unwrap().public_key(), made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            own_at(&path)
                .err()
                .unwrap()
                .to_string()
                .contains("read by others")
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "none").unwrap();
        assert!(own_at(&path).is_err(), "a key that is none is not replaced");
    }

    #[test]
    fn a_host_reads_what_it_encrypts_unless_it_is_to_write_only() {
        let dir = tempfile::tempdir().unwrap();
        let operator = Identities::parse(&Identities::generate()).unwrap().recipients();
        let keys = |recipients: &[String], is_write_only| Keys::at(dir.path(), recipients, is_write_only);
        let names = |keys: &Keys| keys.recipients.as_ref().map(Recipients::names);
        assert_eq!(names(&keys(&[], false).unwrap()), None);
        assert!(!dir.path().join(IDENTITY).exists());

        let alone = keys(&operator, true).unwrap();
        assert_eq!(names(&alone), Some(operator.clone()));
        assert!(alone.identities.recipients().is_empty());
        assert!(!dir.path().join(IDENTITY).exists());

        let both = keys(&operator, false).unwrap();
        let own = both.identities.recipients();
        assert_eq!(names(&both), Some([operator, own.clone()].concat()));
        // What was encrypted before is read even where nothing is any more.
        assert_eq!(keys(&[], false).unwrap().identities.recipients(), own);
        fs::remove_file(dir.path().join(IDENTITY)).unwrap();
        assert!(keys(&["age1none".to_owned()], false).is_err());
        assert!(!dir.path().join(IDENTITY).exists(), "made for what was refused");
    }
}
