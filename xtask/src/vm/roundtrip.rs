//! `cargo xtask vm roundtrip`: record a workload in one machine, rebuild it in another from the medium alone, compare.
//!
//! Owns the order of a round trip and its verdict. What happens inside the guests is in `guest/*.sh`; what a digest
//! is and how two differ is the oracle's business.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::kernel::{self, Kernel, KernelLine};
use super::machine::{Disk, Ended, Machine, Sink};
use super::run::{GUEST_SCRIPT, project_binaries, script_command};
use super::{blank_image, check_script, ensure_host, finish, parse_file, root, run_dir};
use crate::{Outcome, setup};

const RECORD: &str = include_str!("guest/record.sh");
const RESTORE: &str = include_str!("guest/restore.sh");
const MARK: &str = include_str!("guest/mark.sh");
const MARK_EACH: &str = include_str!("guest/mark-each.sh");
/// Lines of a comparison that are shown; the kept digests hold the rest.
const DIFFERENCES_SHOWN: usize = 40;
/// Room for the spool; sparse.
const SPOOL_MIB: u64 = 4096;
/// Begins the name of a point that is restored record by record, and of one that is restored a second time.
const STEPS: &str = "steps-";
const AGAIN: &str = "again-";
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
    #[arg(long, default_value_t = 2048)]
    pub(crate) size: u64,
    /// Memory of each machine, MiB
    #[arg(long, default_value_t = 3072)]
    pub(crate) mem: u32,
    /// Take recorder, replayer and oracle from this directory, as they are, instead of building them
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Time that each machine may take, seconds
    #[arg(long, value_name = "S", default_value_t = 1200)]
    pub(crate) timeout: u64,
}

/// A point of the journal that was restored.
#[derive(Serialize)]
pub(crate) struct Point {
    /// `final` or `mark-NAME`.
    pub(crate) name: String,
    pub(crate) same: bool,
    pub(crate) entries: Option<u64>,
    pub(crate) bytes: Option<u64>,
    /// What the oracle says of the first differences.
    pub(crate) differences: Vec<String>,
}

/// Result of a round trip.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) kernel: String,
    pub(crate) fs: String,
    pub(crate) to_fs: String,
    /// All points were restored alike, and the script itself ended with 0.
    pub(crate) ok: bool,
    pub(crate) script_code: i32,
    /// The final state comes first.
    pub(crate) points: Vec<Point>,
    /// Room that the origin's files took at the end, bytes.
    pub(crate) origin_bytes: u64,
    /// Room taken on the medium, bytes.
    pub(crate) medium_bytes: u64,
    pub(crate) record_s: f64,
    pub(crate) restore_s: f64,
    /// `recorder status --json` after the flush.
    pub(crate) status: serde_json::Value,
    pub(crate) kernel_warnings: Vec<String>,
}

impl Report {
    /// Entries and bytes of the final tree, as the oracle counts them.
    pub(crate) fn size(&self) -> (u64, u64) {
        let end = self.points.first();
        (
            end.and_then(|p| p.entries).unwrap_or(0),
            end.and_then(|p| p.bytes).unwrap_or(0),
        )
    }

    /// Holes that the recorder still had open after the flush.
    pub(crate) fn holes_open(&self) -> u64 {
        let volumes = self.status.get("volumes").and_then(serde_json::Value::as_array);
        volumes
            .into_iter()
            .flatten()
            .filter_map(|v| v.get("holes_open")?.as_u64())
            .sum()
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

fn print_verdict(report: &Report) {
    if report.points.iter().all(|p| p.same) {
        let (entries, bytes) = report.size();
        println!("SAME {entries} {bytes}");
        return;
    }
    for point in report.points.iter().filter(|p| !p.same) {
        println!("DIFFERENT at {}", point.name);
        for line in &point.differences {
            println!("  {line}");
        }
    }
}

fn tell_details(report: &Report, took: Duration) {
    for warning in &report.kernel_warnings {
        setup::say(&format!("a guest's kernel warns: {warning}"));
    }
    if report.script_code != 0 {
        setup::say(&format!(
            "the script ended with {}: the round trip counts as failed",
            report.script_code
        ));
    }
    if report.holes_open() != 0 {
        setup::say(&format!(
            "the recorder reports {} open holes",
            report.holes_open()
        ));
    }
    let same = report.points.iter().filter(|p| p.same).count();
    setup::say(&format!(
        "kernel {}, {} to {}: {same} of {} points the same; recorded in {:.0} s, restored in {:.0} s, {:.0} s in all",
        report.kernel,
        report.fs,
        report.to_fs,
        report.points.len(),
        report.record_s,
        report.restore_s,
        took.as_secs_f64()
    ));
}

/// The guests' output goes to stderr: stdout is for the verdict.
pub(crate) struct Shown;

impl Sink for Shown {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut io::stderr().lock(), bytes)
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut io::stderr().lock(), bytes)
    }
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
        ensure_host()?;
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
        let disks = vec![
            virtio(blank_image(&dir, "origin", trip.size)?, "origin"),
            virtio(blank_image(&dir, "spool", SPOOL_MIB)?, "spool"),
            Disk {
                image: self.medium.clone(),
                name: "medium".into(),
                usb: true,
                read_only: false,
            },
        ];
        let flag = |set: bool| if set { "1" } else { "0" }.to_string();
        let env = vec![
            ("FS".into(), trip.fs.to_string()),
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
        for image in ["origin.img", "spool.img"] {
            // The disk is lost: nothing of it may help the second machine.
            fs::remove_file(dir.join(image)).with_context(|| format!("remove {image}"))?;
        }
        Ok(Recorded { ended, points })
    }

    /// The second machine: the medium, read-only, and a blank disk.
    pub(crate) fn restore(&self, recorded: &Recorded, sink: &mut dyn Sink) -> Result<Ended> {
        let trip = self.trip;
        setup::say(&format!(
            "second machine: the medium and a blank disk, {} to restore",
            counted(recorded.points.len())
        ));
        let guest = self.write_guest_scripts()?;
        let mut files: Vec<(PathBuf, String)> = self
            .binaries
            .iter()
            .filter(|(_, to)| to.ends_with("/oracle"))
            .cloned()
            .collect();
        files.push((guest.join("restore"), "/opt/job/restore".into()));
        let mut argv = vec!["/opt/job/restore".to_string()];
        argv.extend(recorded.points.iter().cloned());
        let dir = self.dir.join("restore");
        fs::create_dir(&dir).context("create directory of the second machine")?;
        let disks = vec![
            virtio(blank_image(&dir, "blank", trip.size)?, "blank"),
            Disk {
                image: self.medium.clone(),
                name: "medium".into(),
                usb: true,
                read_only: true,
            },
        ];
        let env = vec![
            (
                "MKFS".into(),
                trip.to_fs.map(|fs| fs.to_string()).unwrap_or_default(),
            ),
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
        let points = points
            .iter()
            .map(|name| self.compare(name))
            .collect::<Result<Vec<_>>>()?;
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

    fn compare(&self, name: &str) -> Result<Point> {
        let restored = self.dir.join("restore/results/digests").join(name);
        let mut point = Point {
            name: name.to_string(),
            same: false,
            entries: None,
            bytes: None,
            differences: Vec::new(),
        };
        if !restored.is_file() {
            point.differences.push("was not restored".into());
            return Ok(point);
        }
        let oracle = &self
            .binaries
            .iter()
            .find(|(_, to)| to.ends_with("/oracle"))
            .context("no oracle")?
            .0;
        let mut command = Command::new(oracle);
        command
            .arg("compare")
            .arg(self.dir.join("record/results/digests").join(live_point(name)))
            .arg(restored);
        if let Some(to_fs) = self.trip.to_fs {
            // What only one of the two file systems holds cannot come back.
            command.args(["--held-by", &self.trip.fs.to_string(), &to_fs.to_string()]);
        }
        let out = command
            .stdin(Stdio::null())
            .output()
            .context("start oracle compare")?;
        let text = String::from_utf8_lossy(&out.stdout);
        match out.status.code() {
            Some(0) => {
                let (entries, bytes) =
                    parse_same(&text).with_context(|| format!("understand the oracle: {text:?}"))?;
                (point.same, point.entries, point.bytes) = (true, Some(entries), Some(bytes));
            }
            Some(1) => point.differences = text.lines().take(DIFFERENCES_SHOWN).map(str::to_string).collect(),
            _ => bail!(
                "oracle compare ended with {}: {}",
                out.status,
                String::from_utf8_lossy(&out.stderr).trim()
            ),
        }
        Ok(point)
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

fn virtio(image: PathBuf, name: &str) -> Disk {
    Disk {
        image,
        name: name.into(),
        usb: false,
        read_only: false,
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

/// `SAME <entries> <bytes>`
fn parse_same(text: &str) -> Option<(u64, u64)> {
    let mut words = text
        .lines()
        .find_map(|line| line.strip_prefix("SAME "))?
        .split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_of_the_oracle_is_understood() {
        assert_eq!(parse_same("SAME 12 3456\n"), Some((12, 3456)));
        assert_eq!(parse_same("DIFFERENT\n"), None);
        assert_eq!(parse_same("SAME 12\n"), None);
    }
}
