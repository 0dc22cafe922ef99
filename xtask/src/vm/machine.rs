//! One run of one virtual machine: its initramfs and disks, and watching it to the end. QEMU's command line is in `qemu`.
//!
//! Owns the contract with `guest-init` (tests/src/bin/guest-init.rs): disks are found by serial number, output comes
//! through named ports, and only the line `GUEST-EXIT n` on the control port counts as an end; `GUEST-JOB` says that the
//! job begins. It knows nothing of what a job does.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use super::cpio::Archive;
use super::kernel::Kernel;
use super::tail::{Lines, Tail};
use crate::setup;

/// Console lines after which a guest is not worth waiting for.
const FATAL_MARKERS: &[&str] = &[
    "Kernel panic",
    "BUG: ",
    "Oops: ",
    "soft lockup",
    "hard LOCKUP",
    "detected stalls on CPUs",
    "self-detected stall",
];
/// Console lines that are worth telling about, but do not end the run.
const WARNING_MARKERS: &[&str] = &["WARNING: ", "blocked for more than"];
/// How long a guest may still print its stack trace after a fatal marker.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// A boot takes ten seconds, on a machine with too much to do some more. One that hangs is not waited for as long as a job may take.
const BOOT_TIME_MAX: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(40);
/// Lines of the console shown when a guest dies.
const CONSOLE_TAIL_LINES: usize = 60;
/// Room for what a job leaves in `/results`; sparse.
const RESULTS_BYTES: u64 = 4 << 30;

/// A disk of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Raw image on the host.
    pub(crate) image: PathBuf,
    /// Found in the guest as `/dev/guest/NAME`; at most 20 bytes, as virtio's serial numbers are.
    pub(crate) name: String,
    /// On a USB port instead of virtio.
    pub(crate) usb: bool,
    /// Can be unplugged and plugged in again while the machine runs (`unplug`); for USB disks only.
    pub(crate) pluggable: bool,
    /// The guest cannot write to it.
    pub(crate) read_only: bool,
    /// File that gets a log of all writes (`blocklog`); for virtio disks only.
    pub(crate) write_log: Option<PathBuf>,
}

impl Disk {
    /// A disk that the guest can write to, on virtio.
    pub(crate) fn virtio(image: PathBuf, name: &str) -> Self {
        Self {
            image,
            name: name.into(),
            usb: false,
            pluggable: false,
            read_only: false,
            write_log: None,
        }
    }

    /// A disk on a USB port.
    pub(crate) fn usb(image: PathBuf, name: &str, read_only: bool) -> Self {
        Self {
            image,
            name: name.into(),
            usb: true,
            pluggable: false,
            read_only,
            write_log: None,
        }
    }
}

/// When a machine is to lose its power.
pub(crate) struct Cut<'a> {
    /// A line of the job's stdout.
    pub(crate) line: &'a str,
    /// How long after it.
    pub(crate) after: Duration,
}

/// How the watching of a machine ended.
enum Watched {
    /// It ended by itself, with these warnings.
    Ended(Vec<String>),
    /// Its power was cut.
    Cut,
}

/// Everything about one run.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Kernel,
    /// Image of the Debian root; changes are thrown away.
    pub(crate) root: &'a Path,
    pub(crate) disks: Vec<Disk>,
    /// Host path and absolute guest path of files and directories to bring in.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Program and arguments, run as root.
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: String,
    /// Boot systemd first.
    pub(crate) systemd: bool,
    pub(crate) mem_mib: u32,
    pub(crate) timeout: Duration,
    /// Directory of the run: logs stay there, `/results` of the guest arrives in `results`.
    pub(crate) dir: PathBuf,
    /// Added to the kernel's command line.
    pub(crate) kernel_args: String,
    /// Emulate the processors in turns, not at once.
    pub(crate) in_turns: bool,
}

/// Where the job's output goes while it runs.
pub(crate) trait Sink {
    /// A piece of the job's stdout.
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// A piece of the job's stderr.
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Passes everything on.
pub(crate) struct Through;

impl Sink for Through {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(bytes)
    }
}

/// The guests' output goes to stderr: stdout is for the verdict.
pub(crate) struct Shown;

impl Sink for Shown {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(bytes)
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(bytes)
    }
}

/// How a run ended that did end as it should.
pub(crate) struct Ended {
    /// Exit code of the job.
    pub(crate) code: u8,
    /// Time from QEMU's start to its end.
    pub(crate) took: Duration,
    /// Warnings of the guest's kernel.
    pub(crate) warnings: Vec<String>,
}

/// The job as `guest-init` reads it.
#[derive(Serialize)]
struct Job<'a> {
    argv: &'a [String],
    env: &'a [(String, String)],
    cwd: &'a str,
    systemd: bool,
    root_serial: &'a str,
    input_serial: Option<&'a str>,
    results_serial: Option<&'a str>,
    disks: Vec<&'a str>,
    usb_disks: Vec<&'a str>,
}

impl Machine<'_> {
    /// Boots, runs the job, collects its results.
    ///
    /// # Errors
    /// When the guest dies, hangs, runs out of time, or ends without saying how; the end of its console is then on
    /// stderr. A job that fails is not an error here: its exit code is in [`Ended`].
    pub(crate) fn run(&self, sink: &mut dyn Sink) -> Result<Ended> {
        self.once_more_at_boot(|| self.run_once(sink))
    }

    /// Emulated processors fail now and then while a kernel patches its own code at boot. Nothing has been tried yet then.
    fn once_more_at_boot<T>(&self, mut run: impl FnMut() -> Result<T>) -> Result<T> {
        match run() {
            Err(error) if self.ended_at_boot() => {
                setup::say(&format!("{error:#}; its job had not begun: booting once more"));
                run()
            }
            ended => ended,
        }
    }

    fn ended_at_boot(&self) -> bool {
        let says = |log| fs::read(self.log(log)).unwrap_or_default();
        !says("console").is_empty() && !String::from_utf8_lossy(&says("control")).contains("GUEST-JOB")
    }

    fn run_once(&self, sink: &mut dyn Sink) -> Result<Ended> {
        let (results, started, mut qemu) = self.start()?;
        let watched = self.watch(&mut qemu.0, sink, None);
        drop(qemu);
        let warnings = match watched {
            Ok(Watched::Ended(warnings)) => warnings,
            Ok(Watched::Cut) => bail!("nobody asked for a cut"),
            Err(error) => {
                self.show_console_tail();
                return Err(error);
            }
        };
        let Some(code) = self.exit_code()? else {
            self.show_console_tail();
            bail!("the guest ended without the exit code of its job");
        };
        self.unpack_results(&results)?;
        self.remove_bulky()?;
        Ok(Ended {
            code,
            took: started.elapsed(),
            warnings,
        })
    }

    /// Boots, runs the job, and ends the machine hard. What the guest had in memory is gone.
    ///
    /// # Errors
    /// When it ends before that, or does not get there.
    pub(crate) fn run_and_cut(&self, sink: &mut dyn Sink, cut: &Cut<'_>) -> Result<()> {
        self.once_more_at_boot(|| self.cut_once(sink, cut))
    }

    fn cut_once(&self, sink: &mut dyn Sink, cut: &Cut<'_>) -> Result<()> {
        let (_, _, mut qemu) = self.start()?;
        let watched = self.watch(&mut qemu.0, sink, Some(cut));
        drop(qemu);
        match watched {
            Ok(Watched::Cut) => self.remove_bulky(),
            Ok(Watched::Ended(_)) => {
                self.show_console_tail();
                bail!("the guest ended before it could be cut");
            }
            Err(error) => {
                self.show_console_tail();
                Err(error)
            }
        }
    }

    fn remove_bulky(&self) -> Result<()> {
        for bulky in ["initramfs", "input.cpio", "results.tar"] {
            fs::remove_file(self.dir.join(bulky)).with_context(|| format!("remove {bulky}"))?;
        }
        Ok(())
    }

    /// Makes everything that QEMU needs, and starts it.
    fn start(&self) -> Result<(PathBuf, Instant, Running)> {
        fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        self.write_initramfs()?;
        self.write_input()?;
        let results = self.dir.join("results.tar");
        File::create(&results)
            .and_then(|f| f.set_len(RESULTS_BYTES))
            .context("create results disk")?;
        for log in self.disks.iter().filter_map(|disk| disk.write_log.as_ref()) {
            File::create(log).context("begin a log of writes")?;
        }
        for name in ["console", "stdout", "stderr", "control"] {
            File::create(self.log(name)).with_context(|| format!("create {name} log"))?;
        }
        let started = Instant::now();
        let qemu = Running(self.qemu()?.spawn().context("start QEMU")?);
        Ok((results, started, qemu))
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    fn write_initramfs(&self) -> Result<()> {
        let job = Job {
            argv: &self.argv,
            env: &self.env,
            cwd: &self.cwd,
            systemd: self.systemd,
            root_serial: "guest-root",
            input_serial: Some("guest-input"),
            results_serial: Some("guest-results"),
            disks: self
                .disks
                .iter()
                .filter(|d| !d.usb)
                .map(|d| d.name.as_str())
                .collect(),
            usb_disks: self
                .disks
                .iter()
                .filter(|d| d.usb)
                .map(|d| d.name.as_str())
                .collect(),
        };
        let mut out = BufWriter::new(File::create(self.dir.join("initramfs")).context("create initramfs")?);
        io::copy(
            &mut File::open(&self.kernel.modules).context("open modules archive")?,
            &mut out,
        )
        .context("copy modules archive")?;
        let mut archive = Archive::new(out);
        archive.tree(&guest_init()?, "init")?;
        archive.bytes(
            "job.json",
            0o644,
            &serde_json::to_vec(&job).context("describe the job")?,
        )?;
        archive.finish()?;
        Ok(())
    }

    fn write_input(&self) -> Result<()> {
        let file = File::create(self.dir.join("input.cpio")).context("create input disk")?;
        let mut archive = Archive::new(BufWriter::new(file));
        for (host, guest) in &self.files {
            ensure!(guest.starts_with('/'), "guest path {guest} is not absolute");
            archive
                .tree(host, guest)
                .with_context(|| format!("bring {} into the guest", host.display()))?;
        }
        archive.finish()?;
        Ok(())
    }

    /// Passes output on until QEMU ends, or is to be cut; ends it when the guest is beyond help.
    fn watch(&self, qemu: &mut Child, sink: &mut dyn Sink, cut: Option<&Cut<'_>>) -> Result<Watched> {
        let mut stdout = Tail::open(self.log("stdout"))?;
        let mut stderr = Tail::open(self.log("stderr"))?;
        let mut console = Lines::new(Tail::open(self.log("console"))?);
        let started = Instant::now();
        let mut warnings = Vec::new();
        let mut fatal: Option<(String, Instant)> = None;
        let (mut said, mut cut_at) = (Vec::new(), None);
        let mut has_begun = false;
        loop {
            // Asked first: what is read after the end is all there is.
            let ended = qemu.try_wait().context("wait for QEMU")?;
            let out = stdout.read()?;
            sink.stdout(&out).context("pass on output of the guest")?;
            if let (Some(cut), None) = (cut, cut_at) {
                said.extend_from_slice(&out);
                let mut lines = said.split(|byte| *byte == b'\n');
                if lines.any(|line| line == cut.line.as_bytes()) {
                    cut_at = Some(Instant::now() + cut.after);
                }
            }
            if cut_at.is_some_and(|at| Instant::now() >= at) {
                return Ok(Watched::Cut);
            }
            sink.stderr(&stderr.read()?)
                .context("pass on output of the guest")?;
            for line in console.read()? {
                if WARNING_MARKERS.iter().any(|m| line.contains(m)) {
                    warnings.push(line.clone());
                }
                if fatal.is_none() && FATAL_MARKERS.iter().any(|m| line.contains(m)) {
                    fatal = Some((line, Instant::now()));
                }
            }
            if let Some((line, since)) = &fatal
                && (ended.is_some() || since.elapsed() > LAST_WORDS)
            {
                bail!("the guest's kernel failed: {line}");
            }
            if let Some(status) = ended {
                let log = fs::read_to_string(self.log("qemu")).unwrap_or_default();
                ensure!(status.success(), "QEMU ended with {status}: {}", log.trim());
                return Ok(Watched::Ended(warnings));
            }
            if !has_begun && started.elapsed() > BOOT_TIME_MAX {
                let seconds = BOOT_TIME_MAX.as_secs();
                ensure!(
                    !self.ended_at_boot(),
                    "the guest did not begin its job within {seconds} s"
                );
                has_begun = true;
            }
            if started.elapsed() > self.timeout {
                bail!("the guest did not end within {} s", self.timeout.as_secs());
            }
            thread::sleep(POLL);
        }
    }

    fn show_console_tail(&self) {
        let console = fs::read(self.log("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&console).replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(CONSOLE_TAIL_LINES);
        setup::say("the end of the guest's console:");
        for line in &lines[first..] {
            eprintln!("    {line}");
        }
        setup::say(&format!("all of it: {}", self.log("console").display()));
    }

    /// The last line on the control port, if it is what `guest-init` ends with.
    fn exit_code(&self) -> Result<Option<u8>> {
        let text = fs::read_to_string(self.log("control")).context("read control log")?;
        let last = text
            .lines()
            .last()
            .and_then(|line| line.strip_prefix("GUEST-EXIT "));
        last.map(|code| code.parse().with_context(|| format!("read exit code {code:?}")))
            .transpose()
    }

    fn unpack_results(&self, archive: &Path) -> Result<()> {
        let dir = self.dir.join("results");
        fs::create_dir_all(&dir).context("create results directory")?;
        let mut tar = Command::new("tar");
        tar.arg("--extract")
            .arg("--no-same-owner")
            .arg("--file")
            .arg(archive)
            .arg("--directory")
            .arg(&dir);
        setup::run_quiet(&mut tar).context("unpack the results of the guest")
    }
}

/// Ends QEMU however the run ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            _ = self.0.kill();
            _ = self.0.wait();
        }
    }
}

/// `guest-init`, without its debug information.
pub(super) fn guest_init() -> Result<PathBuf> {
    super::stripped("guest-init")
}
