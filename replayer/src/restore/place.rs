//! Where a tree is restored to: found fit before the journal is read, made ready once the plan is known.
//!
//! Owns what a target must have room for, and that nothing is written before it is known to have it.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::fstatvfs;
use tracing::info;

use super::device::{Device, FsOptions, FsType, PrivateMount};
use super::problems::Problems;
use super::target::Target;
use crate::cli::RestoreArgs;
use crate::media::Volume;

/// Names shown of what lies in a target that should be empty.
const OCCUPANTS_SHOWN_MAX: usize = 5;

/// What a target must have room for.
pub(super) struct Needs<'a> {
    pub(super) inodes: u64,
    /// Whether some inodes have a project id.
    pub(super) projects: bool,
    /// Bytes of data on a file system with blocks of so many bytes.
    pub(super) bytes: &'a dyn Fn(u64) -> u64,
}

/// Where to restore, checked before the journal is read.
pub(super) enum Place {
    /// A directory, without a target where it is to be made in one that is there.
    Directory(PathBuf, Option<Target>),
    Device(PathBuf, Device),
}

/// A target to write into, and the mount that it lies on if it is our own.
pub(super) struct Ready {
    pub(super) target: Target,
    pub(super) mount: Option<PrivateMount>,
}

impl Place {
    pub(super) fn check(args: &RestoreArgs) -> Result<Self> {
        if let Some(path) = &args.to {
            let target = (!is_to_be_made(path)).then(|| open_directory(path)).transpose()?;
            return Ok(Self::Directory(path.clone(), target));
        }
        let Some(path) = &args.device else {
            bail!("neither --to nor --device is given")
        };
        let mut device = Device::open(path)?;
        if !args.wipe
            && let Some(what) = device.occupied_by()?
        {
            bail!(
                "{} is not blank: it holds {what}; --wipe destroys that; nothing was written",
                path.display()
            );
        }
        Ok(Self::Device(path.clone(), device))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Directory(path, _) | Self::Device(path, _) => path,
        }
    }

    /// Makes the target ready for the plan: from here on things are written.
    pub(super) fn prepare(
        self,
        args: &RestoreArgs,
        volume: &Volume,
        needs: &Needs<'_>,
        problems: &mut Problems,
    ) -> Result<Ready> {
        let (path, mut device) = match self {
            Self::Directory(path, target) => {
                let target = match target {
                    Some(target) => target,
                    None => make_directory(&path)?,
                };
                check_space(needs, &target, &path)?;
                return Ok(Ready { target, mount: None });
            }
            Self::Device(path, device) => (path, device),
        };
        let Some(fs_type) = args.mkfs.or_else(|| FsType::from_name(&volume.fs_type)) else {
            bail!(
                "the recorded file system is {}, which cannot be made here: choose one with --mkfs",
                volume.fs_type
            );
        };
        device.check_size((needs.bytes)(512))?;
        let options = FsOptions {
            fs_type,
            label: volume.label.clone(),
            uuid: volume.uuid.clone(),
            inodes: needs.inodes,
            projects: needs.projects,
        };
        options.check()?;
        if args.wipe {
            device.wipe()?;
        }
        info!(
            "making {} on {} (label {:?}, uuid {})",
            fs_type.name(),
            path.display(),
            options.label,
            options.uuid
        );
        let (mount, notes) = device.make_and_mount(&options)?;
        for note in notes {
            problems.note(note);
        }
        let target = open_directory(mount.path())?;
        check_space(needs, &target, &path)?;
        Ok(Ready {
            target,
            mount: Some(mount),
        })
    }
}

/// A directory to write into that is empty, made where it is missing.
///
/// # Errors
/// One that is not empty, saying what is there; what the system says.
pub(crate) fn empty_directory(path: &Path) -> Result<Target> {
    if is_to_be_made(path) {
        make_directory(path)
    } else {
        open_directory(path)
    }
}

/// Whether nothing is there, in a directory that is.
fn is_to_be_made(path: &Path) -> bool {
    parent_of_missing(path).is_some_and(Path::is_dir)
}

/// The directory that a path with nothing at its end would be made in.
fn parent_of_missing(path: &Path) -> Option<&Path> {
    let missing = matches!(path.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound);
    let parent = path.parent().filter(|_| missing)?;
    Some(if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    })
}

/// Makes a directory as the target; closed to others until the recorded mode is set at the end.
fn make_directory(path: &Path) -> Result<Target> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .with_context(|| format!("make target directory {}", path.display()))?;
    open_directory(path)
}

/// Opens a directory as the target; refuses one that is not empty, saying what is there.
pub(super) fn open_directory(path: &Path) -> Result<Target> {
    if !Path::new("/proc/self/fd").is_dir() {
        bail!("/proc is not mounted: attributes cannot be set safely without it (mount -t proc proc /proc)");
    }
    let target = Target::open(path)?;
    let (occupants, _) = target.occupants(OCCUPANTS_SHOWN_MAX + 1)?;
    if !occupants.is_empty() {
        let more = if occupants.len() > OCCUPANTS_SHOWN_MAX {
            ", ..."
        } else {
            ""
        };
        let shown = occupants
            .iter()
            .take(OCCUPANTS_SHOWN_MAX)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        bail!(
            "target directory {} is not empty: it holds {shown}{more}; nothing was written",
            path.display()
        );
    }
    Ok(target)
}

/// Fails when the plan cannot fit into the file system of the target; nothing has been restored yet.
pub(super) fn check_space(needs: &Needs<'_>, target: &Target, place: &Path) -> Result<()> {
    let space =
        fstatvfs(target.root()).with_context(|| format!("measure free space of {}", place.display()))?;
    let block_bytes = space.f_bsize.clamp(512, 65536);
    let needed_bytes = (needs.bytes)(block_bytes);
    let free_bytes = space.f_bfree.saturating_mul(space.f_frsize);
    if needed_bytes > free_bytes {
        bail!(
            "{} is too small: the tree needs {needed_bytes} bytes, {free_bytes} are free; nothing was restored, take a larger one",
            place.display()
        );
    }
    let inodes = needs.inodes;
    // File systems that make inodes as they go (btrfs) state none.
    if space.f_files > 0 && inodes > space.f_ffree.saturating_add(2) {
        bail!(
            "{} has too few inodes: the tree needs {inodes}, {} are free; nothing was restored, take a larger one",
            place.display(),
            space.f_ffree
        );
    }
    Ok(())
}
