//! The medium is unplugged while it is written to, and plugged in again, many times in one boot.
//!
//! Owns when that happens, and QEMU's monitor. What happens in the guests is in `tests/scenarios/unplug.sh`, which says when it may be unplugged.

use std::fmt;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;

use super::figures::{Figures, Noted};
use super::kernel::{self, Kernel, KernelLine};
use super::machine::{Disk, Machine, Sink};
use super::qemu::{MONITOR, usb_device, usb_storage};
use super::roundtrip::{FileSystem, Shown};
use super::run::{GUEST_LIBRARY, GUEST_SCRIPT, project_binaries, script_command};
use super::{blank_image, ensure_host, root, run_dir};
use crate::setup;

/// What the guest says when the medium is mounted and is being written to.
const READY_LINE: &str = "-- unplug";
/// Longest time from then until it is unplugged.
const UNPLUG_AFTER_MAX_MS: u64 = 5_000;
/// How long it is away.
const AWAY_MS: std::ops::Range<u64> = 300..7_000;
const MEDIUM: &str = "medium";
/// The other disks and their sizes, MiB.
const DISKS: [(&str, u64); 3] = [("origin", 768), ("spool", 4096), ("keep", 256)];
const MEDIUM_MIB: u64 = 6144;
/// Time that each boot may take.
const BOOT_TIME_MAX: Duration = Duration::from_secs(1200);
/// How long the monitor may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
const PROMPT: &str = "(qemu) ";

/// One series.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unplugs {
    pub(crate) kernel: KernelLine,
    pub(crate) fs: FileSystem,
    /// How often the medium is unplugged.
    pub(crate) count: u64,
    pub(crate) seed: u64,
}

impl fmt::Display for Unplugs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel,
            fs,
            count,
            seed,
        } = self;
        write!(
            f,
            "unplug.sh on {kernel}, {fs}: unplugged {count} times, seed {seed}"
        )
    }
}

/// What is run on every change: few times, at the same moments each time.
pub(crate) const CI: Unplugs = Unplugs {
    kernel: KernelLine::K6_12,
    fs: FileSystem::Ext4,
    count: 4,
    seed: 1,
};
/// How often it is unplugged in one series, where many are made.
pub(crate) const COUNT: u64 = 10;

/// Records while the medium comes and goes, and restores in a machine that has only the medium. Gives the figures of that one.
///
/// # Errors
/// When a machine fails, or a script says that something is not as it was.
pub(crate) fn pass(of: &Unplugs) -> Result<Figures> {
    ensure_host()?;
    let scenarios = setup::workspace_root().join("tests/scenarios");
    let script = scenarios.join("unplug.sh");
    let mut files = project_binaries(None)?;
    files.push((script.clone(), GUEST_SCRIPT.into()));
    files.push((scenarios.join("lib.sh"), GUEST_LIBRARY.into()));
    let dir = run_dir("unplug")?;
    setup::say(&format!("{of}; disks and logs: {}", dir.display()));
    for (name, mib) in DISKS.iter().chain([&(MEDIUM, MEDIUM_MIB)]) {
        blank_image(&dir, name, *mib)?;
    }
    let series = Series {
        of,
        kernel: kernel::ensure_kernel(of.kernel)?,
        root: root::ensure_root(&[])?,
        files,
        script,
        dir,
    };
    let image = |name: &str| series.dir.join(format!("{name}.img"));
    let mut disks: Vec<Disk> = DISKS
        .iter()
        .map(|(name, _)| Disk::virtio(image(name), name))
        .collect();
    disks.push(Disk {
        pluggable: true,
        ..Disk::usb(image(MEDIUM), MEDIUM, false)
    });
    let recorded = series.dir.join("record");
    let mut hand = Hand::new(of, recorded.join(MONITOR));
    series.boot("record", disks, recorded, &mut hand)?;
    ensure!(
        hand.left == 0,
        "it was to be unplugged {} times more when the guest ended",
        hand.left
    );
    let blank = blank_image(&series.dir, "blank", DISKS[0].1 * 2)?;
    let mut medium = Disk::virtio(image(MEDIUM), MEDIUM);
    medium.read_only = true;
    let disks = vec![
        medium,
        Disk::virtio(blank, "blank"),
        Disk::virtio(image("keep"), "keep"),
    ];
    let mut noted = Noted::new(Shown);
    series.boot("restore", disks, series.dir.join("restore"), &mut noted)?;
    fs::remove_dir_all(&series.dir).context("remove the disks")?;
    Ok(noted.figures)
}

/// What both machines share.
struct Series<'a> {
    of: &'a Unplugs,
    kernel: Kernel,
    root: PathBuf,
    files: Vec<(PathBuf, String)>,
    script: PathBuf,
    dir: PathBuf,
}

impl Series<'_> {
    fn boot(&self, phase: &str, disks: Vec<Disk>, dir: PathBuf, sink: &mut dyn Sink) -> Result<()> {
        let Unplugs { fs, count, seed, .. } = self.of;
        let machine = Machine {
            kernel: &self.kernel,
            root: &self.root,
            disks,
            files: self.files.clone(),
            argv: script_command(&self.script)?,
            env: vec![
                ("PHASE".into(), phase.into()),
                ("FS".into(), fs.to_string()),
                ("SEED".into(), seed.to_string()),
                ("UNPLUGS".into(), count.to_string()),
            ],
            cwd: "/root".into(),
            systemd: false,
            mem_mib: 2048,
            timeout: BOOT_TIME_MAX,
            dir,
            kernel_args: String::new(),
        };
        let ended = machine.run(sink)?;
        for warning in &ended.warnings {
            setup::say(&format!("the guest's kernel warns: {warning}"));
        }
        ensure!(
            ended.code == 0,
            "the script ended with {} ({phase}); disks and logs: {}",
            ended.code,
            self.dir.display()
        );
        Ok(())
    }
}

/// When something is done next.
enum Next {
    /// The guest has not said that it may be unplugged.
    Asked,
    Unplug(Instant),
    Plug(Instant),
}

/// The hand at the plug: passes the guest's output on, and moves when it says so, some time later.
struct Hand {
    monitor: PathBuf,
    random: Rng,
    left: u64,
    next: Next,
    line: Vec<u8>,
}

impl Hand {
    fn new(of: &Unplugs, monitor: PathBuf) -> Self {
        Self {
            monitor,
            random: Rng::with_seed(of.seed),
            left: of.count,
            next: Next::Asked,
            line: Vec::new(),
        }
    }

    /// Looks at the guest's output, line by line, and at the time.
    fn look(&mut self, bytes: &[u8]) -> Result<()> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            if self.line == READY_LINE.as_bytes() && self.left > 0 {
                let after = Duration::from_millis(self.random.u64(..UNPLUG_AFTER_MAX_MS));
                self.next = Next::Unplug(Instant::now() + after);
            }
            self.line.clear();
        }
        match self.next {
            Next::Unplug(at) if at <= Instant::now() => {
                ask(&self.monitor, &format!("device_del {}", usb_device(MEDIUM)))?;
                let away = Duration::from_millis(self.random.u64(AWAY_MS));
                setup::say(&format!("unplugged, {} ms", away.as_millis()));
                self.next = Next::Plug(Instant::now() + away);
            }
            Next::Plug(at) if at <= Instant::now() => {
                ask(&self.monitor, &format!("device_add {}", usb_storage(MEDIUM)))?;
                self.left -= 1;
                self.next = Next::Asked;
            }
            Next::Asked | Next::Unplug(_) | Next::Plug(_) => {}
        }
        Ok(())
    }
}

impl Sink for Hand {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        Shown.stdout(bytes)?;
        self.look(bytes).map_err(io::Error::other)
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        Shown.stderr(bytes)
    }
}

/// Gives QEMU's monitor a command; it says nothing where all is well.
fn ask(monitor: &Path, command: &str) -> Result<()> {
    let context = || format!("tell QEMU's monitor: {command}");
    let mut stream = UnixStream::connect(monitor).with_context(context)?;
    stream.set_read_timeout(Some(ANSWER_MAX)).with_context(context)?;
    answer(&mut stream).with_context(context)?;
    writeln!(stream, "{command}").with_context(context)?;
    let said = answer(&mut stream).with_context(context)?;
    if said.contains("Error") {
        bail!("QEMU's monitor refuses {command}: {said}");
    }
    Ok(())
}

/// Reads up to the prompt.
fn answer(stream: &mut UnixStream) -> io::Result<String> {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let got = stream.read(&mut buffer)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        said.extend_from_slice(&buffer[..got]);
        let text = String::from_utf8_lossy(&said);
        if text.ends_with(PROMPT) {
            return Ok(text.into_owned());
        }
    }
}
