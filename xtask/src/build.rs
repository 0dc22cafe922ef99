//! `cargo xtask build`: the eBPF object, then the static binaries.

use clap::Args;

use crate::Outcome;

/// What to build.
#[derive(Args)]
pub(crate) struct BuildArgs {
    /// Build for deployment: optimised, slower to build
    #[arg(long)]
    release: bool,
    /// Build only the eBPF object
    #[arg(long)]
    ebpf_only: bool,
}

pub(crate) fn run(_args: BuildArgs) -> Outcome {
    anyhow::bail!("build is being written")
}
