//! Which file systems can be recorded, which cannot, and why not: one table for the refusal at attach and for the doctor.

use serde::Serialize;

/// A file system and whether it can be recorded.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Support {
    /// Its name as in /proc/self/mountinfo.
    pub(crate) fs_type: &'static str,
    /// Whether it can be recorded.
    pub(crate) supported: bool,
    /// With what limits, or why not, and what to do instead.
    pub(crate) remark: &'static str,
}

const fn yes(fs_type: &'static str, remark: &'static str) -> Support {
    Support {
        fs_type,
        supported: true,
        remark,
    }
}

const fn no(fs_type: &'static str, remark: &'static str) -> Support {
    Support {
        fs_type,
        supported: false,
        remark,
    }
}

const NOT_KNOWN: &str = "nobody has shown that every change to it is captured";
const REMOTE: &str =
    "other machines change it, and their changes never pass this kernel: record it where its disk is";

/// What is known, the supported ones first.
pub(crate) const SUPPORT: &[Support] = &[
    yes(
        "ext4",
        "not with data=journal, dax, inline_data, or quota files that are visible",
    ),
    yes("xfs", "not with dax"),
    yes(
        "btrfs",
        "the top level alone: not with subvolumes or snapshots, nor with the free-space cache v1",
    ),
    no(
        "tmpfs",
        "it ends with the machine: copy what is to last to a disk",
    ),
    no(
        "ramfs",
        "it ends with the machine: copy what is to last to a disk",
    ),
    no(
        "overlay",
        "its files lie on the file systems of its upper and lower directories: record the one that holds the upper directory",
    ),
    no("nfs", REMOTE),
    no("nfs4", REMOTE),
    no("cifs", REMOTE),
    no("smb3", REMOTE),
    no("ceph", REMOTE),
    no("9p", REMOTE),
    no("virtiofs", REMOTE),
    no(
        "fuse",
        "a program keeps its content, and may change it without this kernel: record the file system below it",
    ),
    no(
        "fuseblk",
        "a program keeps its content: use the kernel's own driver, where there is one that can be recorded",
    ),
    no(
        "ecryptfs",
        "its files lie on another file system: record that one",
    ),
    no(
        "vfat",
        "its files have no lasting identity (inode and generation) to tell them by",
    ),
    no(
        "exfat",
        "its files have no lasting identity (inode and generation) to tell them by",
    ),
    no("ntfs3", NOT_KNOWN),
    no("f2fs", NOT_KNOWN),
    no("ext2", "mount it as ext4, which can be recorded"),
    no("ext3", "mount it as ext4, which can be recorded"),
    no("jfs", NOT_KNOWN),
    no("nilfs2", NOT_KNOWN),
    no("bcachefs", NOT_KNOWN),
    no("zfs", "it writes past the page cache, where changes are captured"),
    no("iso9660", "it cannot be changed"),
    no("squashfs", "it cannot be changed"),
    no("erofs", "it cannot be changed"),
];

/// Why a file system cannot be recorded; `None` where it can.
pub(super) fn refusal(fs_type: &str) -> Option<String> {
    // "fuse.sshfs" and the like.
    let family = fs_type.split('.').next().unwrap_or(fs_type);
    match SUPPORT
        .iter()
        .find(|known| known.fs_type == fs_type || known.fs_type == family)
    {
        Some(Support { supported: true, .. }) => None,
        Some(Support { remark, .. }) => Some((*remark).to_owned()),
        None => Some(NOT_KNOWN.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_to_work_is_refused() {
        for fs_type in ["ext4", "xfs", "btrfs"] {
            assert_eq!(refusal(fs_type), None);
        }
        for (fs_type, why) in [
            ("tmpfs", "ends with the machine"),
            ("fuse.sshfs", "a program"),
            ("overlay", "upper"),
            ("newfs", "nobody"),
            ("", "nobody"),
        ] {
            assert!(refusal(fs_type).unwrap().contains(why), "{fs_type}");
        }
    }
}
