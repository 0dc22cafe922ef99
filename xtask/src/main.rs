//! The only runner of the project: builds, tests, virtual machines, demonstration, deployment.
//!
//! This file owns the command tree and the exit codes; every command lives in its own module. xtask knows none of
//! the project's crates: it only builds their binaries and starts them.

mod bench;
mod build;
mod check;
mod check_machines;
mod check_scenarios;
mod check_side_by_side;
mod debian;
mod demo;
mod deploy;
mod deploy_trial;
mod fuzz;
mod matrix;
mod programs;
mod queries;
mod reliability;
mod setup;
mod soak;
mod tidy;
mod toolchain;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What every command ends with: the exit code to leave with, or an error (exit code 1).
pub(crate) type Outcome = anyhow::Result<ExitCode>;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Builds, tests, demonstrates and deploys tapeworm"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the eBPF object and the static binaries, and say where they are
    Build(build::BuildArgs),
    /// Run the checks: format, lints, unit tests, tidy, a fixed set of VM scenarios
    Test(check::TestArgs),
    /// Check the rules of the design: who may know whom, and how files look
    Tidy,
    /// Ask a recorded journal what docs/queries.md asks, with DuckDB, pyarrow and DataFusion
    Queries(queries::QueriesArgs),
    /// Record a live file system in a VM, destroy it, rebuild it in another VM, compare
    Demo(demo::DemoArgs),
    /// Run workloads in virtual machines with Debian's own kernels
    Vm(vm::VmArgs),
    /// Install on a running host: binaries, systemd unit, example config
    Deploy(deploy::DeployArgs),
    /// Measure speed and sizes against their limits, and write what came out to docs/benchmarks.md
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Build(args) => build::run(args),
        Command::Test(args) => check::run(args),
        Command::Tidy => tidy::run(),
        Command::Queries(args) => queries::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Vm(args) => vm::run(args),
        Command::Deploy(args) => deploy::run(args),
        Command::Bench(args) => bench::run(args),
    };
    outcome.unwrap_or_else(|error| {
        setup::say(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}
