//! The medium is unplugged while it is written to, and plugged in again, many times in one boot.
//!
//! Owns when that happens, and QEMU's monitor. What happens in the guests is in `tests/scenarios/unplug.sh`, which says when it may be unplugged.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;

use super::figures::Figures;
use super::kernel::KernelLine;
use super::machine::{Disk, Shown, Sink};
use super::qemu::{MONITOR, usb_device, usb_storage};
use super::roundtrip::FileSystem;
use super::series::{KEEP, Series};
use crate::setup;

/// What the guest says when the medium is mounted and is being written to.
const READY_LINE: &str = "-- unplug";
/// Longest time from then until it is unplugged.
const UNPLUG_AFTER_MAX_MS: u64 = 5_000;
/// How long it is away.
const AWAY_MS: std::ops::Range<u64> = 300..7_000;
const MEDIUM: &str = "medium";
/// The disks and their sizes, MiB.
const DISKS: [(&str, u64); 3] = [("origin", 768), ("spool", 4096), (MEDIUM, 6144)];
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
    let Unplugs {
        kernel,
        fs,
        count,
        seed,
    } = *of;
    let env = [
        ("FS", fs.to_string()),
        ("SEED", seed.to_string()),
        ("UNPLUGS", count.to_string()),
    ];
    let series = Series::new("unplug.sh", kernel, &DISKS, &env, BOOT_TIME_MAX)?;
    setup::say(&format!("{of}; disks and logs: {}", series.dir.display()));
    let disks = DISKS.iter().chain([&KEEP]).map(|&(name, _)| match name {
        MEDIUM => Disk {
            pluggable: true,
            ..Disk::usb(series.image(name), name, false)
        },
        _ => Disk::virtio(series.image(name), name),
    });
    let machine = series.machine("record", "record", disks.collect())?;
    let mut hand = Hand::new(of, machine.dir.join(MONITOR));
    series.run(machine, &mut hand)?;
    ensure!(
        hand.left == 0,
        "it was to be unplugged {} times more when the guest ended",
        hand.left
    );
    series.restore(DISKS[0].1 * 2)
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
