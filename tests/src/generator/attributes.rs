//! Operations on attributes: modes, owners, times, extended attributes, ACLs, flags.

use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
    chmodat, chownat, ioctl_getflags, ioctl_setflags, lremovexattr, lsetxattr, open, utimensat,
};

use super::kinds::Done;
use super::names::mode;
use super::world::Step;

const ACCESS_ACL: &str = "system.posix_acl_access";
const DEFAULT_ACL: &str = "system.posix_acl_default";
/// Names of attributes; few, so that they are replaced and removed.
const XATTRS: &[&str] = &["user.a", "user.b", "trusted.a", "trusted.b", "security.a"];
/// How long a file is append-only.
const APPEND_ONLY: Duration = Duration::from_millis(2);

pub(super) fn chmod(step: &mut Step<'_>) -> Done {
    let name = step.any();
    let mode = mode(step);
    chmodat(CWD, &name, mode, AtFlags::empty())
}

pub(super) fn fchmod(step: &mut Step<'_>) -> Done {
    let open = step.open()?;
    let mode = mode(step);
    rustix::fs::fchmod(&open.fd, mode)
}

/// The owner, the group, or both, of a link itself.
pub(super) fn chown(step: &mut Step<'_>) -> Done {
    let name = step.any();
    let mut id = || {
        let id = step.random.pick(&[0, 1, 1000, 65_534, 4_000_000_000]);
        step.random.chance(70).then_some(id)
    };
    let (owner, group) = (id().map(Uid::from_raw), id().map(Gid::from_raw));
    step.say(format_args!("{owner:?} {group:?}"));
    chownat(CWD, &name, owner, group, AtFlags::SYMLINK_NOFOLLOW)
}

pub(super) fn utimens(step: &mut Step<'_>) -> Done {
    let name = step.any();
    let mut time = || {
        let nanoseconds = match step.random.below(10) {
            0 => UTIME_NOW,
            1 => UTIME_OMIT,
            _ => i64::try_from(step.random.below(1_000_000_000)).unwrap_or(0),
        };
        // Around now, before the epoch, and past what 32 bits hold.
        let seconds = match step.random.below(4) {
            0 => -i64::try_from(step.random.below(2_000_000_000)).unwrap_or(0),
            1 => 4_294_967_296 + i64::try_from(step.random.below(8_000_000_000)).unwrap_or(0),
            _ => i64::try_from(step.random.below(2_000_000_000)).unwrap_or(0),
        };
        Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        }
    };
    let times = Timestamps {
        last_access: time(),
        last_modification: time(),
    };
    let modification = times.last_modification;
    step.say(format_args!(
        "mtime {}.{}",
        modification.tv_sec, modification.tv_nsec
    ));
    utimensat(CWD, &name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

fn set_xattr(step: &mut Step<'_>, names: &[&str]) -> Done {
    let name = step.any();
    let xattr = step.random.pick(names);
    let length = match step.random.below(10) {
        0 => 0,
        1..8 => step.random.below(64),
        8 => 2000 + step.random.below(2200),
        _ => step.random.below(65_537),
    };
    step.say(format_args!("{xattr} length {length}"));
    let value = step.random.bytes(length);
    let flags = match step.random.below(6) {
        0 => XattrFlags::CREATE,
        1 => XattrFlags::REPLACE,
        _ => XattrFlags::empty(),
    };
    lsetxattr(&name, xattr, &value, flags)
}

pub(super) fn set_user_xattr(step: &mut Step<'_>) -> Done {
    set_xattr(step, &XATTRS[..2])
}

pub(super) fn set_trusted_xattr(step: &mut Step<'_>) -> Done {
    set_xattr(step, &XATTRS[2..4])
}

pub(super) fn set_security_xattr(step: &mut Step<'_>) -> Done {
    set_xattr(step, &XATTRS[4..])
}

/// A file capability, which the next write drops.
pub(super) fn set_capability(step: &mut Step<'_>) -> Done {
    /// struct vfs_cap_data, revision 2, effective: `cap_net_raw` permitted.
    const VALUE: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let name = step.name();
    lsetxattr(&name, "security.capability", &VALUE, XattrFlags::empty())
}

pub(super) fn remove_xattr(step: &mut Step<'_>) -> Done {
    let name = step.any();
    let xattr = step.random.pick(XATTRS);
    step.say(xattr);
    lremovexattr(&name, xattr)
}

/// An ACL as the kernel takes it: version 2, then tag, permissions, id of each entry.
fn acl(step: &mut Step<'_>) -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    let mut entries: Vec<(u16, u32)> = vec![(0x01, NO_ID)];
    for user in [1000, 1001, 70_000] {
        if step.random.chance(40) {
            entries.push((0x02, user));
        }
    }
    entries.push((0x04, NO_ID));
    if step.random.chance(30) {
        entries.push((0x08, 1000));
    }
    if entries.len() > 2 {
        entries.push((0x10, NO_ID));
    }
    entries.push((0x20, NO_ID));
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, id) in entries {
        let permissions = u16::try_from(step.random.below(8)).unwrap_or(0);
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

pub(super) fn set_acl(step: &mut Step<'_>) -> Done {
    let name = step.any();
    let value = acl(step);
    step.say(format_args!("{} entries", value.len() / 8));
    lsetxattr(&name, ACCESS_ACL, &value, XattrFlags::empty())
}

/// What is created below it from now on inherits it.
pub(super) fn set_default_acl(step: &mut Step<'_>) -> Done {
    let name = if step.random.chance(20) {
        step.any()
    } else {
        step.directory()
    };
    let value = acl(step);
    step.say(format_args!("{} entries", value.len() / 8));
    lsetxattr(&name, DEFAULT_ACL, &value, XattrFlags::empty())
}

pub(super) fn remove_acl(step: &mut Step<'_>) -> Done {
    let name = step.any();
    let which = step.random.pick(&[ACCESS_ACL, DEFAULT_ACL]);
    step.say(which);
    lremovexattr(&name, which)
}

/// Sets or clears flags of a file, as chattr does.
pub(super) fn set_flags(step: &mut Step<'_>) -> Done {
    let name = step.any();
    let flag = step.random.pick(&[IFlags::NODUMP, IFlags::NOATIME]);
    let set = step.random.chance(60);
    step.say(format_args!("{flag:?} {set}"));
    change_flags(&name, flag, set)
}

/// Makes a file append-only for a while: what others do to it meanwhile fails.
pub(super) fn append_only(step: &mut Step<'_>) -> Done {
    let name = step.name();
    let file = open(&name, FLAGS_OF, Mode::empty())?;
    let before = ioctl_getflags(&file)?;
    ioctl_setflags(&file, before | IFlags::APPEND)?;
    std::thread::sleep(APPEND_ONLY);
    ioctl_setflags(&file, before - IFlags::APPEND)
}

/// How a file is opened whose flags are changed: a link itself has none.
const FLAGS_OF: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn change_flags(name: &std::path::Path, flag: IFlags, set: bool) -> Done {
    let file = open(name, FLAGS_OF, Mode::empty())?;
    let mut flags = ioctl_getflags(&file)?;
    flags.set(flag, set);
    ioctl_setflags(&file, flags)
}
