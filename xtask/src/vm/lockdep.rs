//! A kernel that watches its own locking, which Debian does not ship: built once, from Debian's source package.
//!
//! Owns the configuration (`lockdep.config`, all that is not in it is off) and the build. Where it lies in the cache and which modules
//! the guest gets is the business of `kernel`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};

use super::kernel::Parts;
use crate::{debian, setup};

/// What is added to an empty configuration.
pub(super) const CONFIG: &str = include_str!("lockdep.config");
/// The package with the sources; its archive has the same name.
const PACKAGE: &str = "linux-source-6.12";
/// Programs and libraries of the host that a kernel is built with; `dwarves` makes the BTF.
const HOST_PACKAGES: [&str; 9] = [
    "gcc",
    "make",
    "flex",
    "bison",
    "bc",
    "libelf-dev",
    "dwarves",
    "perl",
    "xz-utils",
];

/// Builds the kernel of a suite in `work`.
///
/// # Errors
/// When the sources or what builds them cannot be had, when they know an option no more, or the build fails.
pub(super) fn build(suite: &str, work: &Path) -> Result<Parts> {
    setup::ensure_packages(&HOST_PACKAGES)?;
    let package = debian::download(suite, &[PACKAGE])?
        .pop()
        .context("no source package")?;
    let unpacked = work.join("unpacked");
    debian::extract(&package, &unpacked)?;
    setup::run_quiet(
        Command::new("tar")
            .arg("--extract")
            .arg("--file")
            .arg(unpacked.join(format!("usr/src/{PACKAGE}.tar.xz")))
            .arg("--directory")
            .arg(work),
    )
    .context("unpack the sources of the kernel")?;
    let tree = work.join(PACKAGE);
    configure(&tree)?;
    setup::say("compiling a kernel with lockdep (half an hour on two processors, once)");
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    setup::run_quiet(
        make(&tree)
            .arg(format!("--jobs={jobs}"))
            .args(["bzImage", "modules"]),
    )?;
    let release = setup::output(make(&tree).args(["--silent", "kernelrelease"]))?;
    let release = release.trim().to_owned();
    // Stripped of what only a debugger reads; the BTF stays.
    setup::run_quiet(
        make(&tree)
            .args(["modules_install", "INSTALL_MOD_STRIP=1"])
            .arg(format!("INSTALL_MOD_PATH={}", unpacked.display())),
    )?;
    Ok(Parts {
        image: tree.join("arch/x86/boot/bzImage"),
        modules: unpacked.join("lib/modules").join(&release),
        release,
    })
}

fn make(tree: &Path) -> Command {
    let mut cmd = Command::new("make");
    cmd.arg("--directory").arg(tree);
    // Not that of whoever builds it: the guest shows it to everybody.
    cmd.env("KBUILD_BUILD_USER", "xtask")
        .env("KBUILD_BUILD_HOST", "tapeworm");
    cmd
}

fn configure(tree: &Path) -> Result<()> {
    let wanted = tree.join("lockdep.config");
    fs::write(&wanted, CONFIG).context("write the configuration of the kernel")?;
    setup::run_quiet(make(tree).arg("allnoconfig").env("KCONFIG_ALLCONFIG", &wanted))?;
    let made = fs::read_to_string(tree.join(".config")).context("read the configuration of the kernel")?;
    let refused = refused(CONFIG, &made);
    // An option that is refused in silence would leave a kernel that finds nothing.
    ensure!(
        refused.is_empty(),
        "these sources do not take {}",
        refused.join(", ")
    );
    if !made.lines().any(|line| line == "CONFIG_PROVE_LOCKING=y") {
        bail!("the configuration is without lockdep");
    }
    Ok(())
}

/// The lines of a configuration that another one, complete, does not have.
fn refused<'a>(wanted: &'a str, made: &str) -> Vec<&'a str> {
    let made: Vec<&str> = made.lines().collect();
    let is_there = |line: &str| match line.strip_prefix("# ") {
        // Off is also what is not there at all. Other comments are for people.
        Some(comment) => match comment.strip_suffix(" is not set") {
            Some(option) => !made.iter().any(|other| other.starts_with(&format!("{option}="))),
            None => true,
        },
        None => line.is_empty() || made.contains(&line),
    };
    wanted.lines().filter(|line| !is_there(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_were_not_taken_are_named() {
        let wanted = "# Why.\nCONFIG_A=y\n\n# CONFIG_B is not set\nCONFIG_C=m\n# CONFIG_D is not set\n";
        let made = "CONFIG_A=y\nCONFIG_C=y\nCONFIG_D=y\n";
        assert_eq!(refused(wanted, made), ["CONFIG_C=m", "# CONFIG_D is not set"]);
        assert!(refused(wanted, "CONFIG_A=y\nCONFIG_C=m\n# CONFIG_B is not set\n").is_empty());
    }
}
