//! A blank file system for each arm: what an arm before it wrote, or removed, does not slow it. (ext4 goes round inodes that were freed in the last
//! minutes, one by one.)
//!
//! Owns the image, which lies sparse beside what is read, and its mount. Takes root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::setup;

/// Apparent size; only what is written takes room.
const IMAGE_BYTES: u64 = 12 << 30;

/// A blank ext4, mounted.
pub(super) struct Blank {
    image: PathBuf,
    mount: PathBuf,
}

impl Blank {
    /// Makes and mounts one in `dir`; there is one at a time.
    pub(super) fn make(dir: &Path) -> Result<Self> {
        let blank = Self {
            image: dir.join("blank.ext4"),
            mount: dir.join("blank"),
        };
        let file = File::create(&blank.image).context("create the image of a blank disk")?;
        file.set_len(IMAGE_BYTES)
            .context("size the image of a blank disk")?;
        drop(file);
        // Tables are written now: the kernel would write them while an arm is measured.
        let options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        setup::run_quiet(Command::new("mkfs.ext4").args(options).arg(&blank.image))?;
        fs::create_dir_all(&blank.mount).context("create a mount point")?;
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&blank.image).arg(&blank.mount);
        setup::run_quiet(&mut mount).context("mount a blank disk: that takes root and loop devices")?;
        Ok(blank)
    }

    /// Where to restore to: a directory that is not there yet.
    pub(super) fn target(&self) -> PathBuf {
        self.mount.join("target")
    }

    /// The file system itself.
    pub(super) fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Blank {
    fn drop(&mut self) {
        // Where that fails the next one says so; a mount that is left over keeps nothing but room.
        let _said_later = setup::run_quiet(Command::new("umount").arg(&self.mount));
        let _said_later = fs::remove_file(&self.image);
    }
}
