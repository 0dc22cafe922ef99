//! `cargo xtask vm roundtrip`: record a workload in one machine, rebuild it in another from the medium alone, compare.
//!
//! Owns the order of a round trip. What happens inside the guests is in `guest/*.sh`, what it came to in `verdict`.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};

use super::kernel::{self, Kernel, KernelLine};
use super::machine::{Disk, Ended, Machine, Shown, Sink};
use super::run::{GUEST_SCRIPT, project_binaries, script_command};
use super::verdict::{Oracle, Report, compare, print_verdict, tell_details};
use super::{blank_image, blocklog, check_script, finish, parse_file, root, run_dir};
use crate::{Outcome, setup};

const RECORD: &str = include_str!("guest/record.sh");
const RESTORE: &str = include_str!("guest/restore.sh");
const MARK: &str = include_str!("guest/mark.sh");
const MARK_EACH: &str = include_str!("guest/mark-each.sh");
/// Room for the spool; sparse.
const SPOOL_MIB: u64 = 4096;
/// Begins the name of a point that is restored record by record, and of one that is restored a second time.
const STEPS: &str = "steps-";
const AGAIN: &str = "again-";
/// Size of the origin and of the blank disk, when nothing else is said.
const SIZE_MIB: u64 = 2048;
/// Memory of each machine, when nothing else is said.
const MEM_MIB: u32 = 3072;
/// Time that each machine may take, when nothing else is said.
const TIMEOUT_S: u64 = 1200;
/// The disk that was rebuilt from the log of the origin's writes.
const LOGGED: &str = "logged";
/// Point of a report, and digest: that disk, read through its file system.
const BLOCK_LOG: &str = "block-log";
/// The medium has at least this room; sparse.
const MEDIUM_MIB_MIN: u64 = 8192;

/// A file system that can be recorded, or restored onto.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileSystem {
    /// ext4
    Ext4,
    /// XFS
    Xfs,
    /// Btrfs
    Btrfs,
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        })
    }
}

/// Arguments of `cargo xtask vm roundtrip`: what to do, and how to tell.
#[derive(Args)]
pub(crate) struct RoundtripArgs {
    #[command(flatten)]
    trip: Trip,
    /// Keep the medium, the digests and all logs in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print the result as one JSON document
    #[arg(long)]
    json: bool,
}

/// One round trip.
#[derive(Args, Clone, Debug)]
pub(crate) struct Trip {
    /// Kernel of both machines
    #[arg(long, value_enum)]
    pub(crate) kernel: KernelLine,
    /// File system to record
    #[arg(long, value_enum)]
    pub(crate) fs: FileSystem,
    /// File system to restore onto (as recorded, if not given)
    #[arg(long, value_enum, value_name = "FS")]
    pub(crate) to_fs: Option<FileSystem>,
    /// Further option for mkfs of the origin, as in `--mkfs-option=-Oproject`
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    pub(crate) mkfs_option: Vec<String>,
    /// The workload: an executable, started as root in the mounted origin; `MARK name` sets a mark and keeps a digest
    #[arg(long)]
    pub(crate) script: PathBuf,
    /// Bash script to run in the origin before recording begins; what it leaves running writes during the base scan
    #[arg(long, value_name = "FILE")]
    pub(crate) before: Option<PathBuf>,
    /// File or directory to bring into the first machine
    #[arg(long, value_name = "HOST:GUEST", value_parser = parse_file)]
    pub(crate) file: Vec<(PathBuf, String)>,
    /// Further Debian package in the first machine
    #[arg(long, value_name = "DEB")]
    pub(crate) package: Vec<String>,
    /// Log every write to the origin's disk below the file system, rebuild the disk from that log, compare with it too
    #[arg(long)]
    pub(crate) block_log: bool,
    /// Set a mark after every top-level command of the script, which must be one for bash
    #[arg(long)]
    pub(crate) mark_each: bool,
    /// Restore every point also record by record, and the end twice: all must give what the first restore gives
    #[arg(long)]
    pub(crate) steps: bool,
    /// List the journal's rows about names, snapshots and holes, as the matrix wants them (with --keep: restore/results/journal.jsonl)
    #[arg(long)]
    pub(crate) rows: bool,
    /// Size of the origin and of the blank disk, MiB
    #[arg(long, default_value_t = SIZE_MIB)]
    pub(crate) size: u64,
    /// Memory of each machine, MiB
    #[arg(long, default_value_t = MEM_MIB)]
    pub(crate) mem: u32,
    /// Take recorder, replayer and oracle from this directory, as they are, instead of building them
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Time that each machine may take, seconds
    #[arg(long, value_name = "S", default_value_t = TIMEOUT_S)]
    pub(crate) timeout: u64,
}

impl Trip {
    /// A round trip as the command line makes it when nothing else is said.
    pub(crate) fn new(kernel: KernelLine, fs: FileSystem, script: PathBuf) -> Self {
        Self {
            kernel,
            fs,
            to_fs: None,
            mkfs_option: Vec::new(),
            script,
            before: None,
            file: Vec::new(),
            package: Vec::new(),
            block_log: false,
            mark_each: false,
            steps: false,
            rows: false,
            size: SIZE_MIB,
            mem: MEM_MIB,
            bin_dir: None,
            timeout: TIMEOUT_S,
        }
    }
}

/// Runs `cargo xtask vm roundtrip`.
pub(super) fn run(args: RoundtripArgs) -> Outcome {
    let RoundtripArgs { trip, keep, json } = args;
    let started = Instant::now();
    let report = match roundtrip(&trip, keep.as_deref(), &mut Shown) {
        Err(error) if json => {
            println!(
                "{}",
                serde_json::json!({ "ok": false, "error": format!("{error:#}") })
            );
            setup::say(&format!("error: {error:#}"));
            return Ok(ExitCode::FAILURE);
        }
        report => report?,
    };
    if json {
        println!(
            "{}",
            serde_json::to_string_pretty(&report).context("write the report as JSON")?
        );
    } else {
        print_verdict(&report);
    }
    tell_details(&report, started.elapsed());
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Makes one round trip: the general form, which every scenario and the demo use.
///
/// # Errors
/// When a machine fails, or recording or restoring does. Trees that differ are no error but a [`Report`].
pub(crate) fn roundtrip(trip: &Trip, keep: Option<&Path>, sink: &mut dyn Sink) -> Result<Report> {
    let stage = Stage::prepare(trip)?;
    let report = stage.record(sink).and_then(|recorded| {
        let restored = stage.restore(&recorded, sink)?;
        stage.report(recorded, restored)
    });
    match &report {
        Ok(report) if report.ok || keep.is_some() => finish(&stage.dir, keep)?,
        _ if keep.is_some() => finish(&stage.dir, keep)?,
        _ => setup::say(&format!(
            "medium, digests and logs are in {}",
            stage.dir.display()
        )),
    }
    report
}

/// Everything that both machines share.
pub(crate) struct Stage<'a> {
    trip: &'a Trip,
    kernel: Kernel,
    binaries: Vec<(PathBuf, String)>,
    dir: PathBuf,
    medium: PathBuf,
}

/// What the first machine left.
pub(crate) struct Recorded {
    ended: Ended,
    /// Points with a digest, the final state first.
    points: Vec<String>,
}

impl<'a> Stage<'a> {
    /// Gets everything ready that the machines need, building and fetching what is missing.
    pub(crate) fn prepare(trip: &'a Trip) -> Result<Self> {
        for script in std::iter::once(&trip.script).chain(&trip.before) {
            check_script(script)?;
        }
        if trip.mark_each {
            let start = fs::read(&trip.script).context("read the script")?;
            let first = start.split(|b| *b == b'\n').next().unwrap_or_default();
            let bash = !first.starts_with(b"#!") || String::from_utf8_lossy(first).contains("sh");
            ensure!(
                bash && !start.starts_with(b"\x7fELF"),
                "--mark-each wants a script for bash"
            );
        }
        ensure!(
            trip.mkfs_option
                .iter()
                .all(|option| !option.contains(char::is_whitespace)),
            "an option for mkfs must be one word: give each its own --mkfs-option"
        );
        let kernel = kernel::ensure_kernel(trip.kernel)?;
        let binaries = project_binaries(trip.bin_dir.as_deref())?;
        let dir = run_dir("roundtrip")?;
        let medium = blank_image(&dir, "medium", MEDIUM_MIB_MIN.max(trip.size.saturating_mul(4)))?;
        Ok(Self {
            trip,
            kernel,
            binaries,
            dir,
            medium,
        })
    }

    /// Where the medium, the digests and the logs are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The first machine: origin, workload, medium.
    pub(crate) fn record(&self, sink: &mut dyn Sink) -> Result<Recorded> {
        let trip = self.trip;
        setup::say(&format!(
            "first machine: kernel {}, recording {}",
            self.kernel.release, trip.fs
        ));
        let guest = self.write_guest_scripts()?;
        let mut files = self.binaries.clone();
        files.extend(trip.file.iter().cloned());
        files.push((trip.script.clone(), GUEST_SCRIPT.into()));
        files.push((guest.join("mark"), "/usr/local/bin/MARK".into()));
        files.push((guest.join("record"), "/opt/job/record".into()));
        files.push((guest.join("mark-each"), "/opt/job/mark-each".into()));
        if let Some(before) = &trip.before {
            files.push((before.clone(), "/opt/job/before".into()));
        }
        let mut argv = vec!["/opt/job/record".to_string()];
        argv.extend(script_command(&trip.script)?);
        let dir = self.dir.join("record");
        fs::create_dir(&dir).context("create directory of the first machine")?;
        let mut origin = Disk::virtio(blank_image(&dir, "origin", trip.size)?, "origin");
        if trip.block_log {
            origin.write_log = Some(blank_image(&dir, "origin-log", 0)?);
        }
        let spool = Disk::virtio(blank_image(&dir, "spool", SPOOL_MIB)?, "spool");
        let disks = vec![origin, spool, Disk::usb(self.medium.clone(), "medium", false)];
        let flag = |set: bool| u8::from(set).to_string();
        let env = vec![
            ("FS".into(), trip.fs.to_string()),
            ("MKFS_OPTIONS".into(), trip.mkfs_option.join(" ")),
            ("MARK_EACH".into(), flag(trip.mark_each)),
            ("BEFORE".into(), flag(trip.before.is_some())),
            ("ATTACH_WAIT_S".into(), (trip.timeout / 2).to_string()),
        ];
        let root = root::ensure_root(&trip.package)?;
        let ended = self
            .machine(&root, disks, files, argv, env, dir.clone())
            .run(sink)
            .context("first machine")?;
        ensure!(
            ended.code == 0,
            "recording failed in the first machine (code {}); its logs: {}",
            ended.code,
            dir.display()
        );
        let mut points = vec!["final".to_string()];
        let mut marks: Vec<String> = fs::read_dir(dir.join("results/digests"))
            .context("list digests")?
            .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()
            .context("list digests")?;
        marks.retain(|name| name.starts_with("mark-"));
        marks.sort();
        points.extend(marks);
        if trip.steps {
            let stepwise: Vec<String> = points.iter().map(|point| format!("{STEPS}{point}")).collect();
            points.extend(stepwise);
            points.push(format!("{AGAIN}final"));
        }
        if trip.block_log {
            self.replay_log(&dir.join("origin-log.img"))?;
        }
        for image in ["origin.img", "spool.img"] {
            // The disk is lost: nothing of it may help the second machine.
            fs::remove_file(dir.join(image)).with_context(|| format!("remove {image}"))?;
        }
        Ok(Recorded { ended, points })
    }

    /// Rebuilds the origin's disk from the writes that QEMU has seen: what neither recorder nor replayer had a part in.
    fn replay_log(&self, log: &Path) -> Result<()> {
        let image = blank_image(&self.dir, LOGGED, self.trip.size)?;
        let replayed = blocklog::replay(log, &image).context("replay the log of the origin's disk")?;
        setup::say(&format!(
            "the log of the origin's disk has {} entries, {} MiB of writes",
            replayed.entries,
            replayed.bytes >> 20
        ));
        fs::remove_file(log).context("remove the log of the origin's disk")
    }

    /// The second machine: the medium, read-only, and a blank disk.
    pub(crate) fn restore(&self, recorded: &Recorded, sink: &mut dyn Sink) -> Result<Ended> {
        let trip = self.trip;
        setup::say(&format!(
            "second machine: the medium and a blank disk, {} to restore",
            counted(recorded.points.len())
        ));
        let guest = self.write_guest_scripts()?;
        let files = vec![
            (self.oracle()?.to_path_buf(), "/usr/local/bin/oracle".into()),
            (guest.join("restore"), "/opt/job/restore".into()),
        ];
        let mut argv = vec!["/opt/job/restore".to_string()];
        argv.extend(recorded.points.iter().cloned());
        let dir = self.dir.join("restore");
        fs::create_dir(&dir).context("create directory of the second machine")?;
        let mut disks = vec![
            Disk::virtio(blank_image(&dir, "blank", trip.size)?, "blank"),
            Disk::usb(self.medium.clone(), "medium", true),
        ];
        if trip.block_log {
            disks.push(Disk::virtio(self.dir.join(format!("{LOGGED}.img")), LOGGED));
        }
        let env = vec![
            (
                "MKFS".into(),
                trip.to_fs.map(|fs| fs.to_string()).unwrap_or_default(),
            ),
            ("BLOCK_LOG".into(), u8::from(trip.block_log).to_string()),
            ("ROWS".into(), u8::from(trip.rows).to_string()),
        ];
        let root = root::ensure_root(&[])?;
        self.machine(&root, disks, files, argv, env, dir)
            .run(sink)
            .context("second machine")
    }

    /// Compares what both machines saw.
    pub(crate) fn report(&self, recorded: Recorded, restored: Ended) -> Result<Report> {
        let Recorded { ended, points } = recorded;
        let results = self.dir.join("record/results");
        let read =
            |name: &str| fs::read_to_string(results.join(name)).with_context(|| format!("read {name}"));
        let number = |name: &str| {
            read(name)?
                .trim()
                .parse::<u64>()
                .with_context(|| format!("read number in {name}"))
        };
        let digest = |machine: &str, name: &str| self.dir.join(machine).join("results/digests").join(name);
        // What only one of two file systems holds cannot come back.
        let oracle = Oracle {
            program: self.oracle()?,
            held_by: self.trip.to_fs.map(|to_fs| [self.trip.fs, to_fs]),
        };
        let mut points = points
            .iter()
            .map(|name| {
                compare(
                    &oracle,
                    name,
                    &digest("record", live_point(name)),
                    &digest("restore", name),
                )
            })
            .collect::<Result<Vec<_>>>()?;
        if self.trip.block_log {
            let (logged, end) = (digest("restore", BLOCK_LOG), digest("restore", "final"));
            points.push(compare(&oracle, BLOCK_LOG, &logged, &end)?);
        }
        let script_code = i32::try_from(number("script-code")?).context("exit code of the script")?;
        let mut kernel_warnings = ended.warnings;
        kernel_warnings.extend(restored.warnings);
        Ok(Report {
            kernel: self.kernel.release.clone(),
            fs: self.trip.fs.to_string(),
            to_fs: self.trip.to_fs.unwrap_or(self.trip.fs).to_string(),
            ok: points.iter().all(|p| p.same) && script_code == 0 && restored.code == 0,
            script_code,
            points,
            origin_bytes: number("origin-bytes")?,
            medium_bytes: number("medium-bytes")?,
            record_s: ended.took.as_secs_f64(),
            restore_s: restored.took.as_secs_f64(),
            status: serde_json::from_str(&read("status.json")?).context("parse recorder status")?,
            kernel_warnings,
        })
    }

    fn oracle(&self) -> Result<&Path> {
        let oracle = self.binaries.iter().find(|(_, to)| to.ends_with("/oracle"));
        Ok(&oracle.context("find the oracle among the binaries")?.0)
    }

    fn machine<'m>(
        &'m self,
        root: &'m Path,
        disks: Vec<Disk>,
        files: Vec<(PathBuf, String)>,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        dir: PathBuf,
    ) -> Machine<'m> {
        Machine {
            kernel: &self.kernel,
            root,
            disks,
            files,
            argv,
            env,
            cwd: "/root".into(),
            systemd: false,
            mem_mib: self.trip.mem,
            timeout: Duration::from_secs(self.trip.timeout),
            dir,
            kernel_args: String::new(),
            in_turns: false,
        }
    }

    fn write_guest_scripts(&self) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = self.dir.join("guest");
        fs::create_dir_all(&dir).context("create directory of guest scripts")?;
        for (name, text) in [
            ("record", RECORD),
            ("restore", RESTORE),
            ("mark", MARK),
            ("mark-each", MARK_EACH),
        ] {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("write guest script {name}"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("make guest script {name} executable"))?;
        }
        Ok(dir)
    }
}

/// The point of the live tree that a restored one is compared with.
pub(crate) fn live_point(name: &str) -> &str {
    [STEPS, AGAIN]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name)
}

fn counted(points: usize) -> String {
    if points == 1 {
        "1 point".into()
    } else {
        format!("{points} points")
    }
}
