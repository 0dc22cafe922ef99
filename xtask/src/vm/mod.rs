//! `cargo xtask vm`: being written.

use clap::Args;

use crate::Outcome;

/// Arguments of `cargo xtask vm`.
#[derive(Args)]
pub(crate) struct VmArgs {}

/// Runs the command.
pub(crate) fn run(_args: VmArgs) -> Outcome {
    anyhow::bail!("vm is being written")
}
