//! `recorder`: records every change of a file system into a journal on a medium.
//!
//! Owns the list of modules and where diagnostics go; the command line is `cli`.

mod base;
mod canary;
mod capture;
mod check;
mod cli;
mod config;
mod control;
mod daemon;
mod decode;
mod doctor;
mod doubt;
mod key;
mod media;
mod merge;
mod metrics;
mod order;
mod pipeline;
mod pulse;
mod reconcile;
mod retention;
mod snapshot;
mod spool;
mod status;

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("TAPEWORM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // The journal keeps levels and fields as such; without it, or for a person, diagnostics are lines on stderr.
    let journal = is_stderr_the_journal()
        .then(tracing_journald::layer)
        .and_then(Result::ok);
    let lines = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_target(false)
    });
    tracing_subscriber::registry()
        .with(journal)
        .with(lines)
        .with(filter)
        .init();
    cli::main()
}

/// Whether what is written to stderr goes to the journal: systemd says which file that is (systemd.exec(5), `$JOURNAL_STREAM`).
fn is_stderr_the_journal() -> bool {
    let Ok(said) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|stderr| said == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}
