//! Operations on names: what creates, removes, links and renames.

use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, linkat, makedev, mkdirat, mknodat, openat,
    renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::kinds::Done;
use super::world::{Class, Open, Step};

/// A major device number that nothing serves, so that opening such a node does nothing.
const MAJOR_UNUSED: u32 = 3001;

/// Opens a file, mostly creating it, with any mixture of flags.
pub(super) fn open(step: &mut Step<'_>) -> Done {
    let class = step.class();
    let name = step.name_of(class);
    let mut flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    for (percent, flag) in [
        (85, OFlags::CREATE),
        (15, OFlags::TRUNC),
        (10, OFlags::EXCL),
        (25, OFlags::APPEND),
        (6, OFlags::SYNC),
        (4, OFlags::DSYNC),
    ] {
        if step.random.chance(percent) {
            flags |= flag;
        }
    }
    // What lies behind a symbolic link may belong to the other class.
    let follow = step.random.chance(15);
    let direct = !follow && class == Class::Direct && step.random.chance(45);
    flags.set(OFlags::NOFOLLOW, !follow);
    flags.set(OFlags::DIRECT, direct);
    let mode = mode(step);
    step.say(format_args!("flags {:#o}", flags.bits()));
    let fd = openat(CWD, &name, flags, mode)?;
    step.keep(Some(Open::new(fd, (!follow).then_some(class), direct)?));
    Ok(())
}

pub(super) fn close(step: &mut Step<'_>) -> Done {
    step.keep(None);
    Ok(())
}

/// Permissions; the owner's own do not matter to root.
pub(super) fn mode(step: &mut Step<'_>) -> Mode {
    let mode = step
        .random
        .pick(&[0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o000, 0o666]);
    step.say(format_args!("mode {mode:o}"));
    Mode::from_raw_mode(mode)
}

fn mknod(step: &mut Step<'_>, kind: FileType, device: u64) -> Done {
    let name = step.name();
    let mode = mode(step);
    mknodat(CWD, &name, kind, mode, device)
}

pub(super) fn mknod_fifo(step: &mut Step<'_>) -> Done {
    mknod(step, FileType::Fifo, 0)
}

pub(super) fn mknod_socket(step: &mut Step<'_>) -> Done {
    mknod(step, FileType::Socket, 0)
}

pub(super) fn mknod_character(step: &mut Step<'_>) -> Done {
    let minor = u32::try_from(step.random.below(1 << 20)).unwrap_or(0);
    mknod(step, FileType::CharacterDevice, makedev(MAJOR_UNUSED, minor))
}

pub(super) fn mknod_block(step: &mut Step<'_>) -> Done {
    let minor = u32::try_from(step.random.below(256)).unwrap_or(0);
    mknod(step, FileType::BlockDevice, makedev(MAJOR_UNUSED, minor))
}

pub(super) fn mknod_file(step: &mut Step<'_>) -> Done {
    mknod(step, FileType::RegularFile, 0)
}

pub(super) fn mkdir(step: &mut Step<'_>) -> Done {
    let name = step.directory();
    let mode = mode(step);
    mkdirat(CWD, &name, mode)
}

/// To a name beside it, or to a long one that leads nowhere.
pub(super) fn symlink(step: &mut Step<'_>) -> Done {
    let name = step.name();
    let target = if step.random.chance(80) {
        step.name().file_name().unwrap_or_default().to_owned()
    } else {
        "x/".repeat(1 + usize::try_from(step.random.below(2046)).unwrap_or(0))
            .into()
    };
    symlinkat(&target, CWD, &name)
}

pub(super) fn link(step: &mut Step<'_>) -> Done {
    let class = step.class();
    let (from, to) = (step.name_of(class), step.name_of(class));
    linkat(CWD, &from, CWD, &to, AtFlags::empty())
}

pub(super) fn tmpfile(step: &mut Step<'_>) -> Done {
    let class = step.class();
    let directory = if step.random.chance(50) {
        step.directory()
    } else {
        step.any()
    };
    let direct = class == Class::Direct && step.random.chance(30);
    let mut flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    flags.set(OFlags::DIRECT, direct);
    let mode = mode(step);
    let fd = openat(CWD, &directory, flags, mode)?;
    step.keep(Some(Open::new(fd, Some(class), direct)?));
    Ok(())
}

/// Gives an open file a name: its first, when it was opened without one.
pub(super) fn link_open(step: &mut Step<'_>) -> Done {
    let open = step.open_where(|open| open.class.is_some())?;
    let class = open.class.ok_or(Errno::BADF)?;
    let name = step.name_of(class);
    linkat(&open.fd, "", CWD, &name, AtFlags::EMPTY_PATH)
}

pub(super) fn unlink(step: &mut Step<'_>) -> Done {
    let name = step.name();
    unlinkat(CWD, &name, AtFlags::empty())
}

pub(super) fn rmdir(step: &mut Step<'_>) -> Done {
    let name = step.directory();
    unlinkat(CWD, &name, AtFlags::REMOVEDIR)
}

pub(super) fn remove_tree(step: &mut Step<'_>) -> Done {
    let name = step.directory();
    std::fs::remove_dir_all(&name)
        .map_err(|error| Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))
}

fn move_name(from: &Path, to: &Path, flags: RenameFlags) -> Done {
    renameat_with(CWD, from, CWD, to, flags)
}

fn rename_with(step: &mut Step<'_>, flags: RenameFlags) -> Done {
    let class = step.class();
    let (from, to) = (step.name_of(class), step.name_of(class));
    move_name(&from, &to, flags)
}

pub(super) fn rename(step: &mut Step<'_>) -> Done {
    rename_with(step, RenameFlags::empty())
}

pub(super) fn rename_noreplace(step: &mut Step<'_>) -> Done {
    rename_with(step, RenameFlags::NOREPLACE)
}

pub(super) fn rename_exchange(step: &mut Step<'_>) -> Done {
    rename_with(step, RenameFlags::EXCHANGE)
}

pub(super) fn rename_whiteout(step: &mut Step<'_>) -> Done {
    rename_with(step, RenameFlags::WHITEOUT)
}

pub(super) fn rename_directory(step: &mut Step<'_>) -> Done {
    let (from, to) = (step.directory(), step.directory());
    move_name(&from, &to, RenameFlags::empty())
}

pub(super) fn exchange_directory(step: &mut Step<'_>) -> Done {
    let (from, to) = (step.directory(), step.directory());
    move_name(&from, &to, RenameFlags::EXCHANGE)
}
