//! `cargo xtask test --fuzz`: what reads bytes from outside, with bytes that nobody would write.
//!
//! Owns which targets there are and how they are run; what they do lies in `tests/fuzz`. Finds are kept in the cache and tried again the
//! next time; an input that breaks something lies in `tests/fuzz/artifacts` afterwards.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::setup::{self, say};
use crate::vm::figures::Figures;
use crate::{Outcome, toolchain};

const CARGO_FUZZ_VERSION: &str = "0.13.2";
const TARGETS: [&str; 4] = ["label", "manifest", "segment", "frame"];
/// Megabytes that a target may take: the bound that `journal` promises for one row group, several times.
const MEMORY_MB_MAX: u32 = 1500;
/// Seconds that one input may take, on a slow machine: a hang is longer.
const INPUT_SECONDS_MAX: u32 = 25;
/// Bytes of an input.
const INPUT_BYTES_MAX: u32 = 1 << 16;

/// Runs every target for so many seconds.
pub(crate) fn run(seconds: u64) -> Outcome {
    let mut failed = 0;
    for (target, runs) in each(seconds)? {
        match runs {
            Ok(runs) => say(&format!("{target}: {runs} runs")),
            Err(error) => {
                say(&format!("FAILED: fuzz {target}: {error:#}"));
                failed += 1;
            }
        }
    }
    println!("{} passed, {failed} failed", TARGETS.len() - failed);
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The same for a page of results: how often each was run.
///
/// # Errors
/// When a target finds something.
pub(crate) fn figures(seconds: u64) -> Result<Figures> {
    let figure = |(target, runs): (&str, Result<u64>)| {
        let runs = runs.with_context(|| format!("fuzz {target}"))?;
        Ok((format!("{target}_runs_in_{seconds}_s"), runs.to_string()))
    };
    each(seconds)?.into_iter().map(figure).collect()
}

/// Every target, and how often it was run. One that finds something does not keep the others from being run.
fn each(seconds: u64) -> Result<Vec<(&'static str, Result<u64>)>> {
    let tools = ensure_cargo_fuzz()?;
    let each = TARGETS.iter().map(|target| {
        say(&format!("== fuzz {target}: {seconds} s"));
        (*target, one(&tools, target, seconds))
    });
    Ok(each.collect())
}

fn one(tools: &Path, target: &str, seconds: u64) -> Result<u64> {
    let root = setup::workspace_root();
    let finds = setup::cache_dir()?.join("fuzz").join(target);
    fs::create_dir_all(&finds).with_context(|| format!("create {}", finds.display()))?;
    let corpus = root.join("tests/fuzz/corpus").join(target);
    let mut path = vec![tools.join("bin")];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    // Sanitizers do not go with static programs, and all of ours that reads media is safe Rust: panics, hangs and memory are looked for.
    let mut cargo = toolchain::cargo();
    cargo
        .current_dir(&root)
        .env("PATH", env::join_paths(path).context("extend PATH")?)
        .env("RUSTC_BOOTSTRAP", "1")
        .args([
            "fuzz",
            "run",
            "--fuzz-dir",
            "tests/fuzz",
            "--sanitizer",
            "none",
            target,
        ])
        .args([&finds, &corpus])
        .arg("--")
        .args([
            format!("-max_total_time={seconds}"),
            format!("-rss_limit_mb={MEMORY_MB_MAX}"),
            format!("-timeout={INPUT_SECONDS_MAX}"),
            format!("-max_len={INPUT_BYTES_MAX}"),
            "-print_final_stats=1".to_owned(),
            "-verbosity=0".to_owned(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = cargo.spawn().context("start cargo fuzz")?;
    let stderr = child.stderr.take().context("read output of cargo fuzz")?;
    let mut runs = None;
    for line in BufReader::new(stderr).split(b'\n') {
        let line = line.context("read output of cargo fuzz")?;
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            runs = count.trim().parse().ok();
        }
    }
    let status = child.wait().context("wait for cargo fuzz")?;
    ensure!(status.success(), "cargo fuzz ended with {status}");
    runs.context("the fuzzer does not say how often it ran the target")
}

/// Where cargo-fuzz is installed, after building it where it is not.
fn ensure_cargo_fuzz() -> Result<PathBuf> {
    let tools = setup::cache_dir()?.join(format!("cargo-fuzz-{CARGO_FUZZ_VERSION}"));
    let works = || {
        Command::new(tools.join("bin/cargo-fuzz"))
            .arg("--version")
            .output()
            .is_ok_and(|out| out.status.success())
    };
    if works() {
        return Ok(tools);
    }
    say(&format!(
        "building cargo-fuzz {CARGO_FUZZ_VERSION}: once, a few minutes"
    ));
    fs::create_dir_all(&tools).with_context(|| format!("create {}", tools.display()))?;
    // Started in the cache, where the project's own cargo configuration (static binaries) does not apply.
    setup::run_quiet(
        toolchain::cargo()
            .current_dir(&tools)
            .args([
                "install",
                "cargo-fuzz",
                "--locked",
                "--force",
                "--version",
                CARGO_FUZZ_VERSION,
                "--root",
            ])
            .arg(&tools),
    )?;
    ensure!(works(), "the freshly built cargo-fuzz does not start");
    Ok(tools)
}
