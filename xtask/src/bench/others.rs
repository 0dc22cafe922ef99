//! Debian's restic and borg.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::programs::Programs;
use crate::setup;

const PACKAGES: [&str; 2] = ["restic", "borgbackup"];
/// Raised when the packages or the way they are unpacked change.
const CACHE_VERSION: u32 = 1;

/// Where they lie.
pub(super) struct Others {
    programs: Programs,
    /// What they keep about repositories.
    home: PathBuf,
}

impl Others {
    /// Provides them; `home` is a directory for what they keep.
    pub(super) fn ensure(home: PathBuf) -> Result<Self> {
        let programs = Programs::ensure("backups", &PACKAGES, CACHE_VERSION)?;
        Ok(Self { programs, home })
    }

    fn program(&self, path: &str) -> Result<Command> {
        let mut cmd = self.programs.command(path)?;
        cmd.env("HOME", &self.home)
            .env("XDG_CACHE_HOME", self.home.join("cache"))
            .env("RESTIC_PASSWORD", "none")
            .env("BORG_BASE_DIR", &self.home)
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
            .env("PYTHONHOME", self.programs.dir("usr"))
            .env("PYTHONPATH", self.programs.dir("usr/lib/python3/dist-packages"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(cmd)
    }

    fn restic(&self, repository: &Path) -> Result<Command> {
        let mut cmd = self.program("usr/bin/restic")?;
        cmd.arg("--repo").arg(repository);
        Ok(cmd)
    }

    fn borg(&self) -> Result<Command> {
        let mut cmd = self.program("usr/bin/python3")?;
        cmd.arg(self.programs.dir("usr/bin/borg"));
        Ok(cmd)
    }

    /// Their versions.
    pub(super) fn versions(&self) -> Result<String> {
        let of = |mut cmd: Command, arg| -> Result<String> {
            let said = setup::output(cmd.arg(arg))?;
            Ok(said
                .split(' ')
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
                .trim()
                .to_owned())
        };
        Ok(format!(
            "{}, {}",
            of(self.program("usr/bin/restic")?, "version")?,
            of(self.borg()?, "--version")?
        ))
    }

    /// Backs a tree up into a new repository, as each does by default, borg without encryption.
    pub(super) fn back_up(&self, tree: &Path, restic: &Path, borg: &Path) -> Result<()> {
        setup::run_quiet(self.restic(restic)?.arg("init"))?;
        setup::run_quiet(self.restic(restic)?.args(["backup", "."]).current_dir(tree))?;
        let mut init = self.borg()?;
        setup::run_quiet(init.args(["init", "--encryption=none"]).arg(borg))?;
        let archive = format!("{}::all", borg.display());
        setup::run_quiet(self.borg()?.args(["create", &archive, "."]).current_dir(tree))
    }

    /// Restores with restic.
    pub(super) fn restic_restore(&self, repository: &Path, target: &Path) -> Result<Command> {
        let mut cmd = self.restic(repository)?;
        cmd.args(["restore", "latest", "--target"]).arg(target);
        Ok(cmd)
    }

    /// Restores with borg, into a directory that is there.
    pub(super) fn borg_extract(&self, repository: &Path, target: &Path) -> Result<Command> {
        let mut cmd = self.borg()?;
        cmd.arg("extract").arg(format!("{}::all", repository.display()));
        cmd.current_dir(target);
        Ok(cmd)
    }
}
