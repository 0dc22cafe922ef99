//! `cargo xtask demo`: being written.

use clap::Args;

use crate::Outcome;

/// Arguments of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct DemoArgs {}

/// Runs the command.
pub(crate) fn run(_args: DemoArgs) -> Outcome {
    anyhow::bail!("demo is being written")
}
