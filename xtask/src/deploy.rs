//! `cargo xtask deploy`: install on a running host, this one or over ssh.
//!
//! Owns how the package (binaries, systemd unit, example configuration, install script of `recorder/dist`) is put
//! together and brought to the host. What happens there is in `install.sh`, the same for both ways.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::build::{self, Profile};
use crate::setup::{self, say};
use crate::{Outcome, deploy_trial};

/// The programs that a host gets.
const PROGRAMS: [&str; 2] = ["recorder", "replayer"];
/// Everything else: name in the package, content.
const FILES: [(&str, &str); 5] = [
    ("install.sh", include_str!("../../recorder/dist/install.sh")),
    (
        "tapeworm.service",
        include_str!("../../recorder/dist/tapeworm.service"),
    ),
    (
        "tapeworm-rehearse@.service",
        include_str!("../../recorder/dist/tapeworm-rehearse@.service"),
    ),
    (
        "tapeworm-rehearse@.timer",
        include_str!("../../recorder/dist/tapeworm-rehearse@.timer"),
    ),
    ("tapeworm.toml", include_str!("../../recorder/dist/tapeworm.toml")),
];

/// Where to install.
#[derive(Args)]
pub(crate) struct DeployArgs {
    /// Install over ssh instead of on this host; needs root there, or sudo without a password
    #[arg(long, value_name = "USER@HOST")]
    host: Option<String>,
    /// The binaries go to its bin directory
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: String,
    /// Take recorder and replayer from this directory, as they are, instead of building them
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Install nowhere; try it in a virtual machine that runs Debian with systemd
    #[arg(long, conflicts_with_all = ["host", "prefix", "bin_dir"])]
    trial: bool,
}

pub(crate) fn run(args: DeployArgs) -> Outcome {
    let DeployArgs {
        host,
        prefix,
        bin_dir,
        trial,
    } = args;
    if trial {
        deploy_trial::pass()?;
        println!("deploy works in a virtual machine");
        return Ok(ExitCode::SUCCESS);
    }
    check_prefix(&prefix)?;
    // The script says so too, but only after minutes of building.
    ensure!(
        host.is_some() || Path::new("/run/systemd/system").is_dir(),
        "systemd does not run this host; only such hosts can be deployed to"
    );
    let bin_dir = match bin_dir {
        Some(dir) => dir,
        None => build::build_all(Profile::Release)?.bin_dir,
    };
    let package = tempfile::tempdir().context("create directory for the package")?;
    assemble(&bin_dir, package.path())?;
    match host {
        Some(host) => install_over_ssh(package.path(), &host, &prefix)?,
        None => install_here(package.path(), &prefix)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The prefix ends up in a unit file and on a remote shell's command line, where other characters have a meaning.
fn check_prefix(prefix: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    ensure!(
        prefix.starts_with('/') && prefix.chars().all(plain),
        "prefix {prefix:?} is not an absolute path of plain characters"
    );
    Ok(())
}

/// Puts everything that the host needs into `dir`.
fn assemble(bin_dir: &Path, dir: &Path) -> Result<()> {
    for name in PROGRAMS {
        let from = bin_dir.join(name);
        fs::copy(&from, dir.join(name)).with_context(|| format!("copy {}", from.display()))?;
    }
    for (name, content) in FILES {
        let to = dir.join(name);
        fs::write(&to, content).with_context(|| format!("write {}", to.display()))?;
    }
    let script = dir.join("install.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("make install.sh executable")
}

fn install_here(package: &Path, prefix: &str) -> Result<()> {
    let root = setup::output(Command::new("id").arg("-u"))?.trim() == "0";
    let script = package.join("install.sh");
    let mut cmd = if root {
        Command::new(&script)
    } else {
        Command::new("sudo")
    };
    if !root {
        say("installing needs root: asking sudo");
        cmd.arg(&script);
    }
    finish(cmd.arg(prefix), "this host")
}

/// One connection carries the package and runs the script, so that a password is asked for once.
fn install_over_ssh(package: &Path, host: &str, prefix: &str) -> Result<()> {
    ensure!(
        !host.starts_with('-') && !host.is_empty(),
        "{host:?} is not a host"
    );
    say(&format!("installing on {host}"));
    let mut tar = Command::new("tar")
        .args(["--create", "--gzip", "--file=-", "--directory"])
        .arg(package)
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .context("start tar")?;
    let stream = tar.stdout.take().context("read from tar")?;
    let remote = format!(
        "set -e; d=$(mktemp -d); trap 'rm -rf \"$d\"' EXIT; tar -xzf - -C \"$d\"; \
         if [ \"$(id -u)\" = 0 ]; then \"$d/install.sh\" {prefix}; else sudo -n \"$d/install.sh\" {prefix}; fi"
    );
    let installed = finish(
        Command::new("ssh").arg("--").arg(host).arg(remote).stdin(stream),
        host,
    );
    let packed = tar.wait().context("wait for tar")?;
    installed?;
    ensure!(packed.success(), "packing for {host} ended with {packed}");
    Ok(())
}

/// Runs what installs, with its results on our stdout and its progress on our stderr.
fn finish(cmd: &mut Command, host: &str) -> Result<()> {
    let status = cmd
        .status()
        .with_context(|| format!("start the installation on {host}"))?;
    ensure!(status.success(), "installing on {host} ended with {status}");
    say(&format!("installed on {host}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_with_meaning_to_a_shell_is_refused() {
        assert!(check_prefix("/opt/tape-worm_1.0").is_ok());
        for bad in ["opt", "/opt/a b", "/opt;id", "/opt|x", ""] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_package_is_whole() {
        let (from, to) = (
            tempfile::tempdir().expect("dir"),
            tempfile::tempdir().expect("dir"),
        );
        for name in PROGRAMS {
            assert!(assemble(from.path(), to.path()).is_err(), "without {name}");
            fs::write(from.path().join(name), name).expect("write");
        }
        assemble(from.path(), to.path()).expect("assemble");
        let mode = fs::metadata(to.path().join("install.sh"))
            .expect("script")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(to.path().join("recorder").is_file() && to.path().join("tapeworm.toml").is_file());
    }

    #[test]
    fn the_example_configuration_records_nothing() {
        let (_, example) = FILES
            .iter()
            .find(|(name, _)| *name == "tapeworm.toml")
            .expect("example");
        assert!(
            example
                .lines()
                .all(|line| line.is_empty() || line.starts_with('#')),
            "{example}"
        );
    }
}
