//! Which work is recorded, in which arms, and what recording may cost there at most. What each does in the machine is in `tests/bench/works.py`.

use clap::ValueEnum;

use super::super::figure::Limit;

/// Attached to another file system.
pub(super) const FILTERED_MAX: f64 = 1.02;

/// A work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// Sequential buffered write, 128 KiB each
    Sequential,
    /// Random buffered write, 4 KiB each
    Random,
    /// Random write with `O_DIRECT`, 4 KiB each
    Direct,
    /// Small appends, each with an fsync
    Appends,
    /// Small files, created and then removed
    SmallFiles,
    /// Sources unpacked
    Untar,
    /// Sources compiled
    Build,
    /// SQLite, small durable transactions
    Sqlite,
    /// `PostgreSQL` under pgbench
    Pgbench,
    /// Modes and names changed
    Storm,
    /// Eight writers at once
    Writers,
}

impl Work {
    /// Its name, as the guest knows it, too.
    pub(in super::super) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// For people.
    pub(in super::super) fn what(self) -> String {
        let help = self
            .to_possible_value()
            .and_then(|value| value.get_help().map(ToString::to_string));
        help.unwrap_or_default()
    }

    /// Time while it is recorded, against bare.
    pub(in super::super) fn limit(self) -> Limit {
        match self {
            Self::Sequential => Limit::AtMost(1.25),
            Self::Appends | Self::Sqlite | Self::Pgbench => Limit::AtMost(1.10),
            Self::SmallFiles | Self::Untar | Self::Build => Limit::AtMost(1.15),
            Self::Random | Self::Direct | Self::Storm | Self::Writers => Limit::None,
        }
    }

    /// Debian packages that it needs beyond what every guest has.
    pub(super) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Pgbench => &["postgresql"],
            _ => &[],
        }
    }

    /// Debian source package that it works on.
    pub(super) fn source(self) -> Option<&'static str> {
        match self {
            Self::Untar => Some("busybox"),
            Self::Build => Some("lua5.4"),
            _ => None,
        }
    }
}

/// A way in which the same work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arm {
    /// Nobody looks on.
    Bare,
    /// A recorder of another file system.
    Filtered,
    /// A recorder of this one.
    Recorded,
    /// All calls and all data in the log of strace.
    Strace,
    /// A log of all writes to the disk, below the same file system.
    LogWrites,
    /// A file system that keeps its past by itself.
    Nilfs2,
    /// A backup by each of the usual programs, after the work and not in its time.
    Backup,
}

impl Arm {
    /// Its name, as the guest knows it, too.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Filtered => "filtered",
            Self::Recorded => "recorded",
            Self::Strace => "strace",
            Self::LogWrites => "log-writes",
            Self::Nilfs2 => "nilfs2",
            Self::Backup => "backup",
        }
    }

    /// Debian packages that it needs beyond what every guest has.
    pub(super) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Bare | Self::Filtered | Self::Strace => &[],
            // What says how long each program in the kernel took.
            Self::Recorded => &["bpftool"],
            Self::LogWrites => &["dmsetup"],
            Self::Nilfs2 => &["nilfs-tools"],
            Self::Backup => &["restic", "borgbackup"],
        }
    }
}
