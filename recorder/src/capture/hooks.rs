//! The probe table: which program goes to which kernel function, chosen from what the running kernel has.

use anyhow::{Result, bail};
use serde::Serialize;

use super::kernel::Kernel;

/// Whether a hook is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HookState {
    /// Chosen, not attached.
    Chosen,
    /// Attached and pinned.
    Attached,
}

/// A program under a kernel function.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Hook {
    /// What it captures.
    pub(crate) what: &'static str,
    /// The program.
    pub(crate) program: &'static str,
    /// The kernel function.
    pub(crate) function: &'static str,
    /// Whether it is in place.
    pub(crate) state: HookState,
}

/// A function and the program for its signature: what the second parameter points to where that decides, else the number of
/// parameters where that does.
type Candidate = (&'static str, &'static str, Option<Signature>);

/// What tells signatures of one function apart.
enum Signature {
    /// Number of parameters.
    Parameters(usize),
    /// Struct that the second parameter points to.
    Second(&'static str),
}

/// Alternatives for one need, best first; the first whose function is there is taken.
struct Need {
    what: &'static str,
    fs_types: &'static [&'static str],
    optional: bool,
    candidates: &'static [Candidate],
}

const ALL: &[&str] = &["ext4", "xfs", "btrfs"];
const CLONING: &[&str] = &["xfs", "btrfs"];
const EXT4: &[&str] = &["ext4"];
const XFS: &[&str] = &["xfs"];
const BTRFS: &[&str] = &["btrfs"];

const fn need(
    what: &'static str,
    fs_types: &'static [&'static str],
    candidates: &'static [Candidate],
) -> Need {
    Need {
        what,
        fs_types,
        optional: false,
        candidates,
    }
}

const fn optional(
    what: &'static str,
    fs_types: &'static [&'static str],
    candidates: &'static [Candidate],
) -> Need {
    Need {
        what,
        fs_types,
        optional: true,
        candidates,
    }
}

const NEEDS: &[Need] = &[
    need(
        "buffered writes",
        EXT4,
        &[
            ("block_write_end", "write_end7", Some(Signature::Parameters(7))),
            ("block_write_end", "write_end4", Some(Signature::Parameters(4))),
        ],
    ),
    // Files with the flag that chattr calls +j.
    need(
        "buffered writes, journalled",
        EXT4,
        &[("ext4_journalled_write_end", "write_end7", None)],
    ),
    need(
        "buffered writes",
        XFS,
        &[
            (
                "iomap_write_end",
                "iomap_write_end5",
                Some(Signature::Parameters(5)),
            ),
            (
                "iomap_write_end",
                "iomap_write_end4",
                Some(Signature::Parameters(4)),
            ),
        ],
    ),
    need(
        "buffered writes",
        BTRFS,
        &[
            ("btrfs_dirty_folio", "btrfs_dirty_folio", None),
            ("btrfs_dirty_pages", "btrfs_dirty_pages", None),
        ],
    ),
    need(
        "shared mappings, fault",
        ALL,
        &[("fault_dirty_shared_page", "fault_dirty", None)],
    ),
    need(
        "shared mappings, write-back",
        ALL,
        &[("__folio_start_writeback", "start_writeback", None)],
    ),
    need("O_DIRECT", ALL, &[("iomap_dio_submit_bio", "dio_submit", None)]),
    need(
        "O_DIRECT, end",
        EXT4,
        &[("ext4_dio_write_end_io", "dio_write_end", None)],
    ),
    need(
        "O_DIRECT, end",
        XFS,
        &[("xfs_dio_write_end_io", "dio_write_end", None)],
    ),
    need(
        "O_DIRECT, end",
        BTRFS,
        &[("iomap_dio_complete", "dio_complete", None)],
    ),
    need("create", ALL, &[("d_instantiate", "instantiate", None)]),
    need(
        "create, new inode",
        ALL,
        &[("d_instantiate_new", "instantiate", None)],
    ),
    need("O_TMPFILE", ALL, &[("d_tmpfile", "tmpfile", None)]),
    need("link, begin", ALL, &[("vfs_link", "link_enter", None)]),
    need("link, end", ALL, &[("vfs_link", "link_exit", None)]),
    need("symlink", ALL, &[("vfs_symlink", "symlink_enter", None)]),
    need("unlink, rmdir", ALL, &[("d_delete", "delete", None)]),
    need("rename, flags", ALL, &[("vfs_rename", "rename_enter", None)]),
    need(
        "rename, whiteout",
        ALL,
        &[("unlock_new_inode", "new_inode", None)],
    ),
    need("rename", ALL, &[("d_move", "rename", None)]),
    need("exchange", ALL, &[("d_exchange", "exchange", None)]),
    need("end of an inode", ALL, &[("evict", "evict", None)]),
    need(
        "attributes",
        ALL,
        &[
            ("security_inode_post_setattr", "setattr_dentry1", None),
            ("evm_inode_post_setattr", "setattr_dentry0", None),
            ("ima_inode_post_setattr", "setattr_dentry1_all", None),
        ],
    ),
    need("times", EXT4, &[("ext4_dirty_inode", "times_set", None)]),
    need("times", XFS, &[("xfs_trans_log_inode", "xfs_times_set", None)]),
    need(
        "times of a FIFO, begin",
        BTRFS,
        &[
            ("fifo_pipe_write", "fifo_enter", None),
            ("btrfs_update_time", "times_enter", None),
        ],
    ),
    need(
        "times of a FIFO, end",
        BTRFS,
        &[
            ("fifo_pipe_write", "times_exit", None),
            ("btrfs_update_time", "times_exit", None),
        ],
    ),
    need(
        "xattr set",
        ALL,
        &[("security_inode_post_setxattr", "setxattr", None)],
    ),
    need(
        "xattr removed",
        ALL,
        &[
            ("security_inode_post_removexattr", "removexattr", None),
            ("evm_inode_post_removexattr", "removexattr", None),
        ],
    ),
    need("ACL stored", ALL, &[("set_cached_acl", "cached_acl", None)]),
    need(
        "ACL set, begin",
        ALL,
        &[
            (
                "set_posix_acl",
                "acl_enter_dentry1",
                Some(Signature::Second("dentry")),
            ),
            (
                "set_posix_acl",
                "acl_enter_inode1",
                Some(Signature::Second("inode")),
            ),
        ],
    ),
    need("ACL set, end", ALL, &[("set_posix_acl", "acl_exit", None)]),
    need(
        "capabilities dropped, begin",
        ALL,
        &[("__vfs_removexattr", "drop_xattr_enter", None)],
    ),
    need(
        "capabilities dropped, end",
        ALL,
        &[("__vfs_removexattr", "drop_xattr_exit", None)],
    ),
    need(
        "file flags, begin",
        ALL,
        &[("vfs_fileattr_set", "fileattr", None)],
    ),
    need(
        "file flags, end",
        ALL,
        &[("vfs_fileattr_set", "change_exit", None)],
    ),
    need(
        "fallocate, begin",
        EXT4,
        &[("ext4_fallocate", "fallocate_enter", None)],
    ),
    need(
        "fallocate, begin",
        XFS,
        &[("xfs_file_fallocate", "fallocate_enter", None)],
    ),
    need(
        "fallocate, begin",
        BTRFS,
        &[("btrfs_fallocate", "fallocate_enter", None)],
    ),
    // Of 6.1 and 6.12, ext4 calls file_modified for each buffered write, too.
    need(
        "fallocate, under the lock",
        EXT4,
        &[
            ("inode_dio_wait", "dio_wait", None),
            ("file_modified", "file_modified", None),
        ],
    ),
    need(
        "fallocate, under the lock",
        CLONING,
        &[("file_modified", "file_modified", None)],
    ),
    need(
        "fallocate, end",
        EXT4,
        &[("ext4_fallocate", "fallocate_exit", None)],
    ),
    need(
        "fallocate, end",
        XFS,
        &[("xfs_file_fallocate", "fallocate_exit", None)],
    ),
    need(
        "fallocate, end",
        BTRFS,
        &[("btrfs_fallocate", "fallocate_exit", None)],
    ),
    need("own ioctls, begin", EXT4, &[("ext4_ioctl", "ioctl", None)]),
    need("own ioctls, end", EXT4, &[("ext4_ioctl", "change_exit", None)]),
    need(
        "extents moved, begin",
        EXT4,
        &[("ext4_move_extents", "two_files", None)],
    ),
    need(
        "extents moved, end",
        EXT4,
        &[("ext4_move_extents", "change_exit", None)],
    ),
    need(
        "extents swapped, begin",
        XFS,
        &[("xfs_swap_extents", "two_inodes", None)],
    ),
    need(
        "extents swapped, end",
        XFS,
        &[("xfs_swap_extents", "change_exit", None)],
    ),
    // From 6.10 on.
    optional(
        "ranges exchanged, begin",
        XFS,
        &[("xfs_exchange_range", "exchange_range", None)],
    ),
    optional(
        "ranges exchanged, end",
        XFS,
        &[("xfs_exchange_range", "change_exit", None)],
    ),
    need(
        "attributes by handle, begin",
        XFS,
        &[("xfs_ioc_attrmulti_one", "attribute_by_handle", None)],
    ),
    need(
        "attributes by handle, end",
        XFS,
        &[("xfs_ioc_attrmulti_one", "change_exit", None)],
    ),
    need("own ioctls, begin", BTRFS, &[("btrfs_ioctl", "ioctl", None)]),
    need("own ioctls, end", BTRFS, &[("btrfs_ioctl", "change_exit", None)]),
    need(
        "encoded write, begin",
        BTRFS,
        &[("btrfs_do_encoded_write", "encoded_write", None)],
    ),
    need(
        "encoded write, end",
        BTRFS,
        &[("btrfs_do_encoded_write", "change_exit", None)],
    ),
    need(
        "reflink, begin",
        CLONING,
        &[("generic_remap_file_range_prep", "remap_enter", None)],
    ),
    need(
        "reflink, under the lock",
        CLONING,
        &[("generic_remap_file_range_prep", "remap_prep_exit", None)],
    ),
    need(
        "reflink, end",
        XFS,
        &[("xfs_file_remap_range", "remap_exit", None)],
    ),
    need(
        "reflink, end",
        BTRFS,
        &[("btrfs_remap_file_range", "remap_exit", None)],
    ),
];

/// Every need of a file system with the hook that this kernel offers, or `None`.
pub(crate) fn survey(kernel: &Kernel, fs_type: &str) -> Vec<(&'static str, Option<Hook>)> {
    let mut found = Vec::new();
    for Need {
        what,
        fs_types,
        optional,
        candidates,
    } in NEEDS
    {
        if !fs_types.contains(&fs_type) {
            continue;
        }
        let chosen = candidates.iter().find(|(function, _, signature)| {
            let parameters = kernel.parameters(function);
            kernel.has_function(function)
                && match signature {
                    None => true,
                    Some(Signature::Parameters(count)) => parameters.is_some_and(|all| all.len() == *count),
                    Some(Signature::Second(name)) => {
                        parameters.is_some_and(|all| all.get(1).is_some_and(|second| second == name))
                    }
                }
        });
        let hook = chosen.map(|(function, program, _)| Hook {
            what,
            program,
            function,
            state: HookState::Chosen,
        });
        if hook.is_some() || !optional {
            found.push((*what, hook));
        }
    }
    // Where write_end functions take pages, generic_write_end has block_write_end inlined.
    if fs_type == "ext4" && kernel.write_end_takes_pages && kernel.has_function("generic_write_end") {
        let (what, state) = ("buffered writes, generic", HookState::Chosen);
        found.push((
            what,
            Some(Hook {
                what,
                program: "write_end7",
                function: "generic_write_end",
                state,
            }),
        ));
    }
    found
}

/// The hooks for a file system.
///
/// # Errors
/// Names every need that this kernel does not meet.
pub(crate) fn choose(kernel: &Kernel, fs_type: &str) -> Result<Vec<Hook>> {
    let (mut hooks, mut unmet) = (Vec::new(), Vec::new());
    for (what, hook) in survey(kernel, fs_type) {
        match hook {
            Some(hook) => hooks.push(hook),
            None => unmet.push(what),
        }
    }
    if !unmet.is_empty() {
        bail!(
            "kernel {} offers no hook on {fs_type} for: {}; `recorder doctor` tells more",
            kernel.release,
            unmet.join(", ")
        );
    }
    Ok(hooks)
}
