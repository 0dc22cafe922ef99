//! What an operation declares: its name, what it does, and where a file system or kernel cannot do it.

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;

/// A file system that is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileSystem {
    /// ext4
    Ext4,
    /// XFS
    Xfs,
    /// Btrfs
    Btrfs,
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        })
    }
}

/// Major and minor number of a kernel.
pub type Release = (u32, u32);

/// What a scenario is told.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// What lies below the working directory.
    pub fs: FileSystem,
    /// The running kernel.
    pub kernel: Release,
    /// Where content comes from; differs from operation to operation.
    pub seed: u64,
}

/// Where an operation cannot be done, and how the kernel says so.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    fs: &'static [FileSystem],
    /// Only kernels below this one; all if not given.
    below: Option<Release>,
    /// What the kernel answers there.
    pub errno: &'static [i32],
    /// Why.
    pub reason: &'static str,
    /// It must fail there; otherwise it may (where a device decides).
    pub certain: bool,
}

impl Limit {
    /// These file systems never do it.
    pub(super) const fn never(
        fs: &'static [FileSystem],
        errno: &'static [i32],
        reason: &'static str,
    ) -> Self {
        Self {
            fs,
            below: None,
            errno,
            reason,
            certain: true,
        }
    }

    /// These file systems do it from a kernel on.
    pub(super) const fn below(
        fs: &'static [FileSystem],
        kernel: Release,
        errno: &'static [i32],
        reason: &'static str,
    ) -> Self {
        Self {
            fs,
            below: Some(kernel),
            errno,
            reason,
            certain: true,
        }
    }

    /// These file systems do it where a device or a feature of the file system allows it.
    pub(super) const fn perhaps(
        fs: &'static [FileSystem],
        errno: &'static [i32],
        reason: &'static str,
    ) -> Self {
        Self {
            fs,
            below: None,
            errno,
            reason,
            certain: false,
        }
    }

    /// Does it hold here?
    pub fn holds(&self, fs: FileSystem, kernel: Release) -> bool {
        self.fs.contains(&fs) && self.below.is_none_or(|below| kernel < below)
    }
}

/// One way in which files change.
#[derive(Debug)]
pub struct Operation {
    /// Also the name of its directory.
    pub name: &'static str,
    /// What it does, in a line.
    pub what: &'static str,
    /// Where it cannot be done.
    pub limits: &'static [Limit],
    /// Does it, in the working directory.
    pub run: fn(&Context) -> Result<()>,
}

/// An operation that every file system supports on every kernel.
pub(super) const fn operation(
    name: &'static str,
    what: &'static str,
    run: fn(&Context) -> Result<()>,
) -> Operation {
    Operation {
        name,
        what,
        limits: &[],
        run,
    }
}

impl Operation {
    /// The same with limits.
    pub(super) const fn limited(self, limits: &'static [Limit]) -> Self {
        Self { limits, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::{FileSystem, Limit};

    #[test]
    fn a_limit_holds_on_its_file_systems_below_its_kernel() {
        let limit = Limit::below(&[FileSystem::Xfs], (6, 10), &[95], "new");
        assert!(limit.holds(FileSystem::Xfs, (6, 1)));
        assert!(!limit.holds(FileSystem::Xfs, (6, 10)));
        assert!(!limit.holds(FileSystem::Xfs, (7, 3)));
        assert!(!limit.holds(FileSystem::Ext4, (6, 1)));
    }
}
