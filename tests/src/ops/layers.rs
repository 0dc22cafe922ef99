//! Changes that come from inside the kernel or from elsewhere: an NFS server, loop devices, overlayfs, bind mounts,
//! other namespaces. These scenarios are bash scripts beside this file.

use super::declare::{Operation, operation};
use super::util::shell;

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "nfs-server",
        "an NFS server (version 4) exports the directory: files, names, attributes",
        |_| shell(include_str!("scripts/nfs4.sh")),
    ),
    operation(
        "nfs-server-acl",
        "an NFS server (version 3): ACLs, times, nodes, links",
        |_| shell(include_str!("scripts/nfs3.sh")),
    ),
    operation(
        "loop-device",
        "a file is the disk of a file system that is worked on, trimmed",
        |_| shell(&format!("DIRECT=off\n{}", include_str!("scripts/loop.sh"))),
    ),
    operation(
        "loop-device-direct",
        "the same with O_DIRECT below the loop device",
        |_| shell(&format!("DIRECT=on\n{}", include_str!("scripts/loop.sh"))),
    ),
    operation(
        "overlay",
        "overlayfs: copy-up, whiteouts, opaque directories, renames",
        |_| shell(&format!("OPTIONS=\n{}", include_str!("scripts/overlay.sh"))),
    ),
    operation(
        "overlay-redirect",
        "overlayfs with redirected directories, index, metadata-only copy-up",
        |_| {
            shell(&format!(
                "OPTIONS=,redirect_dir=on,index=on,metacopy=on\n{}",
                include_str!("scripts/overlay.sh")
            ))
        },
    ),
    operation(
        "core-dump",
        "the kernel writes the memory of a process that dies",
        |_| shell(include_str!("scripts/core-dump.sh")),
    ),
    operation(
        "bind-mount",
        "a bind mount of the directory, also one that maps user ids",
        |_| shell(include_str!("scripts/bind.sh")),
    ),
    operation(
        "mount-namespace",
        "a process in another mount namespace, with another root",
        |_| shell(include_str!("scripts/mount-namespace.sh")),
    ),
    operation("pid-namespace", "a process in another pid namespace", |_| {
        shell(
            "unshare --pid --fork --mount-proc bash -euc '
                 [ $$ = 1 ]; head -c 50000 /dev/zero | tr \"\\0\" x > file; mkdir dir; mv file dir; truncate -s 777 dir/file
                 ln -s dir link; chmod 600 dir/file'",
        )
    }),
    operation(
        "user-namespace",
        "root of a user namespace: mapped owners, its own capabilities",
        |_| shell(include_str!("scripts/user-namespace.sh")),
    ),
];
