//! Attributes of one inode that is open already: owner, mode, extended attributes, times, and, last of all, project id and flags.
//!
//! What the target cannot hold is noted and passed over; any other error ends the restore.

use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use journal::record::Time;
use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat, fchmod, setxattr,
    utimensat,
};
use rustix::io::Errno;

use super::flags::{self, FLAGS_RESTORABLE};
use super::inspect::{mismatches, proc_path};
use super::plan::{Kind, Node};
use super::problems::Problems;
use crate::output::escape;

/// Errors that concern one thing the target cannot hold; others end the restore.
fn is_refusal(error: Errno) -> bool {
    matches!(
        error,
        Errno::PERM
            | Errno::ACCESS
            | Errno::INVAL
            | Errno::OPNOTSUPP
            | Errno::MLINK
            | Errno::NAMETOOLONG
            | Errno::EXIST
            | Errno::FBIG
            | Errno::OVERFLOW
            | Errno::ILSEQ
    )
}

/// A refusal becomes a problem, listed; any other error ends the restore.
pub(crate) fn note_or_fail(
    problems: &mut Problems,
    error: Errno,
    what: impl FnOnce() -> String,
) -> Result<()> {
    if !is_refusal(error) {
        return Err(std::io::Error::from(error)).with_context(what);
    }
    let why = if error == Errno::OPNOTSUPP {
        "not supported by the target".to_owned()
    } else {
        error.to_string()
    };
    problems.note(format!("could not {}: {why}", what()));
    Ok(())
}

/// Owner, mode, extended attributes and times of the inode behind a handle; then looks whether it has them. `is_opened` says that the handle is
/// more than a path.
pub(crate) fn set(
    handle: BorrowedFd<'_>,
    is_opened: bool,
    node: &Node,
    problems: &mut Problems,
    path: impl Fn() -> String,
) -> Result<()> {
    let magic = proc_path(handle);
    let Node {
        kind,
        permissions,
        uid,
        gid,
        atime,
        mtime,
        file_flags: _,
        project: _,
        xattrs,
        links: _,
    } = node;
    let owner = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
    if let Err(error) = chownat(handle, c"", owner.0, owner.1, AtFlags::EMPTY_PATH) {
        note_or_fail(problems, error, || format!("set owner {uid}:{gid} of {}", path()))?;
    }
    let mode = Mode::from_raw_mode(*permissions);
    let set_mode = || {
        if is_opened {
            fchmod(handle, mode)
        } else {
            chmod(magic.as_str(), mode)
        }
    };
    if !matches!(kind, Kind::Symlink { .. })
        && let Err(error) = set_mode()
    {
        note_or_fail(problems, error, || {
            format!("set mode {permissions:o} of {}", path())
        })?;
    }
    for (name, value) in xattrs {
        match setxattr(magic.as_str(), name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) => {}
            // A value that fits no attribute block is refused as "no space"; the disk itself being full shows elsewhere.
            Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => problems.note(format!(
                "{}: extended attribute {} ({} bytes) is too large for the target",
                path(),
                escape(name),
                value.len()
            )),
            Err(error) => note_or_fail(problems, error, || {
                format!("set extended attribute {} of {}", escape(name), path())
            })?,
        }
    }
    let times = Timestamps {
        // Where no access time was ever set the modification time stands for it: the same tree every time.
        last_access: timespec(atime.or(*mtime)),
        last_modification: timespec(*mtime),
    };
    if let Err(error) = utimensat(handle, c"", &times, AtFlags::EMPTY_PATH) {
        note_or_fail(problems, error, || format!("set times of {}", path()))?;
    }
    for mismatch in mismatches(handle, node).with_context(|| format!("examine {}", path()))? {
        problems.note(format!("{}: {mismatch}", path()));
    }
    Ok(())
}

/// Whether [`set_last`] has anything to do: what was made here has no project and no flags, but the target's own root may have.
pub(crate) fn has_last(node: &Node, is_root: bool) -> bool {
    let settable = matches!(node.kind, Kind::File { .. } | Kind::Directory);
    let project = node.project.is_some_and(|project| project != 0 || is_root);
    settable && (project || node.file_flags.unwrap_or(0) & FLAGS_RESTORABLE != 0)
}

/// Project id and flags of a file or directory open for reading: afterwards it may refuse every change.
pub(crate) fn set_last(
    readable: BorrowedFd<'_>,
    node: &Node,
    is_root: bool,
    problems: &mut Problems,
    path: impl Fn() -> String,
) -> Result<()> {
    if let Some(project) = node.project
        && (project != 0 || is_root)
    {
        match flags::set_project(readable, project).and_then(|()| flags::project(readable)) {
            Ok(now) if now == project => {}
            Ok(now) => problems.note(format!(
                "{}: project id {project} not taken by the target: it has {now}",
                path()
            )),
            // A file system without project ids has given everything none.
            Err(Errno::OPNOTSUPP | Errno::INVAL) if project == 0 => {}
            Err(error) => note_or_fail(problems, error, || {
                format!("set project id {project} of {}", path())
            })?,
        }
    }
    let wanted = node.file_flags.unwrap_or(0) & FLAGS_RESTORABLE;
    if wanted == 0 {
        return Ok(());
    }
    match flags::set_flags(readable, wanted) {
        Ok(now) if now == wanted => Ok(()),
        Ok(now) => {
            let path = path();
            problems.note(format!(
                "{path}: file flags {wanted:#x} not taken by the target: it has {now:#x}"
            ));
            Ok(())
        }
        Err(error) => note_or_fail(problems, error, || {
            format!("set file flags {wanted:#x} of {}", path())
        }),
    }
}

/// A time for the kernel; one that is not known is left alone.
fn timespec(time: Option<Time>) -> Timespec {
    match time {
        Some(Time { sec, nsec }) => Timespec {
            tv_sec: sec,
            tv_nsec: nsec.into(),
        },
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
    }
}
