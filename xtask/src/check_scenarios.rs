//! The fixed set of round trips that `cargo xtask test` makes, each a script of `tests/scenarios`.
//!
//! Owns which script runs on which kernel and file system there: few enough for every change, every kernel and every
//! file system at least once. How a round trip is made is the business of `vm`.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::setup;
use crate::vm::kernel::KernelLine;
use crate::vm::roundtrip::{self, FileSystem, Shown, Trip};

/// Time that each of the two machines may take, seconds.
const MACHINE_TIME_MAX_S: u64 = 300;

/// One round trip of the fixed set.
pub(crate) struct Scenario {
    /// File name of the script in `tests/scenarios`.
    script: &'static str,
    kernel: KernelLine,
    fs: FileSystem,
    /// Where it is restored onto another file system than it came from.
    to_fs: Option<FileSystem>,
}

const fn scenario(script: &'static str, kernel: KernelLine, fs: FileSystem) -> Scenario {
    Scenario {
        script,
        kernel,
        fs,
        to_fs: None,
    }
}

/// What is run on every change; btrfs is recorded from 6.12 on.
pub(crate) const CI: [Scenario; 8] = [
    scenario("everyday.sh", KernelLine::K6_1, FileSystem::Ext4),
    scenario("content.py", KernelLine::K6_1, FileSystem::Xfs),
    scenario("content.py", KernelLine::K6_12, FileSystem::Ext4),
    scenario("programs.sh", KernelLine::K6_12, FileSystem::Btrfs),
    scenario("everyday.sh", KernelLine::K6_12, FileSystem::Xfs),
    scenario("programs.sh", KernelLine::K7_3, FileSystem::Ext4),
    scenario("content.py", KernelLine::K7_3, FileSystem::Btrfs),
    Scenario {
        script: "everyday.sh",
        kernel: KernelLine::K7_3,
        fs: FileSystem::Xfs,
        to_fs: Some(FileSystem::Ext4),
    },
];

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            script,
            kernel,
            fs,
            to_fs,
        } = self;
        write!(f, "{script} on {kernel}, {fs}")?;
        to_fs.map_or(Ok(()), |to| write!(f, " to {to}"))
    }
}

/// Makes the round trip; passes when every point is restored alike, with no hole left and no complaint of a kernel.
///
/// # Errors
/// When the script is missing, a machine or one of the programs fails, or anything differs.
pub(crate) fn pass(scenario: &Scenario) -> Result<()> {
    let trip = trip(scenario);
    ensure!(trip.script.is_file(), "there is no {}", trip.script.display());
    let report = roundtrip::roundtrip(&trip, None, &mut Shown)?;
    for point in report.points.iter().filter(|p| !p.same) {
        setup::say(&format!("DIFFERENT at {}", point.name));
        for line in &point.differences {
            setup::say(line);
        }
    }
    for warning in &report.kernel_warnings {
        setup::say(&format!("a guest's kernel warns: {warning}"));
    }
    let different = report.points.iter().filter(|p| !p.same).count();
    ensure!(
        different == 0,
        "{different} of {} points differ",
        report.points.len()
    );
    ensure!(
        report.script_code == 0,
        "the script ended with {}",
        report.script_code
    );
    ensure!(report.ok, "the round trip is not ok");
    ensure!(report.holes_open() == 0, "{} holes are open", report.holes_open());
    ensure!(
        report.kernel_warnings.is_empty(),
        "{} warnings of a guest's kernel",
        report.kernel_warnings.len()
    );
    Ok(())
}

fn trip(scenario: &Scenario) -> Trip {
    let Scenario {
        script,
        kernel,
        fs,
        to_fs,
    } = scenario;
    let script: PathBuf = setup::workspace_root().join("tests/scenarios").join(script);
    Trip {
        kernel: *kernel,
        fs: *fs,
        to_fs: *to_fs,
        script,
        before: None,
        file: Vec::new(),
        package: Vec::new(),
        mark_each: false,
        steps: false,
        rows: false,
        size: 2048,
        mem: 3072,
        bin_dir: None,
        timeout: MACHINE_TIME_MAX_S,
    }
}
