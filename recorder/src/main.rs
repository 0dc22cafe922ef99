//! `recorder`: records every change of a file system into a journal on a medium.
//!
//! Owns the list of modules and where diagnostics go; the command line is `cli`.

mod base;
mod canary;
mod capture;
mod cli;
mod config;
mod control;
mod daemon;
mod decode;
mod doctor;
mod doubt;
mod merge;
mod order;
mod pipeline;
mod reconcile;
mod snapshot;
mod spool;
mod status;

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("TAPEWORM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    cli::main()
}
