//! `cargo xtask vm`: virtual machines with Debian's own kernels, for any workload.
//!
//! Owns the command line of `vm` and what its commands share: run directories and the project's binaries for the
//! guest. The machine itself is in `machine`, what the guests boot in `kernel` and `root`.

mod blocklog;
mod cpio;
pub(crate) mod figures;
pub(crate) mod kernel;
mod kvm;
mod lockdep;
pub(crate) mod machine;
pub(crate) mod power;
mod qemu;
pub(crate) mod root;
pub(crate) mod roundtrip;
pub(crate) mod run;
mod series;
mod tail;
pub(crate) mod unplug;
pub(crate) mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};

use self::machine::Disk;
use crate::build::{self, Profile};
use crate::{Outcome, setup, soak};

/// How long the remains of a failed run are kept.
const RUN_KEPT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Arguments of `cargo xtask vm`.
#[derive(Args)]
pub(crate) struct VmArgs {
    #[command(subcommand)]
    command: VmCommand,
}

#[derive(Subcommand)]
enum VmCommand {
    /// Boot a kernel and run a script as root in the Debian guest; ends with the script's exit code
    Run(run::RunArgs),
    /// Record a workload, rebuild its disk in a second machine from the medium alone, compare
    Roundtrip(roundtrip::RoundtripArgs),
    /// The same with random operations: replay a seed of `cargo xtask test --soak`
    Random(soak::RandomArgs),
}

/// Runs the command.
pub(crate) fn run(args: VmArgs) -> Outcome {
    match args.command {
        VmCommand::Run(args) => run::run(args),
        VmCommand::Roundtrip(args) => roundtrip::run(args),
        VmCommand::Random(args) => soak::random(args),
    }
}

/// A directory of one run, below `target/vm`; the caller removes it when nobody needs it any more.
pub(crate) fn run_dir(what: &str) -> Result<PathBuf> {
    let all = setup::workspace_root().join("target/vm");
    fs::create_dir_all(&all).with_context(|| format!("create {}", all.display()))?;
    remove_old_runs(&all)?;
    let dir = tempfile::Builder::new()
        .prefix(&format!("{what}-"))
        .tempdir_in(&all)
        .context("create run directory")?;
    Ok(dir.keep())
}

/// Failed runs leave their disks for whoever looks into the failure, but not for ever.
fn remove_old_runs(all: &Path) -> Result<()> {
    for entry in fs::read_dir(all).with_context(|| format!("list {}", all.display()))? {
        let entry = entry.with_context(|| format!("list {}", all.display()))?;
        let age = entry
            .metadata()
            .and_then(|m| m.modified())
            .map(|at| at.elapsed().unwrap_or_default());
        if entry.file_name() != "bin" && age.is_ok_and(|age| age > RUN_KEPT_MAX) {
            // Another run of xtask may be faster.
            _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// One of the project's programs, as it was built last, without its debug information: it travels to every guest.
///
/// # Errors
/// When it has not been built.
pub(crate) fn stripped(name: &str) -> Result<PathBuf> {
    let built = build::bin_dir(Profile::Dev).join(name);
    let dir = setup::workspace_root().join("target/vm/bin");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let (to, part) = (dir.join(name), dir.join(format!("{name}.{}", std::process::id())));
    let built_at = fs::metadata(&built)
        .and_then(|m| m.modified())
        .with_context(|| format!("look at {}", built.display()))?;
    if fs::metadata(&to)
        .and_then(|m| m.modified())
        .is_ok_and(|at| at > built_at)
    {
        return Ok(to);
    }
    setup::run_quiet(
        Command::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(&part)
            .arg(&built),
    )?;
    fs::rename(&part, &to).with_context(|| format!("move {}", to.display()))?;
    Ok(to)
}

/// `HOST:GUEST`, split at the last colon that is followed by an absolute path.
fn parse_file(text: &str) -> Result<(PathBuf, String), String> {
    let (host, guest) = text
        .rsplit_once(":/")
        .ok_or("want HOST:GUEST with an absolute GUEST path")?;
    if host.is_empty() || guest.is_empty() {
        return Err("want HOST:GUEST with an absolute GUEST path".into());
    }
    Ok((PathBuf::from(host), format!("/{guest}")))
}

/// Where a disk of a run comes from.
#[derive(Clone, Debug)]
pub(crate) enum DiskSource {
    /// A blank one of this size, thrown away after the run.
    Blank {
        /// Size, MiB.
        mib: u64,
    },
    /// A raw image, written in place.
    Image(PathBuf),
}

/// A number is the size in MiB of a blank disk, anything else the file name of a raw image.
fn parse_disk(text: &str) -> Result<DiskSource, String> {
    match text.parse::<u64>() {
        Ok(0) => Err("a disk needs a size".into()),
        Ok(mib) => Ok(DiskSource::Blank { mib }),
        Err(_) => Ok(DiskSource::Image(PathBuf::from(text))),
    }
}

impl DiskSource {
    /// The disk, its image in `dir` when it is a blank one.
    ///
    /// # Errors
    /// When the image cannot be made or does not exist.
    pub(crate) fn open(&self, dir: &Path, name: &str, usb: bool) -> Result<Disk> {
        let image = match self {
            Self::Blank { mib } => blank_image(dir, name, *mib)?,
            Self::Image(path) => {
                fs::canonicalize(path).with_context(|| format!("find disk image {}", path.display()))?
            }
        };
        Ok(if usb {
            Disk::usb(image, name, false)
        } else {
            Disk::virtio(image, name)
        })
    }
}

/// A sparse raw image without content.
///
/// # Errors
/// When it exists already or cannot be made.
pub(crate) fn blank_image(dir: &Path, name: &str, mib: u64) -> Result<PathBuf> {
    let image = dir.join(format!("{name}.img"));
    ensure!(mib <= 1 << 20, "a disk of {mib} MiB is too large");
    let file =
        fs::File::create_new(&image).with_context(|| format!("create disk image {}", image.display()))?;
    file.set_len(mib << 20)
        .with_context(|| format!("size disk image {}", image.display()))?;
    Ok(image)
}

/// Makes sure that a script is there, and says so before minutes are spent on machines.
fn check_script(script: &Path) -> Result<()> {
    if !script.is_file() {
        bail!("script {} is not a file", script.display());
    }
    Ok(())
}

/// Moves the run's directory to where the user wants it, or removes it.
pub(crate) fn finish(dir: &Path, keep: Option<&Path>) -> Result<()> {
    let Some(keep) = keep else {
        return fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()));
    };
    fs::create_dir_all(keep).with_context(|| format!("create {}", keep.display()))?;
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        // It may lie on another file system, so mv and not rename; images are sparse.
        setup::run(Command::new("mv").arg("--force").arg(entry.path()).arg(keep))?;
    }
    fs::remove_dir(dir).with_context(|| format!("remove {}", dir.display()))?;
    setup::say(&format!("kept in {}", keep.display()));
    Ok(())
}
