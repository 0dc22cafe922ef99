//! A series: machines that are booted one after the other with the same disks and one script, to which each is told what part of it to play.
//!
//! Owns what such boots share. When something happens to one of them is the business of `power` and `unplug`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::figures::{Figures, Noted};
use super::kernel::{self, Kernel, KernelLine};
use super::machine::{Disk, Machine, Shown, Sink};
use super::run::{GUEST_LIBRARY, GUEST_SCRIPT, project_binaries, script_command};
use super::{blank_image, root, run_dir};
use crate::setup;

/// Holds what the guests know of each other: its name and size, MiB.
pub(super) const KEEP: (&str, u64) = ("keep", 256);
const MEDIUM: &str = "medium";

/// What the boots share.
pub(super) struct Series {
    kernel: Kernel,
    root: PathBuf,
    files: Vec<(PathBuf, String)>,
    script: PathBuf,
    /// Disks and logs.
    pub(super) dir: PathBuf,
    /// What every boot is told: variables of the script.
    env: Vec<(String, String)>,
    /// Time that each boot may take.
    timeout: Duration,
}

impl Series {
    /// Builds what the guests need, and makes blank disks of these names and sizes (MiB).
    ///
    /// # Errors
    /// When anything of it cannot be made.
    pub(super) fn new(
        script: &str,
        kernel: KernelLine,
        disks: &[(&str, u64)],
        env: &[(&str, String)],
        timeout: Duration,
    ) -> Result<Self> {
        let scenarios = setup::workspace_root().join("tests/scenarios");
        let path = scenarios.join(script);
        let mut files = project_binaries(None)?;
        files.push((path.clone(), GUEST_SCRIPT.into()));
        files.push((scenarios.join("lib.sh"), GUEST_LIBRARY.into()));
        let dir = run_dir(script.trim_end_matches(".sh"))?;
        for (name, mib) in disks.iter().chain([&KEEP]) {
            blank_image(&dir, name, *mib)?;
        }
        Ok(Self {
            kernel: kernel::ensure_kernel(kernel)?,
            root: root::ensure_root(&[])?,
            files,
            script: path,
            dir,
            env: env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            timeout,
        })
    }

    /// The image of a disk.
    pub(super) fn image(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.img"))
    }

    /// The machine of one boot, which plays this part; its logs lie in a directory of this name.
    ///
    /// # Errors
    /// When the script cannot be read.
    pub(super) fn machine(&self, name: &str, part: &str, disks: Vec<Disk>) -> Result<Machine<'_>> {
        let mut env = self.env.clone();
        env.push(("PHASE".into(), part.into()));
        Ok(Machine {
            kernel: &self.kernel,
            root: &self.root,
            disks,
            files: self.files.clone(),
            argv: script_command(&self.script)?,
            env,
            cwd: "/root".into(),
            systemd: false,
            mem_mib: 2048,
            timeout: self.timeout,
            dir: self.dir.join(name),
            kernel_args: String::new(),
            in_turns: false,
        })
    }

    /// Runs a machine to its end.
    ///
    /// # Errors
    /// When it fails, or its script ends with anything but 0.
    pub(super) fn run(&self, machine: Machine<'_>, sink: &mut dyn Sink) -> Result<()> {
        let name = machine
            .dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let ended = machine.run(sink)?;
        for warning in &ended.warnings {
            setup::say(&format!("the guest's kernel warns: {warning}"));
        }
        ensure!(
            ended.code == 0,
            "the script ended with {} ({name}); disks and logs: {}",
            ended.code,
            self.dir.display()
        );
        Ok(())
    }

    /// The last boot: has only the medium, read-only, a blank disk, and what the guests know of each other. Gives the figures that it prints; all
    /// disks are removed when it ends well.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub(super) fn restore(self, blank_mib: u64) -> Result<Figures> {
        let blank = blank_image(&self.dir, "blank", blank_mib)?;
        let mut medium = Disk::virtio(self.image(MEDIUM), MEDIUM);
        medium.read_only = true;
        let keep = Disk::virtio(self.image(KEEP.0), KEEP.0);
        let mut noted = Noted::new(Shown);
        let machine = self.machine(
            "restore",
            "restore",
            vec![medium, Disk::virtio(blank, "blank"), keep],
        )?;
        self.run(machine, &mut noted)?;
        fs::remove_dir_all(&self.dir).context("remove the disks")?;
        Ok(noted.figures)
    }
}
