//! `cargo xtask queries`: what `docs/queries.md` asks, asked by engines that are not ours.
//!
//! Owns the Python environment with these engines, and what they are asked over. How the answers are compared is in `tests/queries/run.py`; no
//! machine is needed, for the journal in `tests/queries` was recorded once (`record.sh` there).

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::Outcome;
use crate::build::{self, Profile};
use crate::setup::{self, say};

/// A medium that is encrypted, with what reads it.
const ENCRYPTED: &str = "tests/golden/v7-encrypted";

/// What `cargo xtask queries` does.
#[derive(Args)]
pub(crate) struct QueriesArgs {
    /// Write what comes out into the page instead of comparing it
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: QueriesArgs) -> Outcome {
    let QueriesArgs { write } = args;
    pass(write).map(|()| ExitCode::SUCCESS)
}

/// Runs every query over the journal of the tests; passes when what comes out is what the page shows, and all engines see the same records. What is exported
/// from an encrypted medium is asked, too.
///
/// # Errors
/// When the engines are missing and cannot be installed, a query fails, or anything differs.
pub(crate) fn pass(write: bool) -> Result<()> {
    let python = ensure_engines().context("provide DuckDB, pyarrow and DataFusion")?;
    let exported = tempfile::tempdir().context("make a directory for what is exported")?;
    let root = setup::workspace_root();
    let encrypted = root.join(ENCRYPTED);
    setup::run(
        Command::new(build::build_all(Profile::Dev)?.bin_dir.join("replayer"))
            .arg("export")
            .arg("--medium")
            .arg(&encrypted)
            .arg("--identity")
            .arg(encrypted.join("identity"))
            .arg("--to")
            .arg(exported.path()),
    )?;
    let mut cmd = Command::new(python);
    cmd.current_dir(root)
        .args(["tests/queries/run.py", "docs/queries.md", "tests/queries/journal"])
        .arg(exported.path())
        .arg(encrypted.join("expected.jsonl"));
    if write {
        cmd.arg("--write");
    }
    setup::run(&mut cmd)
}

/// The Python interpreter that has the engines, each in the release and with the hash that `requirements.txt` names.
fn ensure_engines() -> Result<PathBuf> {
    let dir = setup::cache_dir()?.join("queries-python");
    let python = dir.join("bin/python");
    let pip = || {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "--disable-pip-version-check"]);
        pip
    };
    if setup::output(pip().arg("--version")).is_err() {
        setup::ensure_packages(&["python3-venv"])?;
        say("making a Python environment with DuckDB, pyarrow and DataFusion: once, 125 MB to fetch");
        setup::run_quiet(
            Command::new("/usr/bin/python3")
                .args(["-m", "venv", "--clear"])
                .arg(&dir),
        )?;
    }
    // Asks nobody for what is there already in the release that is wanted.
    let requirements = setup::workspace_root().join("tests/queries/requirements.txt");
    let install = [
        "install",
        "--only-binary=:all:",
        "--require-hashes",
        "--requirement",
    ];
    setup::run_quiet(pip().args(install).arg(requirements))?;
    Ok(python)
}
