//! Power cuts: one machine is booted again and again with the same disks, and loses its power while it works.
//!
//! Owns the order of the boots, and what the disks hold after a cut: of what was not flushed, some is lost. What happens in the guests is in
//! `tests/scenarios/power-cut.sh`.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fastrand::Rng;

use super::figures::Figures;
use super::kernel::KernelLine;
use super::machine::{Cut, Disk, Machine, Shown};
use super::roundtrip::FileSystem;
use super::series::{KEEP, Series};
use super::{blank_image, blocklog};
use crate::setup;

/// What the guest says when it may be cut.
const CUT_LINE: &str = "-- cut";
/// Longest time from then to the cut.
const CUT_AFTER_MAX_MS: u64 = 12_000;
/// Disks whose writes are logged, and their sizes, MiB. What the guests know of each other loses nothing.
const LOGGED: [(&str, u64); 3] = [("origin", 768), ("spool", 1536), ("medium", 4096)];
/// Time that each boot may take.
const BOOT_TIME_MAX: Duration = Duration::from_secs(600);

/// One series of cuts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PowerCuts {
    pub(crate) kernel: KernelLine,
    pub(crate) fs: FileSystem,
    /// How often the power goes.
    pub(crate) cuts: u64,
    pub(crate) seed: u64,
}

impl fmt::Display for PowerCuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel,
            fs,
            cuts,
            seed,
        } = self;
        write!(f, "power-cut.sh on {kernel}, {fs}: {cuts} cuts, seed {seed}")
    }
}

/// What is run on every change: few cuts, the same ones each time.
pub(crate) const CI: PowerCuts = PowerCuts {
    kernel: KernelLine::K6_12,
    fs: FileSystem::Ext4,
    cuts: 2,
    seed: 1,
};
/// Cuts of one series, where many series are made.
pub(crate) const CUTS: u64 = 5;

/// Cuts, boots again, and in the end restores every mark in a machine that has only the medium. Gives the figures of that one.
///
/// # Errors
/// When a machine fails, or a script says that something is not as it was.
pub(crate) fn pass(of: &PowerCuts) -> Result<Figures> {
    let PowerCuts {
        kernel,
        fs,
        cuts,
        seed,
    } = *of;
    let env = [("FS", fs.to_string()), ("SEED", seed.to_string())];
    let series = Series::new("power-cut.sh", kernel, &LOGGED, &env, BOOT_TIME_MAX)?;
    setup::say(&format!("{of}; disks and logs: {}", series.dir.display()));
    let mut random = Rng::with_seed(seed);
    for boot in 0..cuts {
        let after = Duration::from_millis(random.u64(..CUT_AFTER_MAX_MS));
        cut(&series, boot, after, &mut random)?;
    }
    let last = machine(&series, cuts, "last", disks(&series, None)?)?;
    series.run(last, &mut Shown)?;
    series.restore(LOGGED[0].1 * 2)
}

/// The disks of a machine that is to be cut, their writes logged in this directory; or of one that is not.
fn disks(series: &Series, logs: Option<&Path>) -> Result<Vec<Disk>> {
    let mut disks = Vec::new();
    for (name, _) in LOGGED {
        let mut disk = Disk::virtio(series.image(name), name);
        if let Some(logs) = logs {
            disk.write_log = Some(blank_image(logs, &format!("{name}-log"), 0)?);
        }
        disks.push(disk);
    }
    disks.push(Disk::virtio(series.image(KEEP.0), KEEP.0));
    Ok(disks)
}

fn machine<'a>(series: &'a Series, boot: u64, part: &str, disks: Vec<Disk>) -> Result<Machine<'a>> {
    let mut machine = series.machine(&format!("boot-{boot}"), part, disks)?;
    machine.env.push(("BOOT".into(), boot.to_string()));
    Ok(machine)
}

/// Boots, cuts the power some time after the guest allows it, and leaves the disks as they may be then.
fn cut(series: &Series, boot: u64, after: Duration, random: &mut Rng) -> Result<()> {
    let dir = series.dir.join(format!("boot-{boot}"));
    fs::create_dir(&dir).context("create directory of a boot")?;
    for (name, _) in LOGGED {
        copy_sparse(&series.image(name), &dir.join(format!("{name}.before")))?;
    }
    let cut = Cut {
        line: CUT_LINE,
        after,
    };
    machine(series, boot, "cut", disks(series, Some(&dir))?)?
        .run_and_cut(&mut Shown, &cut)
        .with_context(|| format!("boot {boot}"))?;
    for (name, _) in LOGGED {
        let image = series.image(name);
        fs::rename(dir.join(format!("{name}.before")), &image)
            .with_context(|| format!("take {name} back to before"))?;
        let log = dir.join(format!("{name}-log.img"));
        let off = blocklog::replay_cut(&log, &image, random.u64(..))
            .with_context(|| format!("cut the writes of {name}"))?;
        fs::remove_file(&log).context("remove a log of writes")?;
        setup::say(&format!(
            "boot {boot}, cut after {} ms: {name} has {} entries up to its last flush, of later writes {} are there and {} lost",
            after.as_millis(),
            off.flushed,
            off.kept,
            off.lost
        ));
    }
    Ok(())
}

fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    cp.args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to);
    setup::run_quiet(&mut cp).with_context(|| format!("copy {}", from.display()))
}
