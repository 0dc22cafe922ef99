//! The scenarios that need one machine and judge for themselves: scripts of `tests/scenarios` that end with 0 when all held.
//!
//! Owns which of them `cargo xtask test` runs, on which kernel and with which disks. Round trips are in `check_scenarios`.

use std::fmt;

use anyhow::{Context as _, Result, ensure};

use crate::setup;
use crate::vm::figures::Figures;
use crate::vm::kernel::KernelLine;
use crate::vm::run::{self, Scripted};

/// Time that a machine may take, seconds; one that does more than is done on every change; and one whose processors take turns, too.
const MACHINE_TIME_MAX_S: u64 = 900;
const LONG_TIME_MAX_S: u64 = 10_800;
const IN_TURNS_TIME_MAX_S: u64 = 21_600;

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
pub(crate) static CI: [Scenario; 12] = [
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
    Scenario {
        script: "reattach.sh",
        kernel: KernelLine::K6_12,
        disks: &[2048, 4096],
        usb: &[4096],
    },
    Scenario {
        script: "unrecorded.sh",
        kernel: KernelLine::K7_3,
        disks: &[1024, 1024],
        usb: &[1024],
    },
    Scenario {
        script: "past.sh",
        kernel: KernelLine::K7_3,
        disks: &[512, 1024],
        usb: &[1024],
    },
    Scenario {
        script: "media.sh",
        kernel: KernelLine::K6_12,
        disks: &[512, 2048, 96, 96, 96, 96, 512, 64, 256],
        usb: &[],
    },
    Scenario {
        script: "checkpoint.sh",
        kernel: KernelLine::K6_1,
        disks: &[512, 2048, 128, 256, 96, 96],
        usb: &[],
    },
    Scenario {
        script: "encrypted.sh",
        kernel: KernelLine::K7_3,
        disks: &[512, 2048, 128, 128, 128],
        usb: &[],
    },
    Scenario {
        script: "mount.sh",
        kernel: KernelLine::K6_1,
        disks: &[512, 2048],
        usb: &[1024],
    },
    Scenario {
        script: "stalls.sh",
        kernel: KernelLine::K6_12,
        disks: &[1024, 1024],
        usb: &[1024],
    },
];

impl Scenario {
    /// Whether it fails for what something costs.
    pub(crate) fn compares_times(&self) -> bool {
        self.script == "unrecorded.sh"
    }
}

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
    boot(
        scenario,
        scenario.kernel,
        String::new(),
        MACHINE_TIME_MAX_S,
        false,
    )
    .map(drop)
}

/// One of them on another kernel, told more by the kernel's command line; gives the figures that it prints.
///
/// # Errors
/// As for [`pass`].
pub(crate) fn pass_with(script: &str, kernel: KernelLine, kernel_args: String) -> Result<Figures> {
    pass_within(script, kernel, kernel_args, LONG_TIME_MAX_S)
}

/// The same, where the machine may take another time, seconds.
///
/// # Errors
/// As for [`pass`].
pub(crate) fn pass_within(
    script: &str,
    kernel: KernelLine,
    kernel_args: String,
    timeout: u64,
) -> Result<Figures> {
    boot(named(script)?, kernel, kernel_args, timeout, false)
}

/// As [`pass_with`], on processors that are emulated in turns: for what puts probes in and out a hundred times under load, which an emulated kernel may
/// not survive else. It takes longer: one processor of the host does all.
///
/// # Errors
/// As for [`pass`].
pub(crate) fn pass_in_turns(script: &str, kernel: KernelLine, kernel_args: String) -> Result<Figures> {
    boot(named(script)?, kernel, kernel_args, IN_TURNS_TIME_MAX_S, true)
}

fn named(script: &str) -> Result<&'static Scenario> {
    CI.iter()
        .find(|scenario| scenario.script == script)
        .with_context(|| format!("there is no {script}"))
}

fn boot(
    scenario: &Scenario,
    kernel: KernelLine,
    kernel_args: String,
    timeout: u64,
    in_turns: bool,
) -> Result<Figures> {
    let Scenario {
        script, disks, usb, ..
    } = scenario;
    let (code, figures) = run::scripted(Scripted {
        kernel,
        script: setup::workspace_root().join("tests/scenarios").join(script),
        disks,
        usb,
        timeout,
        kernel_args,
        in_turns,
    })?;
    ensure!(code == 0, "{script} ended with {code}");
    Ok(figures)
}
