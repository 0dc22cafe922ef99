//! The scenarios of `tests/scenarios` as round trips: what each script needs, which cells it is for, and the fixed set
//! that `cargo xtask test` makes.
//!
//! Owns these lists and when a scenario counts as passed. How a round trip is made is the business of `vm`.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::check::Cells;
use crate::vm::kernel::KernelLine;
use crate::vm::machine::Shown;
use crate::vm::roundtrip::{self, FileSystem, Trip};
use crate::{debian, setup};

use FileSystem::{Btrfs, Ext4, Xfs};
use KernelLine::{K6_1, K6_12, K7_3};

/// Time that each of the two machines may take, seconds.
const MACHINE_TIME_MAX_S: u64 = 600;
/// Suite that sources are taken from, as the guests' packages are.
const SUITE: &str = "trixie";
/// Where a script finds the source it wants.
const GUEST_SOURCE: &str = "/opt/source.tar";
const EVERYWHERE: &[FileSystem] = &[Ext4, Xfs, Btrfs];

/// A script of `tests/scenarios`, and what it needs.
struct Script {
    name: &'static str,
    /// Script that runs before recording begins.
    before: Option<&'static str>,
    /// Debian packages in the first machine.
    packages: &'static [&'static str],
    /// Debian source package whose source, one tar, lies in the first machine as `/opt/source.tar`.
    source: Option<&'static str>,
    file_systems: &'static [FileSystem],
}

const fn plain(name: &'static str) -> Script {
    Script {
        name,
        before: None,
        packages: &[],
        source: None,
        file_systems: EVERYWHERE,
    }
}

/// A script that wants programs which few others want: all such share one root, which takes minutes to make.
const fn others(name: &'static str) -> Script {
    Script {
        packages: &["dbench", "dpkg-repack", "postgresql", "stress-ng"],
        ..plain(name)
    }
}

const EVERYDAY: Script = plain("everyday.sh");
const CONTENT: Script = plain("content.py");
const PROGRAMS: Script = plain("programs.sh");
const FIO: Script = plain("fio-verify.sh");
const REFLINK: Script = Script {
    file_systems: &[Xfs, Btrfs],
    ..plain("reflink.sh")
};
const BASE_UNDER_LOAD: Script = Script {
    before: Some("base-under-load.before"),
    ..plain("base-under-load.sh")
};

const SCRIPTS: &[Script] = &[
    EVERYDAY,
    CONTENT,
    PROGRAMS,
    FIO,
    REFLINK,
    BASE_UNDER_LOAD,
    plain("sqlite-writers.py"),
    plain("git-maintenance.sh"),
    plain("rsync-modes.sh"),
    others("postgresql.sh"),
    others("dpkg-root.sh"),
    others("dbench.sh"),
    others("stress-ng.sh"),
    Script {
        source: Some("busybox"),
        ..plain("source-tree.sh")
    },
];

/// One round trip of a script.
pub(crate) struct Scenario {
    script: &'static Script,
    kernel: KernelLine,
    fs: FileSystem,
    /// Where it is restored onto another file system than it came from.
    to_fs: Option<FileSystem>,
    /// The restored tree is compared with what a log of all writes to the origin's disk gives, too.
    block_log: bool,
}

const fn scenario(script: &'static Script, kernel: KernelLine, fs: FileSystem) -> Scenario {
    Scenario {
        script,
        kernel,
        fs,
        to_fs: None,
        block_log: false,
    }
}

/// What is run on every change: few enough for that, each kernel with each file system at least once.
pub(crate) const CI: &[Scenario] = &[
    scenario(&EVERYDAY, K6_1, Ext4),
    scenario(&CONTENT, K6_1, Xfs),
    scenario(&BASE_UNDER_LOAD, K6_1, Btrfs),
    Scenario {
        block_log: true,
        ..scenario(&CONTENT, K6_12, Ext4)
    },
    scenario(&EVERYDAY, K6_12, Xfs),
    scenario(&PROGRAMS, K6_12, Btrfs),
    scenario(&FIO, K7_3, Ext4),
    Scenario {
        to_fs: Some(Ext4),
        ..scenario(&EVERYDAY, K7_3, Xfs)
    },
    scenario(&REFLINK, K7_3, Btrfs),
];

/// Every script on every kernel and file system that it is for, as far as the names of scripts and the cells allow;
/// nothing named means all.
///
/// # Errors
/// When a script does not exist, or nothing is left.
pub(crate) fn chosen(cells: &Cells, only: &[String]) -> Result<Vec<Scenario>> {
    for name in only {
        ensure!(
            SCRIPTS.iter().any(|s| s.name == name),
            "there is no scenario {name}"
        );
    }
    let mut scenarios = Vec::new();
    for kernel in KernelLine::SHIPPED {
        for script in SCRIPTS {
            scenarios.extend(
                script
                    .file_systems
                    .iter()
                    .map(|fs| scenario(script, *kernel, *fs)),
            );
        }
    }
    let Cells { kernel, fs } = cells;
    scenarios.retain(|scenario| {
        (only.is_empty() || only.iter().any(|name| name == scenario.script.name))
            && (kernel.is_empty() || kernel.contains(&scenario.kernel))
            && (fs.is_empty() || fs.contains(&scenario.fs))
    });
    ensure!(
        !scenarios.is_empty(),
        "none of these scenarios is for these machines"
    );
    Ok(scenarios)
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            script,
            kernel,
            fs,
            to_fs,
            block_log,
        } = self;
        write!(f, "{} on {kernel}, {fs}", script.name)?;
        if let Some(to) = to_fs {
            write!(f, " to {to}")?;
        }
        f.write_str(if *block_log { ", block log" } else { "" })
    }
}

/// Makes the round trip; passes when every point is restored alike, with no hole left and no complaint of a kernel.
///
/// # Errors
/// When the script is missing, a machine or one of the programs fails, or anything differs.
pub(crate) fn pass(scenario: &Scenario) -> Result<()> {
    let trip = trip(scenario)?;
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

fn trip(scenario: &Scenario) -> Result<Trip> {
    let Scenario {
        script,
        kernel,
        fs,
        to_fs,
        block_log,
    } = scenario;
    let Script {
        name,
        before,
        packages,
        source,
        file_systems: _,
    } = script;
    let mut file = Vec::new();
    if let Some(package) = source {
        let tar = debian::download_source(SUITE, package)
            .with_context(|| format!("get the source of Debian's package {package}"))?;
        file.push((tar, GUEST_SOURCE.to_string()));
    }
    Ok(Trip {
        to_fs: *to_fs,
        before: before.map(path),
        file,
        package: packages.iter().map(ToString::to_string).collect(),
        block_log: *block_log,
        timeout: MACHINE_TIME_MAX_S,
        ..Trip::new(*kernel, *fs, path(name))
    })
}

fn path(name: &str) -> PathBuf {
    setup::workspace_root().join("tests/scenarios").join(name)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_script_is_there() {
        for name in SCRIPTS.iter().flat_map(|s| [Some(s.name), s.before]).flatten() {
            assert!(path(name).is_file(), "there is no {name}");
        }
    }

    #[test]
    fn the_fixed_set_has_every_kernel_with_every_file_system() {
        for kernel in KernelLine::SHIPPED {
            for fs in FileSystem::value_variants() {
                let there = CI.iter().any(|s| s.kernel == *kernel && s.fs == *fs);
                assert!(there, "nothing on {kernel} with {fs}");
            }
        }
    }
}
