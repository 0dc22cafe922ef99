//! Power cuts: one machine is booted again and again with the same disks, and loses its power while it works.
//!
//! Owns the order of the boots, and what the disks hold after a cut: of what was not flushed, some is lost. What happens in the guests is in
//! `tests/scenarios/power-cut.sh`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;

use super::figures::{Figures, Noted};
use super::kernel::{self, Kernel, KernelLine};
use super::machine::{Cut, Disk, Machine};
use super::roundtrip::{FileSystem, Shown};
use super::run::{GUEST_LIBRARY, GUEST_SCRIPT, project_binaries, script_command};
use super::{blank_image, blocklog, ensure_host, root, run_dir};
use crate::setup;

/// What the guest says when it may be cut.
const CUT_LINE: &str = "-- cut";
/// Longest time from then to the cut.
const CUT_AFTER_MAX_MS: u64 = 12_000;
/// Disks whose writes are logged, and their sizes, MiB.
const LOGGED: [(&str, u64); 3] = [("origin", 768), ("spool", 1536), ("medium", 4096)];
/// Holds what the guests know of each other; it loses nothing.
const KEEP: (&str, u64) = ("keep", 256);
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

/// Everything that the boots share.
struct Series<'a> {
    of: &'a PowerCuts,
    kernel: Kernel,
    root: PathBuf,
    files: Vec<(PathBuf, String)>,
    script: PathBuf,
    dir: PathBuf,
}

/// Cuts, boots again, and in the end restores every mark in a machine that has only the medium. Gives the figures of that one.
///
/// # Errors
/// When a machine fails, or a script says that something is not as it was.
pub(crate) fn pass(of: &PowerCuts) -> Result<Figures> {
    ensure_host()?;
    let scenarios = setup::workspace_root().join("tests/scenarios");
    let script = scenarios.join("power-cut.sh");
    let mut files = project_binaries(None)?;
    files.push((script.clone(), GUEST_SCRIPT.into()));
    files.push((scenarios.join("lib.sh"), GUEST_LIBRARY.into()));
    let series = Series {
        of,
        kernel: kernel::ensure_kernel(of.kernel)?,
        root: root::ensure_root(&[])?,
        files,
        script,
        dir: run_dir("power-cut")?,
    };
    setup::say(&format!("{of}; disks and logs: {}", series.dir.display()));
    for (name, mib) in LOGGED.iter().chain([&KEEP]) {
        blank_image(&series.dir, name, *mib)?;
    }
    let mut random = Rng::with_seed(of.seed);
    for boot in 0..of.cuts {
        let after = Duration::from_millis(random.u64(..CUT_AFTER_MAX_MS));
        series.cut(boot, after, &mut random)?;
    }
    series.boot(of.cuts, "last", series.disks(None)?)?;
    let blank = blank_image(&series.dir, "blank", LOGGED[0].1 * 2)?;
    let mut medium = Disk::virtio(series.image("medium"), "medium");
    medium.read_only = true;
    let keep = Disk::virtio(series.image(KEEP.0), KEEP.0);
    let figures = series.boot(
        of.cuts + 1,
        "restore",
        vec![medium, Disk::virtio(blank, "blank"), keep],
    )?;
    fs::remove_dir_all(&series.dir).context("remove the disks")?;
    Ok(figures)
}

impl Series<'_> {
    fn image(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.img"))
    }

    /// The disks of a machine that is to be cut, their writes logged in this directory; or of one that is not.
    fn disks(&self, logs: Option<&Path>) -> Result<Vec<Disk>> {
        let mut disks = Vec::new();
        for (name, _) in LOGGED {
            let mut disk = Disk::virtio(self.image(name), name);
            if let Some(logs) = logs {
                disk.write_log = Some(blank_image(logs, &format!("{name}-log"), 0)?);
            }
            disks.push(disk);
        }
        disks.push(Disk::virtio(self.image(KEEP.0), KEEP.0));
        Ok(disks)
    }

    fn machine(&self, boot: u64, phase: &str, disks: Vec<Disk>, dir: PathBuf) -> Result<Machine<'_>> {
        let PowerCuts { fs, seed, .. } = self.of;
        Ok(Machine {
            kernel: &self.kernel,
            root: &self.root,
            disks,
            files: self.files.clone(),
            argv: script_command(&self.script)?,
            env: vec![
                ("BOOT".into(), boot.to_string()),
                ("PHASE".into(), phase.into()),
                ("FS".into(), fs.to_string()),
                ("SEED".into(), seed.to_string()),
            ],
            cwd: "/root".into(),
            systemd: false,
            mem_mib: 2048,
            timeout: BOOT_TIME_MAX,
            dir,
            kernel_args: String::new(),
        })
    }

    /// Boots, cuts the power some time after the guest allows it, and leaves the disks as they may be then.
    fn cut(&self, boot: u64, after: Duration, random: &mut Rng) -> Result<()> {
        let dir = self.dir.join(format!("boot-{boot}"));
        fs::create_dir(&dir).context("create directory of a boot")?;
        for (name, _) in LOGGED {
            copy_sparse(&self.image(name), &dir.join(format!("{name}.before")))?;
        }
        let machine = self.machine(boot, "cut", self.disks(Some(&dir))?, dir.clone())?;
        let cut = Cut {
            line: CUT_LINE,
            after,
        };
        machine
            .run_and_cut(&mut Shown, &cut)
            .with_context(|| format!("boot {boot}"))?;
        for (name, _) in LOGGED {
            let image = self.image(name);
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

    fn boot(&self, boot: u64, phase: &str, disks: Vec<Disk>) -> Result<Figures> {
        let dir = self.dir.join(format!("boot-{boot}"));
        let mut noted = Noted::new(Shown);
        let ended = self.machine(boot, phase, disks, dir)?.run(&mut noted)?;
        for warning in &ended.warnings {
            setup::say(&format!("the guest's kernel warns: {warning}"));
        }
        ensure!(
            ended.code == 0,
            "the script ended with {} in boot {boot} ({phase}); disks and logs: {}",
            ended.code,
            self.dir.display()
        );
        Ok(noted.figures)
    }
}

fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    cp.args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to);
    setup::run_quiet(&mut cp).with_context(|| format!("copy {}", from.display()))
}
