//! The canary: proves each hook on the volume itself, by doing what it must see.
//!
//! Owns the operations on a private unnamed file and a private directory, and the comparison with what came through the ring. A symbol
//! that can be probed is no proof: the kernel may have inlined the call.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use abi::EventKind;
use anyhow::{Context as _, Result, bail};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, IFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps,
    XattrFlags,
};
use serde::Serialize;

use crate::capture::{Hook, Ring};

/// How long events may take from the kernel to here.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Unit of the canary's writes: enough for O_DIRECT on any disk.
const BLOCK_BYTES: usize = 4096;

/// One thing done, and how it must show.
struct Expected {
    what: &'static str,
    kinds: &'static [EventKind],
    ino: u64,
}

/// What the canary found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Proof {
    /// Seen through the ring.
    pub(crate) proved: Vec<&'static str>,
    /// Done, but not seen.
    pub(crate) missing: Vec<&'static str>,
    /// What this file system does not offer.
    pub(crate) unsupported: Vec<&'static str>,
}

impl Proof {
    /// Refuses a capture that does not see everything.
    ///
    /// # Errors
    /// Names what was not seen, and the kernel functions that are hooked.
    pub(crate) fn require(&self, hooks: &[Hook]) -> Result<()> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let functions: Vec<&str> = hooks.iter().map(|hook| hook.function).collect();
        bail!(
            "this kernel does not let the recorder see: {}; nothing is recorded, so that nothing is missed (hooked: {})",
            self.missing.join(", "),
            functions.join(", ")
        )
    }
}

/// Does one of everything on the volume and reads the ring until all of it has shown or the time is over.
///
/// # Errors
/// When an operation fails that every supported file system offers.
pub(crate) fn prove(mount_point: &Path, fs_type: &str, ring: &mut Ring) -> Result<Proof> {
    let context = || format!("try the hooks on {}", mount_point.display());
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, mount_point, flags, Mode::empty()).with_context(context)?;
    let before = rustix::fs::fstat(&root).with_context(context)?;
    let mut run = Run {
        expected: Vec::new(),
        unsupported: Vec::new(),
        fs_type: fs_type.to_owned(),
    };
    let done = run.contents(&root).and_then(|()| run.names(&root));
    restore_times(&root, &before).with_context(context)?;
    done.with_context(context)?;
    Ok(run.compare(ring))
}

#[expect(
    clippy::unnecessary_cast,
    reason = "the members' types differ between architectures"
)]
fn restore_times(root: &OwnedFd, before: &rustix::fs::Stat) -> io::Result<()> {
    let time = |sec: i64, nsec: u64| Timespec {
        tv_sec: sec,
        tv_nsec: nsec as _,
    };
    let times = Timestamps {
        last_access: time(before.st_atime as i64, before.st_atime_nsec as u64),
        last_modification: time(before.st_mtime as i64, before.st_mtime_nsec as u64),
    };
    Ok(rustix::fs::futimens(root, &times)?)
}

struct Run {
    expected: Vec<Expected>,
    unsupported: Vec<&'static str>,
    fs_type: String,
}

impl Run {
    fn expect(&mut self, what: &'static str, kinds: &'static [EventKind], ino: u64) {
        self.expected.push(Expected { what, kinds, ino });
    }

    /// Notes an operation as expected, or as not offered here.
    fn optional(
        &mut self,
        what: &'static str,
        kinds: &'static [EventKind],
        ino: u64,
        result: rustix::io::Result<()>,
    ) -> io::Result<()> {
        match result {
            Ok(()) => self.expect(what, kinds, ino),
            Err(
                rustix::io::Errno::NOTSUP
                | rustix::io::Errno::INVAL
                | rustix::io::Errno::NOTTY
                | rustix::io::Errno::NOSYS,
            ) => {
                self.unsupported.push(what);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Everything that changes a file, on one without a name.
    fn contents(&mut self, root: &OwnedFd) -> io::Result<()> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(root, c".", flags, Mode::RUSR | Mode::WUSR)?;
        let ino = rustix::fs::fstat(&file)?.st_ino;
        self.expect("unnamed file", &[EventKind::Tmpfile], ino);
        rustix::io::pwrite(&file, &[0x5a; BLOCK_BYTES], 0)?;
        self.expect("write", &[EventKind::Write], ino);
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 64 * BLOCK_BYTES as u64)?;
        self.expect("fallocate", &[EventKind::Fallocate], ino);
        rustix::fs::fchmod(&file, Mode::RUSR)?;
        self.expect("attributes", &[EventKind::SetAttr], ino);
        map_and_store(&file)?;
        self.expect("store through a mapping", &[EventKind::MapWrite], ino);
        let set = rustix::fs::fsetxattr(&file, c"user.tapeworm", b"canary", XattrFlags::empty());
        let removed = set.and_then(|()| rustix::fs::fremovexattr(&file, c"user.tapeworm"));
        self.optional("set extended attribute", &[EventKind::SetXattr], ino, set)?;
        if set.is_ok() {
            self.optional(
                "remove extended attribute",
                &[EventKind::RemoveXattr],
                ino,
                removed,
            )?;
        }
        let acl = rustix::fs::fsetxattr(&file, c"system.posix_acl_access", &acl(), XattrFlags::empty());
        self.optional("ACL", &[EventKind::SetAcl], ino, acl)?;
        let flags = rustix::fs::ioctl_getflags(&file)
            .and_then(|flags| rustix::fs::ioctl_setflags(&file, flags | IFlags::NODUMP));
        self.optional("file flags", &[EventKind::Changed], ino, flags)?;
        let direct = write_direct(&file);
        // btrfs writes through the page cache where it must.
        self.optional(
            "O_DIRECT write",
            &[EventKind::DirectWrite, EventKind::Write],
            ino,
            direct,
        )?;
        self.clone_file(root, &file)?;
        rustix::fs::ftruncate(&file, 1)?;
        self.expect("truncate", &[EventKind::SetAttr], ino);
        drop(file);
        self.expect("end of an unnamed file", &[EventKind::Evict], ino);
        Ok(())
    }

    fn clone_file(&mut self, root: &OwnedFd, source: &OwnedFd) -> io::Result<()> {
        if self.fs_type == "ext4" {
            self.unsupported.push("reflink");
            return Ok(());
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(root, c".", flags, Mode::RUSR | Mode::WUSR)?;
        let ino = rustix::fs::fstat(&copy)?.st_ino;
        let result = rustix::fs::ioctl_ficlone(&copy, source);
        self.optional("reflink", &[EventKind::Clone], ino, result)
    }

    /// Everything that changes names, in a directory of our own, removed whatever happens.
    fn names(&mut self, root: &OwnedFd) -> io::Result<()> {
        let name = CString::new(format!(".tapeworm-canary-{}", std::process::id()))?;
        rustix::fs::mkdirat(root, &name, Mode::RWXU)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(root, &name, flags, Mode::empty())?;
        let ino = rustix::fs::fstat(&directory)?.st_ino;
        self.expect("mkdir", &[EventKind::Create], ino);
        let done = self.names_in(&directory);
        for left in [c"file", c"link", c"moved", c"symlink", c"fifo"] {
            // Most are gone already.
            let _gone = rustix::fs::unlinkat(&directory, left, AtFlags::empty());
        }
        rustix::fs::unlinkat(root, &name, AtFlags::REMOVEDIR)?;
        self.expect("rmdir", &[EventKind::Rmdir], ino);
        done
    }

    fn names_in(&mut self, directory: &OwnedFd) -> io::Result<()> {
        let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, c"file", create, Mode::RUSR)?;
        let ino = rustix::fs::fstat(&file)?.st_ino;
        drop(file);
        self.expect("create", &[EventKind::Create], ino);
        rustix::fs::symlinkat(c"target", directory, c"symlink")?;
        let link_ino = rustix::fs::statat(directory, c"symlink", AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        self.expect("symlink", &[EventKind::Create], link_ino);
        rustix::fs::linkat(directory, c"file", directory, c"link", AtFlags::empty())?;
        self.expect("link", &[EventKind::Link], ino);
        rustix::fs::renameat(directory, c"file", directory, c"moved")?;
        self.expect("rename", &[EventKind::Rename], ino);
        rustix::fs::renameat_with(directory, c"moved", directory, c"symlink", RenameFlags::EXCHANGE)?;
        // Told of one of the two.
        self.expected.push(Expected {
            what: "exchange",
            kinds: &[EventKind::Exchange],
            ino: 0,
        });
        rustix::fs::unlinkat(directory, c"link", AtFlags::empty())?;
        self.expect("unlink", &[EventKind::Unlink], ino);
        let fifo = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(directory, c"fifo", FileType::Fifo, fifo, 0)?;
        let open = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo = rustix::fs::openat(directory, c"fifo", open, Mode::empty())?;
        let ino = rustix::fs::fstat(&fifo)?.st_ino;
        // Within a tick of the kernel's clock it would have the time of its making already.
        std::thread::sleep(Duration::from_millis(30));
        rustix::io::write(&fifo, b"x")?;
        self.expect("write into a FIFO", &[EventKind::SetAttr], ino);
        rustix::fs::unlinkat(directory, c"fifo", AtFlags::empty())?;
        let whiteout =
            rustix::fs::renameat_with(directory, c"moved", directory, c"file", RenameFlags::WHITEOUT)
                .and_then(|()| rustix::fs::statat(directory, c"moved", AtFlags::SYMLINK_NOFOLLOW));
        let ino = whiteout.map_or(0, |stat| stat.st_ino);
        self.optional("whiteout", &[EventKind::Link], ino, whiteout.map(drop))?;
        Ok(())
    }

    fn compare(self, ring: &mut Ring) -> Proof {
        let Self {
            expected,
            unsupported,
            fs_type: _,
        } = self;
        let shows = |seen: &HashSet<(u16, u64)>, one: &Expected| {
            one.kinds
                .iter()
                .any(|&kind| seen.contains(&(kind as u16, one.ino)))
        };
        let mut seen: HashSet<(u16, u64)> = HashSet::new();
        let end = Instant::now() + ARRIVAL_TIMEOUT;
        loop {
            let taken = ring.drain(1 << 20, |bytes| {
                if let Some((kind, ino)) = kind_and_inode(bytes) {
                    seen.insert((kind, ino));
                    if kind == EventKind::Exchange as u16 {
                        seen.insert((kind, 0));
                    }
                }
            });
            ring.release();
            if expected.iter().all(|one| shows(&seen, one)) || Instant::now() >= end {
                break;
            }
            if taken == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let (proved, missing): (Vec<_>, Vec<_>) = expected.iter().partition(|one| shows(&seen, one));
        let names = |of: Vec<&Expected>| of.iter().map(|one| one.what).collect();
        Proof {
            proved: names(proved),
            missing: names(missing),
            unsupported,
        }
    }
}

/// Kind and subject of an event, without the rest.
fn kind_and_inode(bytes: &[u8]) -> Option<(u16, u64)> {
    use std::mem::offset_of;
    let kind_at = offset_of!(abi::Head, kind);
    let ino_at =
        offset_of!(abi::Head, state) + offset_of!(abi::InodeState, inode) + offset_of!(abi::InodeRef, ino);
    let kind = u16::from_ne_bytes(bytes.get(kind_at..kind_at + 2)?.try_into().ok()?);
    let ino = u64::from_ne_bytes(bytes.get(ino_at..ino_at + 8)?.try_into().ok()?);
    Some((kind, ino))
}

/// Stores a byte through a shared mapping and waits for its write-back.
fn map_and_store(file: &OwnedFd) -> io::Result<()> {
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
    // SAFETY: a new mapping at a place of the kernel's choice, of a file that nobody else can truncate; unmapped below.
    unsafe {
        let start = mmap(
            std::ptr::null_mut(),
            BLOCK_BYTES,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            file.as_fd(),
            0,
        )?;
        start.cast::<u8>().write_volatile(0xa5);
        let synced = msync(start, BLOCK_BYTES, MsyncFlags::SYNC);
        munmap(start, BLOCK_BYTES)?;
        synced?;
    }
    Ok(())
}

/// Writes one block past the page cache.
fn write_direct(file: &OwnedFd) -> rustix::io::Result<()> {
    #[repr(align(4096))]
    struct Block([u8; BLOCK_BYTES]);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let direct = rustix::fs::open(
        path,
        OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::io::pwrite(&direct, &Block([0x33; BLOCK_BYTES]).0, 16 * BLOCK_BYTES as u64).map(drop)
}

/// An ACL of version 2 that says no more than a mode does, but for one named user.
fn acl() -> Vec<u8> {
    const UNDEFINED: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, UNDEFINED),
        (2, 4, 12345),
        (4, 0, UNDEFINED),
        (0x10, 4, UNDEFINED),
        (0x20, 0, UNDEFINED),
    ];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}
