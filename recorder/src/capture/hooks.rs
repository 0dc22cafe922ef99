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

/// A function and the program for its signature, with the number of parameters that this takes.
type Candidate = (&'static str, &'static str, Option<usize>);

/// Alternatives for one need, best first; the first whose function is there is taken.
struct Need {
    what: &'static str,
    fs_types: &'static [&'static str],
    optional: bool,
    candidates: &'static [Candidate],
}

const ALL: &[&str] = &["ext4", "xfs", "btrfs"];
const CLONING: &[&str] = &["xfs", "btrfs"];

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

const NEEDS: &[Need] = &[
    need(
        "buffered writes",
        &["ext4"],
        &[
            ("block_write_end", "write_end7", Some(7)),
            ("block_write_end", "write_end4", Some(4)),
        ],
    ),
    need(
        "buffered writes",
        &["xfs"],
        &[
            ("iomap_write_end", "iomap_write_end5", Some(5)),
            ("iomap_write_end", "iomap_write_end4", Some(4)),
        ],
    ),
    need(
        "buffered writes",
        &["btrfs"],
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
        ALL,
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
        &[("init_special_inode", "special_inode", None)],
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
    // Before 6.2 ACLs are set and removed as extended attributes.
    Need {
        what: "ACL set",
        fs_types: ALL,
        optional: true,
        candidates: &[("security_inode_post_set_acl", "set_acl", None)],
    },
    Need {
        what: "ACL removed",
        fs_types: ALL,
        optional: true,
        candidates: &[("security_inode_post_remove_acl", "remove_acl", None)],
    },
    need(
        "capabilities dropped",
        ALL,
        &[("__vfs_removexattr", "drop_xattr", None)],
    ),
    need(
        "fallocate, begin",
        ALL,
        &[("vfs_fallocate", "fallocate_enter", None)],
    ),
    need(
        "fallocate, under the lock",
        ALL,
        &[("file_modified", "file_modified", None)],
    ),
    need(
        "fallocate, end",
        ALL,
        &[("vfs_fallocate", "fallocate_exit", None)],
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
        &["xfs"],
        &[("xfs_file_remap_range", "remap_exit", None)],
    ),
    need(
        "reflink, end",
        &["btrfs"],
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
        let chosen = candidates.iter().find(|(function, _, parameters)| {
            kernel.has_function(function)
                && parameters.is_none_or(|count| kernel.parameters(function) == Some(count))
        });
        let hook = chosen.map(|&(function, program, _)| Hook {
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
