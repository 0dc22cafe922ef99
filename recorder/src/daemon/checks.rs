//! What must be true before anything is touched: medium, spool, lock, replayer.
//!
//! Every failure here leaves the host as it was, with a clear text and the right exit code.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};

use super::places::{self, Places};
use super::shelf::Shelf;
use crate::capture::Volume;
use crate::cli::exit::{FAILED, LOCKED, USAGE, coded};
use crate::config::{self, VolumeConfig};
use crate::control::RUN_DIR;
use crate::key::Keys;
use crate::media::catalog;
use crate::pipeline::OnFull;

/// A volume that can be attached, with everything that this needs.
pub(crate) struct Prepared {
    pub(crate) config: VolumeConfig,
    pub(crate) volume: Volume,
    pub(super) shelf: Arc<Shelf>,
    /// Where media for copies may be mounted.
    pub(super) copies: Places,
    /// What media are written and read with.
    pub(super) keys: Keys,
    pub(crate) spool_dir: PathBuf,
    /// Directories of spools, its own or another volume's, that lie on this volume.
    pub(crate) spool_inos: Vec<u64>,
    /// Those directories and everything below them.
    pub(crate) excluded_inodes: Vec<u64>,
    /// Held while the volume is recorded.
    pub(crate) lock: File,
}

/// Makes the directory of socket and locks.
pub(crate) fn run_directory() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(coded(
            FAILED,
            "recording needs root: programs are put into the kernel",
        ));
    }
    fs::create_dir_all(RUN_DIR).with_context(|| format!("create {RUN_DIR}"))
}

/// Checks every volume before the first is touched.
pub(crate) fn all(configs: Vec<VolumeConfig>) -> Result<Vec<Prepared>> {
    let volumes = configs
        .iter()
        .map(|config| {
            Volume::resolve(&config.path).with_context(|| format!("attach {}", config.path.display()))
        })
        .collect::<Result<Vec<_>>>()?;
    for (index, volume) in volumes.iter().enumerate() {
        let Some(other) = volumes[..index].iter().find(|other| other.uuid == volume.uuid) else {
            continue;
        };
        let (here, there) = (volume.mount_point.display(), other.mount_point.display());
        return Err(if other.device == volume.device {
            coded(
                USAGE,
                format!("{here} and {there} are one file system: name it once"),
            )
        } else {
            coded(
                FAILED,
                format!(
                    "the file systems at {here} and {there} have the same uuid {}: one is a copy of the other; give it a uuid of its own \
                     (tune2fs -U random, xfs_admin -U generate, btrfstune -u)",
                    volume.uuid
                ),
            )
        });
    }
    let devices: Vec<(u64, PathBuf)> = volumes
        .iter()
        .map(|volume| Ok((device_of(&volume.mount_point)?, volume.mount_point.clone())))
        .collect::<Result<_>>()?;
    configs.iter().try_for_each(check_copies)?;
    let mut ready = Vec::new();
    for (config, volume) in configs.into_iter().zip(volumes) {
        let keys = Keys::of_volume(&config.recipients, config.is_write_only)?;
        let shelf = places::shelf(&config, &volume.uuid, &devices, &keys.signer, || {
            replayer(config.replayer.as_deref())
        })?;
        let lock = lock(&volume.uuid, &volume.mount_point)?;
        ready.push((config, volume, (shelf, keys), lock));
    }
    // A spool may lie on any of the volumes: none of them records any spool, or two would feed each other for ever.
    let spools = ready
        .iter()
        .map(|(config, volume, ..)| Spool::make(config.spool.join(&volume.uuid)))
        .collect::<Result<Vec<_>>>()?;
    // Nor the catalog, which tells of each copy: one of what is written there would be told of, too.
    let catalog = Spool::make(PathBuf::from(catalog::DIRECTORY))?;
    ready
        .into_iter()
        .zip(&devices)
        .enumerate()
        .map(|(index, ((config, volume, (shelf, keys), lock), (device, _)))| {
            let here: Vec<&Spool> = spools.iter().filter(|spool| spool.device == *device).collect();
            if config.on_full == OnFull::Throttle && !here.is_empty() {
                let path = volume.mount_point.display();
                return Err(coded(
                    USAGE,
                    format!("{path} holds a spool: its writers cannot be slowed down, which would slow the spool, too; put the spool elsewhere, or record with --on-full=hole"),
                ));
            }
            let own: Vec<&Spool> = here
                .into_iter()
                .chain([&catalog].into_iter().filter(|catalog| catalog.device == *device))
                .collect();
            Ok(Prepared {
                copies: Places::new(config.copies.clone(), devices.clone()),
                config,
                volume,
                shelf,
                keys,
                spool_dir: spools[index].directory.clone(),
                spool_inos: own.iter().map(|spool| spool.ino).collect(),
                excluded_inodes: own
                    .iter()
                    .map(|spool| inodes_below(&spool.directory))
                    .collect::<Result<Vec<_>>>()?
                    .concat(),
                lock,
            })
        })
        .collect()
}

/// Refuses a place for copies that is one for the medium, by another name, too.
fn check_copies(config: &VolumeConfig) -> Result<()> {
    let found = |paths: &[PathBuf]| -> Vec<PathBuf> {
        let found = |path: &PathBuf| fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        paths.iter().map(found).collect()
    };
    config::check_copies(&found(&config.media), &found(&config.copies)).map_err(|why| coded(USAGE, why))
}

/// A directory that is not recorded: of a volume's spool, or of the catalog.
struct Spool {
    directory: PathBuf,
    device: u64,
    ino: u64,
}

impl Spool {
    fn make(directory: PathBuf) -> Result<Self> {
        let context = || format!("create spool {}", directory.display());
        fs::create_dir_all(&directory).with_context(context)?;
        let found = fs::metadata(&directory).with_context(context)?;
        Ok(Self {
            directory,
            device: found.dev(),
            ino: found.ino(),
        })
    }
}

fn device_of(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)
        .with_context(|| format!("look at {}", path.display()))?
        .dev())
}

/// The directory and what lies in it from before: later files are excluded by the programs as they are created.
fn inodes_below(directory: &Path) -> Result<Vec<u64>> {
    let context = || format!("read {}", directory.display());
    let mut inodes = vec![fs::metadata(directory).with_context(context)?.ino()];
    for entry in fs::read_dir(directory).with_context(context)? {
        let entry = entry.with_context(context)?;
        if entry.file_type().with_context(context)?.is_dir() {
            inodes.extend(inodes_below(&entry.path())?);
        } else {
            inodes.push(entry.metadata().with_context(context)?.ino());
        }
    }
    Ok(inodes)
}

/// The bytes of the replayer, which every medium carries.
pub(crate) fn replayer(named: Option<&Path>) -> Result<Vec<u8>> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()
            .context("find this executable")?
            .with_file_name("replayer"),
    };
    fs::read(&path).map_err(|error| {
        coded(
            FAILED,
            format!(
                "read replayer {}: {error}; every medium carries it: name it with --replayer PATH",
                path.display()
            ),
        )
    })
}

/// Takes the volume for this process: until that ends, however it does.
pub(super) fn lock(uuid: &str, named: &Path) -> Result<File> {
    let path = Path::new(RUN_DIR).join(format!("{uuid}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        coded(
            LOCKED,
            format!(
                "the volume at {} is recorded by another recorder already",
                named.display()
            ),
        )
    })?;
    Ok(file)
}
