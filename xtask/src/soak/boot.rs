//! One round trip with many runs of the generator, each in a directory of its own, and a verdict on each.
//!
//! Owns the script that the first machine runs, and how the digests of a whole tree are taken apart by directory. What
//! a run does is the generator's business; how two digests differ is the oracle's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::vm::kernel::KernelLine;
use crate::vm::machine::Shown;
use crate::vm::roundtrip::{self, FileSystem, Trip};
use crate::vm::verdict::Report;
use crate::{build, vm};

/// Where the generator and the plans lie in the guest.
const GUEST_DIR: &str = "/opt/soak";
/// Time that each of the two machines may take, seconds.
const MACHINE_TIME_MAX_S: u64 = 1500;
/// Size of the origin and of the blank disk, MiB.
const DISK_MIB: u64 = 4096;

/// A kernel and a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) kernel: KernelLine,
    pub(super) fs: FileSystem,
}

/// How large the runs are.
#[derive(Args, Clone, Debug)]
pub(crate) struct Size {
    /// Threads of each run, two to a process
    #[arg(long, default_value_t = 4)]
    pub(super) threads: u32,
    /// Operations of each thread
    #[arg(long, default_value_t = 400)]
    pub(super) ops: u32,
    /// Leave out operations of these kinds
    #[arg(long, value_delimiter = ',', value_name = "KIND,KIND,...")]
    pub(super) skip_ops: Vec<String>,
    /// Restore every point also record by record, and the end twice
    #[arg(long)]
    pub(super) steps: bool,
}

/// The operations of a run: (thread, index).
pub(super) type Plan = Vec<(u32, u32)>;

/// One run, in its own directory of the origin.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Name of the directory: letters, digits, dashes.
    pub(super) name: String,
    pub(super) seed: u64,
    /// The whole run when `None`.
    pub(super) plan: Option<Plan>,
    /// A mark after so many operations of each thread.
    pub(super) mark_every: Option<u32>,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Restored alike at every point.
    Same,
    /// Differs; the point, and what the oracle says of it.
    Different(Vec<String>),
}

/// What became of a boot.
pub(super) struct Boot {
    pub(super) report: Report,
    /// In the order of the jobs.
    pub(super) verdicts: Vec<Verdict>,
    /// What is wrong with the boot as a whole.
    pub(super) complaints: Vec<String>,
}

/// Makes the round trip. What it leaves behind (medium, digests, traces) is in `keep` when anything is wrong.
///
/// # Errors
/// When a machine, the recorder or the replayer fails.
pub(super) fn boot(cell: Cell, jobs: &[Job], size: &Size, keep: &Path) -> Result<Boot> {
    let work = tempfile::tempdir().context("create work directory")?;
    let brought = work.path().join("soak");
    fs::create_dir(&brought).context("create directory of the generator")?;
    build::build_all(build::Profile::Dev)?;
    fs::copy(vm::stripped("generator")?, brought.join("generator")).context("copy the generator")?;
    for job in jobs {
        if let Some(plan) = &job.plan {
            fs::write(brought.join(plan_name(job)), plan_text(plan)).context("write plan")?;
        }
    }
    let script = work.path().join("script");
    fs::write(&script, script_text(jobs, size)).context("write script")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("make the script executable")?;
    let trip = Trip {
        file: vec![(brought, GUEST_DIR.into())],
        steps: size.steps,
        size: DISK_MIB,
        timeout: MACHINE_TIME_MAX_S,
        ..Trip::new(cell.kernel, cell.fs, script)
    };
    if keep.exists() {
        fs::remove_dir_all(keep).with_context(|| format!("remove {}", keep.display()))?;
    }
    let report = roundtrip::roundtrip(&trip, Some(keep), &mut Shown)?;
    let (verdicts, elsewhere) = judge(&report, jobs, keep)?;
    let mut complaints = complaints(&report);
    complaints.extend(elsewhere);
    if complaints.is_empty() && verdicts.iter().all(|verdict| *verdict == Verdict::Same) {
        fs::remove_dir_all(keep).with_context(|| format!("remove {}", keep.display()))?;
    }
    Ok(Boot {
        report,
        verdicts,
        complaints,
    })
}

fn plan_name(job: &Job) -> String {
    format!("plan-{}", job.name)
}

/// A plan as the generator reads it.
pub(super) fn plan_text(plan: &Plan) -> String {
    plan.iter().fold(String::new(), |mut text, (thread, index)| {
        _ = writeln!(text, "{thread} {index}");
        text
    })
}

fn script_text(jobs: &[Job], size: &Size) -> String {
    let Size {
        threads,
        ops,
        skip_ops,
        steps: _,
    } = size;
    let mut text = String::from("#!/bin/bash\nset -u\nfailed=0\n");
    for job in jobs {
        let Job {
            name,
            seed,
            plan,
            mark_every,
        } = job;
        _ = write!(
            text,
            "{GUEST_DIR}/generator run --dir /origin --name {name} --seed {seed} --threads {threads} --ops {ops} \
             --trace /results/trace-{name}"
        );
        if plan.is_some() {
            _ = write!(text, " --plan {GUEST_DIR}/{}", plan_name(job));
        }
        if let Some(every) = mark_every {
            _ = write!(text, " --mark-every {every}");
        }
        if !skip_ops.is_empty() {
            _ = write!(text, " --skip-ops {}", skip_ops.join(","));
        }
        _ = writeln!(
            text,
            " > /results/counts-{name} || {{ failed=1; tail -n 3 /results/counts-{name} >&2; echo \"{name} failed\" >&2; }}"
        );
    }
    text + "exit $failed\n"
}

/// What is wrong besides differences.
fn complaints(report: &Report) -> Vec<String> {
    let mut found: Vec<String> = report
        .kernel_warnings
        .iter()
        .map(|warning| format!("a guest's kernel warns: {warning}"))
        .collect();
    if report.script_code != 0 {
        found.push(format!("a run of the generator failed ({})", report.script_code));
    }
    if !report.ok && report.script_code == 0 && report.points.iter().all(|point| point.same) {
        found.push("a restore did not end well".into());
    }
    if report.holes_open() != 0 {
        found.push(format!("{} holes are open", report.holes_open()));
    }
    found
}

/// Compares the digests directory by directory, and what lies in none of them.
fn judge(report: &Report, jobs: &[Job], kept: &Path) -> Result<(Vec<Verdict>, Vec<String>)> {
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for point in report.points.iter().filter(|point| !point.same) {
        let digests = |machine: &str| kept.join(machine).join("results/digests");
        let live = by_directory(&digests("record").join(roundtrip::live_point(&point.name)))?;
        let restored = digests("restore").join(&point.name);
        if !restored.is_file() {
            for name in live.keys() {
                let job = jobs
                    .iter()
                    .find(|job| job.name == *name)
                    .map_or("", |job| &job.name);
                found
                    .entry(job)
                    .or_default()
                    .push(format!("{}: was not restored", point.name));
            }
            continue;
        }
        let restored = by_directory(&restored)?;
        let mut names: Vec<&String> = live.keys().chain(restored.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let nothing = String::new();
            let sides = [&live, &restored].map(|side| side.get(name).unwrap_or(&nothing));
            let differences = compare(sides[0], sides[1])?;
            let job = jobs
                .iter()
                .find(|job| job.name == *name)
                .map_or("", |job| &job.name);
            found.entry(job).or_default().extend(
                differences
                    .into_iter()
                    .map(|line| format!("{}: {line}", point.name)),
            );
        }
    }
    let elsewhere = found.remove("").unwrap_or_default();
    let verdicts = jobs
        .iter()
        .map(|job| match found.remove(&*job.name) {
            Some(differences) if !differences.is_empty() => Verdict::Different(differences),
            _ => Verdict::Same,
        })
        .collect();
    Ok((verdicts, elsewhere))
}

/// The lines of a digest, by the first component of their paths.
fn by_directory(digest: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(digest).with_context(|| format!("read digest {}", digest.display()))?;
    let mut parts: BTreeMap<String, String> = BTreeMap::new();
    for line in text.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).context("parse line of a digest")?;
        let path = entry
            .get("path")
            .and_then(serde_json::Value::as_str)
            .context("find the path in a digest")?;
        let part = parts
            .entry(path.split('/').next().unwrap_or_default().to_owned())
            .or_default();
        part.push_str(line);
        part.push('\n');
    }
    Ok(parts)
}

/// What the oracle says of two digests; nothing when they are the same.
fn compare(live: &str, restored: &str) -> Result<Vec<String>> {
    if live == restored {
        return Ok(Vec::new());
    }
    let work = tempfile::tempdir().context("create directory for digests")?;
    let path = |name: &str| -> PathBuf { work.path().join(name) };
    fs::write(path("live"), live).context("write digest")?;
    fs::write(path("restored"), restored).context("write digest")?;
    let out = Command::new(vm::stripped("oracle")?)
        .args([
            "compare".as_ref(),
            path("live").as_os_str(),
            path("restored").as_os_str(),
        ])
        .stdin(Stdio::null())
        .output()
        .context("start oracle compare")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() {
        return Ok(Vec::new());
    }
    ensure!(
        out.status.code() == Some(1),
        "oracle compare ended with {}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(text.lines().skip(1).map(|line| line.trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_taken_apart_by_directory() {
        let work = tempfile::tempdir().unwrap();
        let digest = work.path().join("digest");
        fs::write(
            &digest,
            "{\"path\":\".\"}\n{\"path\":\"seed-1\"}\n{\"path\":\"seed-1/f\"}\n{\"path\":\"seed-11/f\"}\n",
        )
        .unwrap();
        let parts = by_directory(&digest).unwrap();
        assert_eq!(parts.keys().collect::<Vec<_>>(), [".", "seed-1", "seed-11"]);
        assert_eq!(parts["seed-1"].lines().count(), 2);
    }

    #[test]
    fn script_runs_every_job() {
        let job = Job {
            name: "try-1".into(),
            seed: 7,
            plan: Some(vec![(0, 1), (2, 3)]),
            mark_every: Some(50),
        };
        let size = Size {
            threads: 4,
            ops: 100,
            skip_ops: vec!["rename".into()],
            steps: false,
        };
        let text = script_text(std::slice::from_ref(&job), &size);
        let wanted = "--name try-1 --seed 7 --threads 4 --ops 100 --trace /results/trace-try-1 \
                      --plan /opt/soak/plan-try-1 --mark-every 50 --skip-ops rename";
        assert!(text.contains(wanted), "{text}");
        assert_eq!(plan_text(&vec![(0, 1), (2, 3)]), "0 1\n2 3\n");
    }
}
