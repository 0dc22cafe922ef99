//! The scenarios that need one machine and judge for themselves: scripts of `tests/scenarios` that end with 0 when all held.
//!
//! Owns which of them `cargo xtask test` runs, on which kernel and with which disks. Round trips are in `check_scenarios`.

use std::fmt;

use anyhow::{Result, ensure};

use crate::setup;
use crate::vm::kernel::KernelLine;
use crate::vm::run::{self, Scripted};

/// Time that a machine may take, seconds.
const MACHINE_TIME_MAX_S: u64 = 900;

/// One script in one machine.
pub(crate) struct Scenario {
    /// File name of the script in `tests/scenarios`.
    script: &'static str,
    kernel: KernelLine,
    /// Sizes of its disks, MiB.
    disks: &'static [u64],
    /// Sizes of its USB disks, MiB.
    usb: &'static [u64],
}

/// What is run on every change.
pub(crate) const CI: [Scenario; 4] = [
    Scenario {
        script: "refusals.sh",
        kernel: KernelLine::K6_1,
        disks: &[1024, 1024, 512, 1024],
        usb: &[1024, 256],
    },
    Scenario {
        script: "throttle.sh",
        kernel: KernelLine::K6_1,
        disks: &[1536, 1536],
        usb: &[3072],
    },
    Scenario {
        script: "holes.sh",
        kernel: KernelLine::K6_12,
        disks: &[1024, 1024, 1024],
        usb: &[3072],
    },
    Scenario {
        script: "kill.sh",
        kernel: KernelLine::K7_3,
        disks: &[1024, 4096],
        usb: &[3072],
    },
];

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.script, self.kernel)
    }
}

/// Boots, runs the script; passes when that ends with 0.
///
/// # Errors
/// When the script is missing, the machine fails, or the script says so.
pub(crate) fn pass(scenario: &Scenario) -> Result<()> {
    let Scenario {
        script,
        kernel,
        disks,
        usb,
    } = scenario;
    let code = run::scripted(Scripted {
        kernel: *kernel,
        script: setup::workspace_root().join("tests/scenarios").join(script),
        disks,
        usb,
        timeout: MACHINE_TIME_MAX_S,
    })?;
    ensure!(code == 0, "{script} ended with {code}");
    Ok(())
}
