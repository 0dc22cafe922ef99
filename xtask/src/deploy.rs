//! `cargo xtask deploy`: install on a running host, this one or over ssh.

use clap::Args;

use crate::Outcome;

/// Where to install.
#[derive(Args)]
pub(crate) struct DeployArgs {
    /// Install over ssh instead of on this host
    #[arg(long, value_name = "USER@HOST")]
    host: Option<String>,
}

pub(crate) fn run(_args: DeployArgs) -> Outcome {
    anyhow::bail!("deploy is being written")
}
