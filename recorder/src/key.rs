//! The key of this host, which signs what its recorders write: made once, kept on the host, and public on every label.
//!
//! It shows that media come from this host; whoever reads them must have the public key from elsewhere for that (`recorder key` prints it).

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use journal::Signer;

use crate::cli::exit::{NOTHING_THERE, coded};

/// Where it lies.
const PATH: &str = "/var/lib/tapeworm/key";
/// Longest file that is read for a key, in bytes.
const BYTES_MAX: u64 = 1024;

/// The key of this host; makes it where there is none.
///
/// # Errors
/// A file that is no key, or that others can read; what the system says.
pub(crate) fn own() -> Result<Signer> {
    own_at(Path::new(PATH))
}

/// The key of this host, if it was made.
///
/// # Errors
/// Exit code 10 where there is none; as [`own`].
pub(crate) fn existing() -> Result<Signer> {
    let path = Path::new(PATH);
    if !path.try_exists().with_context(|| format!("look at {PATH}"))? {
        return Err(coded(
            NOTHING_THERE,
            format!("{PATH} is not there: the key is made when a medium is first labelled or attached"),
        ));
    }
    read(path)
}

fn own_at(path: &Path) -> Result<Signer> {
    if path
        .try_exists()
        .with_context(|| format!("look at {}", path.display()))?
    {
        return read(path);
    }
    make(path)
}

fn read(path: &Path) -> Result<Signer> {
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
    Signer::from_hex(&text).with_context(context)
}

/// Whole or not at all: it is written beside, synced, then named.
fn make(path: &Path) -> Result<Signer> {
    let context = || format!("make the key {}", path.display());
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).with_context(context)?;
    let mut secret = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut secret))
        .context("read random numbers")?;
    let signer = Signer::new(&secret);
    let new = path.with_extension("new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .with_context(context)?;
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(file, "{hex}").with_context(context)?;
    file.sync_all().with_context(context)?;
    fs::rename(&new, path).with_context(context)?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(context)?;
    eprintln!(
        "made the key of this host: {}; keep its public key elsewhere (recorder key)",
        signer.public_key().fingerprint()
    );
    Ok(signer)
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
}
