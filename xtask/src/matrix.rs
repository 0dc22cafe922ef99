//! `cargo xtask test --matrix`: every operation on every kernel with every file system.
//!
//! Owns the order of the cells, and what makes one of them fail. Which operations there are is the business of the
//! guest program `ops`; how results are kept and shown is in `table`, how a difference or a repair finds its operation
//! in `blame`.

mod blame;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;
use serde::Deserialize;

use self::table::{Mark, Table, Verdict};
use crate::build::{self, Profile};
use crate::check::Cells;
use crate::vm::kernel::KernelLine;
use crate::vm::machine::Shown;
use crate::vm::roundtrip::{self, FileSystem, Trip};
use crate::vm::verdict::Report;
use crate::{Outcome, setup, vm};

/// Where the guest program lies in the first machine.
const GUEST_OPS: &str = "/usr/local/bin/ops";
/// What operations need beyond the guest's root.
const GUEST_PACKAGES: &[&str] = &["nfs-kernel-server"];
/// Room of the origin, MiB; sparse.
const ORIGIN_MIB: u64 = 4096;
const GUEST_MEMORY_MIB: u32 = 3072;
/// Time that each of the two machines of a cell may take, seconds: eight marks are restored one by one.
const MACHINE_TIME_MAX_S: u64 = 1500;
/// Stands for what concerns no operation in particular; no directory below the root has such a name.
const WHOLE_TREE: &str = "(the whole tree)";

/// One line of what `ops run` writes.
#[derive(Deserialize)]
pub(crate) struct OpsLine {
    pub(crate) op: String,
    /// Also the name of the mark after it.
    pub(crate) family: String,
    outcome: String,
    error: String,
    /// Inode numbers of what is in its directory at the end.
    pub(crate) inodes: Vec<u64>,
}

/// Runs the chosen cells. A cell that fails does not keep the others from being run.
///
/// # Errors
/// When the programs cannot be built, or the results not be kept.
pub(crate) fn run(cells: &Cells, only: &[String]) -> Outcome {
    let Cells { kernel, fs } = cells;
    build::build_all(Profile::Dev)?;
    let list = setup::output(Command::new(vm::stripped("ops")?).arg("list"))?;
    let operations = table::operations(&list)?;
    for name in only {
        ensure!(
            operations.iter().any(|op| op.name == *name),
            "there is no operation {name}"
        );
    }
    let kernels: Vec<KernelLine> = chosen(kernel, KernelLine::SHIPPED);
    let file_systems: Vec<FileSystem> = chosen(fs, FileSystem::value_variants());
    let names: Vec<String> = operations
        .iter()
        .filter(|op| only.is_empty() || only.contains(&op.name))
        .map(|op| op.name.clone())
        .collect();
    let (mut passed, mut failed) = (0, 0);
    for kernel in &kernels {
        for fs in &file_systems {
            let marks = cell(*kernel, *fs, &names, !only.is_empty())?;
            for (name, mark) in &marks {
                if mark.verdict == Verdict::Failed {
                    setup::say(&format!("FAILED: {name} on {kernel}, {fs}: {}", mark.detail));
                    failed += 1;
                } else {
                    passed += 1;
                }
            }
            Table::update(&operations, &table::column(*kernel, *fs), marks)?;
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn chosen<T: Clone>(wanted: &[T], all: &[T]) -> Vec<T> {
    if wanted.is_empty() { all } else { wanted }.to_vec()
}

/// Runs operations in one cell and judges each of them.
fn cell(kernel: KernelLine, fs: FileSystem, names: &[String], part: bool) -> Result<BTreeMap<String, Mark>> {
    setup::say(&format!("== matrix: {kernel}, {fs}"));
    let dir = setup::workspace_root().join(format!("target/matrix/{}", table::column(kernel, fs)));
    // What an earlier run left would be taken for this one's.
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let script = write_script(&dir, kernel, fs, if part { names } else { &[] })?;
    let bin_dir = own_programs(&dir)?;
    // Of what was built now, not of what lies there when the cell has ended.
    let stamp = setup::stamp(&["tests/matrix.json", "tests/MATRIX.md"])?;
    let ops = bin_dir.join("ops");
    let trip = trip(kernel, fs, script, bin_dir);
    let judged = roundtrip::roundtrip(&trip, Some(&dir), &mut Shown)
        .and_then(|report| judge(&report, &dir, names, &ops));
    for image in ["medium.img", "restore/blank.img"] {
        // They are large, and the digests and the journal's rows tell enough; a machine that failed leaves none.
        _ = fs::remove_file(dir.join(image));
    }
    let marks = judged.unwrap_or_else(|error| {
        names
            .iter()
            .map(|name| (name.clone(), Verdict::Failed.because(format!("{error:#}"))))
            .collect()
    });
    Ok(table::stamped(marks, &stamp))
}

/// Copies of the programs, for both machines and the comparison: the tree may be built again while the cell is run.
fn own_programs(dir: &Path) -> Result<PathBuf> {
    build::build_all(Profile::Dev)?;
    let bin_dir = dir.join("bin");
    fs::create_dir(&bin_dir).context("create directory of programs")?;
    for name in ["recorder", "replayer", "oracle", "ops"] {
        fs::copy(vm::stripped(name)?, bin_dir.join(name)).with_context(|| format!("copy {name}"))?;
    }
    Ok(bin_dir)
}

fn write_script(dir: &Path, kernel: KernelLine, fs: FileSystem, names: &[String]) -> Result<PathBuf> {
    let script = dir.join("script.sh");
    let text = format!(
        "#!/bin/bash\nexec {GUEST_OPS} run --fs {fs} --kernel {kernel} --out /results/ops.jsonl {}\n",
        names.join(" ")
    );
    fs::write(&script, text).with_context(|| format!("write {}", script.display()))?;
    Ok(script)
}

/// Features that operations need and mkfs does not make by default.
fn mkfs_options(kernel: KernelLine, fs: FileSystem) -> &'static [&'static str] {
    match (fs, kernel) {
        // Without quota: with it, EXT4_IOC_SWAP_BOOT runs out of journal credits, and the kernel warns (7.3).
        (FileSystem::Ext4, _) => &["-Oproject"],
        // Linux has the feature from 6.10 on.
        (FileSystem::Xfs, KernelLine::K6_1) => &[],
        (FileSystem::Xfs, _) => &["-iexchange=1"],
        (FileSystem::Btrfs, _) => &[],
    }
}

fn trip(kernel: KernelLine, fs: FileSystem, script: PathBuf, bin_dir: PathBuf) -> Trip {
    Trip {
        file: vec![(bin_dir.join("ops"), GUEST_OPS.into())],
        mkfs_option: mkfs_options(kernel, fs).iter().map(ToString::to_string).collect(),
        package: GUEST_PACKAGES.iter().map(ToString::to_string).collect(),
        size: ORIGIN_MIB,
        mem: GUEST_MEMORY_MIB,
        bin_dir: Some(bin_dir),
        rows: true,
        timeout: MACHINE_TIME_MAX_S,
        ..Trip::new(kernel, fs, script)
    }
}

/// What came of each operation, and of the tree as a whole where something cannot be laid at one operation's door.
fn judge(report: &Report, dir: &Path, names: &[String], ops: &Path) -> Result<BTreeMap<String, Mark>> {
    let results = dir.join("record/results");
    let lines = fs::read_to_string(results.join("ops.jsonl")).context("read what the operations told")?;
    let lines: Vec<OpsLine> = lines
        .lines()
        .map(|line| serde_json::from_str(line).context("parse what an operation told"))
        .collect::<Result<_>>()?;
    let mut marks: BTreeMap<String, Mark> = BTreeMap::new();
    for name in names {
        let mark = match lines.iter().find(|line| line.op == *name) {
            None => Verdict::Failed.because("was not run".into()),
            Some(line) => match line.outcome.as_str() {
                "done" => Verdict::Exact.because(String::new()),
                "unsupported" => Verdict::Unsupported.because(line.error.clone()),
                _ => Verdict::Failed.because(format!("could not be done: {}", line.error)),
            },
        };
        marks.insert(name.clone(), mark);
    }
    let journal =
        fs::read_to_string(dir.join("restore/results/journal.jsonl")).context("read rows of the journal")?;
    let repairs = blame::repairs(&journal, &lines)?;
    for (name, count) in &repairs.by_operation {
        if let Some(mark) = marks.get_mut(name).filter(|mark| mark.verdict == Verdict::Exact) {
            *mark = Verdict::Converges.because(format!("{count} snapshots"));
        }
    }
    let mut whole = blame::troubles(report, &repairs);
    for point in &report.points {
        for (directory, differences) in differences(dir, &point.name, ops)? {
            let first = differences.first().map(String::as_str).unwrap_or_default();
            let text = format!("{} at {}: {first}", differences.len(), point.name);
            match marks.get_mut(&directory) {
                Some(mark) if mark.verdict != Verdict::Failed => *mark = Verdict::Failed.because(text),
                Some(_) => {}
                None => whole.push(text),
            }
        }
    }
    let whole = match (whole.is_empty(), repairs.unknown, repairs.holes_of_ioctls) {
        (false, ..) => Verdict::Failed.because(whole.join("; ")),
        (true, 0, 0) => Verdict::Exact.because(String::new()),
        // Whose they were is not known, so no single operation can be told to converge.
        (true, snapshots, holes) => Verdict::Converges.because(format!(
            "{snapshots} snapshots of inodes without a name, {holes} holes that stand for ioctls"
        )),
    };
    marks.insert(WHOLE_TREE.into(), whole);
    Ok(marks)
}

/// Differences of a point by the first component of their paths.
fn differences(dir: &Path, point: &str, ops: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let digest = |machine: &str| dir.join(machine).join("results/digests").join(point);
    if !digest("restore").is_file() {
        return Ok(BTreeMap::from([(
            ".".to_string(),
            vec!["was not restored".to_string()],
        )]));
    }
    let text = setup::output(
        Command::new(ops)
            .arg("differ")
            .args([digest("record"), digest("restore")]),
    )?;
    serde_json::from_str(&text).context("parse differences")
}
