//! `cargo xtask demo`: the main job in plain words, on real machines with real work.
//!
//! Owns the narration only. It is one round trip like any other (`vm::roundtrip`), told step by step.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::vm::kernel::KernelLine;
use crate::vm::machine::Sink;
use crate::vm::roundtrip::{FileSystem, Stage, Trip};
use crate::vm::verdict::Report;
use crate::vm::{finish, run_dir};
use crate::{Outcome, debian};

const WORK: &str = include_str!("vm/guest/demo.sh");

/// Arguments of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Kernel of both machines
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: KernelLine,
    /// Take recorder, replayer and oracle from this directory, as they are, instead of building them
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Keep the medium, the digests and all logs in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: DemoArgs) -> Outcome {
    let DemoArgs {
        kernel,
        bin_dir,
        keep,
    } = args;
    let started = Instant::now();
    tell(
        "This shows a file system being recorded while it is in use, its disk destroyed, and an identical tree",
    );
    tell(
        "rebuilt on a blank disk from a USB disk alone. It takes some minutes; the first time, some more for set-up.",
    );
    tell("");
    step(
        1,
        "Getting ready: building tapeworm; a kernel, a Debian system for the machines, something to build in them.",
    );
    let source = debian::download_source("trixie", "lua5.4")?;
    let scratch = run_dir("demo")?;
    let script = scratch.join("work.sh");
    fs::write(&script, WORK).context("write the script of the demonstration")?;
    let trip = Trip {
        file: vec![(source, "/opt/demo/source.tar".into())],
        bin_dir,
        timeout: 1800,
        ..Trip::new(kernel, FileSystem::Ext4, script)
    };
    let stage = Stage::prepare(&trip)?;
    step(
        2,
        "A machine is switched on. It has a disk with a live ext4, and a USB disk.",
    );
    tell("      recorder attach /origin --medium /medium --spool /spool");
    tell(
        "   From here on everything that happens to the disk is written to the USB disk. Then the work begins:",
    );
    let recorded = stage.record(&mut Indented)?;
    step(
        3,
        "recorder flush --wait says that all of it is on the USB disk. The machine is switched off.",
    );
    tell(
        "   Its disk is destroyed: the image is deleted. Only a digest of what was on it is kept, to compare with.",
    );
    step(
        4,
        "A second machine is switched on. It has the USB disk, read-only, and a blank disk. Nothing else.",
    );
    tell("   The replayer that lies on the USB disk checks every segment and rebuilds the disk:");
    tell("      replayer verify --medium /medium");
    tell("      replayer restore --medium /medium --device /dev/vda");
    tell("   and once more as it was at the mark:");
    tell("      replayer restore --medium /medium --device /dev/vda --at mark:before-cleanup");
    let restored = stage.restore(&recorded, &mut Indented)?;
    step(
        5,
        "The comparison: names, types, modes, owners, times, xattrs, ACLs, links and every byte of content.",
    );
    let report = stage.report(recorded, restored)?;
    tell_result(&report)?;
    tell(&format!(
        "   All in all {:.0} s.",
        started.elapsed().as_secs_f64()
    ));
    fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
    if report.ok || keep.is_some() {
        finish(stage.dir(), keep.as_deref())?;
    } else {
        tell(&format!("   Medium, digests and logs: {}", stage.dir().display()));
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn tell_result(report: &Report) -> Result<()> {
    ensure!(
        report.points.len() == 2,
        "{} points were compared, not 2",
        report.points.len()
    );
    for point in &report.points {
        let when = if point.name == "final" {
            "at the end"
        } else {
            "at the mark before-cleanup"
        };
        match (point.same, point.entries, point.bytes) {
            (true, Some(entries), Some(bytes)) => {
                tell(&format!(
                    "   {when}: SAME, {entries} entries with {} of content",
                    mib(bytes)
                ));
            }
            _ => {
                tell(&format!("   {when}: DIFFERENT"));
                for line in &point.differences {
                    tell(&format!("      {line}"));
                }
            }
        }
    }
    tell(&format!(
        "   The disk held {}; the journal of all that happened to it takes {} on the USB disk.",
        mib(report.origin_bytes),
        mib(report.medium_bytes)
    ));
    tell(&format!(
        "   The first machine ran {:.0} s, the second {:.0} s. Operations lost: {} holes.",
        report.record_s,
        report.restore_s,
        report.holes_open()
    ));
    if report.script_code != 0 {
        tell(&format!(
            "   But the work in the first machine ended with {}.",
            report.script_code
        ));
    }
    Ok(())
}

fn mib(bytes: u64) -> String {
    // Exact to a tenth, in whole numbers.
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn step(number: u32, text: &str) {
    tell(&format!("{number}. {text}"));
}

fn tell(text: &str) {
    println!("{text}");
}

/// The work tells its own story on stdout; what programs complain about goes to stderr.
struct Indented;

impl Sink for Indented {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        io::Write::write_all(&mut out, bytes)?;
        io::Write::flush(&mut out)
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut io::stderr().lock(), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_mib() {
        assert_eq!(mib(3 << 19), "1.5 MiB");
        assert_eq!(mib(0), "0.0 MiB");
    }
}
