//! The fault of a kernel that watches its own locking: none is provoked in it, it is to have nothing to say while others are.
//!
//! Owns which scenarios are run there, and how often each of them does what it does. That the kernel was silent, and still looked at the
//! end, they find out themselves (`silent` in `tests/scenarios/lib.sh`).

use anyhow::{Result, ensure};

use crate::check_machines;
use crate::setup::say;
use crate::vm::figures::Figures;
use crate::vm::kernel::KernelLine;
use crate::vm::roundtrip::FileSystem;

/// Rounds of attaching and detaching: as many as `reattach.sh` needs to tell whether anything grows.
const ROUNDS: u64 = 12;
/// Kills; every third is for want of memory.
const KILLS: u64 = 3;
/// Losses that `holes.sh` provokes.
const HOLES: u64 = 3;
/// What is provoked in one run.
pub(super) const FAULTS: u64 = ROUNDS + KILLS + HOLES;
/// Times as long as elsewhere that scripts wait for something.
const SLOW: u64 = 4;
/// Time for each machine, seconds: emulated, and with every lock accounted for.
const TIME_MAX_S: u64 = 4 * 3600;

/// Runs the scenarios, all of them whatever the others came to; gives their figures, named after them.
///
/// # Errors
/// When one of them fails; those that did are named.
pub(super) fn pass(kernel: KernelLine, fs: FileSystem, seed: u64) -> Result<Figures> {
    let given = format!("tapeworm.fs={fs} tapeworm.seed={seed} tapeworm.slow={SLOW}");
    let scripts = [
        ("reattach", format!("tapeworm.rounds={ROUNDS}")),
        ("kill", format!("tapeworm.kills={KILLS}")),
        ("holes", String::new()),
    ];
    let (mut figures, mut failures) = (Figures::new(), Vec::new());
    let mut same = 0;
    for (name, args) in scripts {
        let script = format!("{name}.sh");
        match check_machines::pass_within(&script, kernel, format!("{given} {args}"), TIME_MAX_S) {
            Ok(told) => {
                for (figure, value) in told {
                    match (figure.as_str(), value.parse::<u64>()) {
                        ("same", Ok(count)) => same += count,
                        _ => _ = figures.insert(format!("{name}_{figure}"), value),
                    }
                }
            }
            Err(error) => {
                say(&format!("FAILED: {script} on {kernel}: {error:#}"));
                failures.push(format!("{error:#}"));
            }
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    figures.insert("same".to_owned(), same.to_string());
    Ok(figures)
}
