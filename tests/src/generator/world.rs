//! What the threads of a process work on together: few names, few open files and few mappings, so that they conflict.
//!
//! Every name belongs to a class. Files of the class *direct* are written past the page cache, too; those of the class
//! *mapped* are mapped and stored to. No inode is both: what a store through a mapping and a direct write to the same
//! page leave behind, no file system promises. Names change only within their class, so that an inode never leaves it.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use rustix::fs::{FileType, MemfdFlags, OFlags, fcntl_getfl, fcntl_setfl, fstat, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

use crate::random::Random;

/// Open files of a process, at most.
const OPEN_MAX: usize = 10;
/// Mappings of a process, at most.
const MAPPINGS_MAX: usize = 4;

/// Directories, from the root of the run; they are created, removed and renamed as the names in them are.
const DIRECTORIES: &[&[u8]] = &[b"d0", b"d1", b"d2", b"d0/d1", b"d1/d2", b"d0/d1/d2"];
const DIRECT: &[&[u8]] = &[
    b"f0",
    b"f1",
    b"f2",
    b"f3",
    b"f4",
    b"f5 \xff\xfe",
    b"f6\nf6",
    &[b'f'; 255],
];
const MAPPED: &[&[u8]] = &[b"m0", b"m1", b"m2", b"m3"];

/// What may be done to an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Written past the page cache, never mapped.
    Direct,
    /// Mapped, never written past the page cache.
    Mapped,
}

/// An open file.
pub(super) struct Open {
    pub(super) fd: OwnedFd,
    /// `None` when a symbolic link may have led to it.
    pub(super) class: Option<Class>,
    /// Opened with `O_DIRECT`.
    pub(super) direct: bool,
    /// A regular file: not a FIFO, which a queued write may wait for without end.
    pub(super) regular: bool,
}

impl Open {
    /// An open file as it was just opened, without waiting.
    pub(super) fn new(fd: OwnedFd, class: Option<Class>, direct: bool) -> Result<Self, Errno> {
        let regular = FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::RegularFile;
        if regular {
            // Else io_uring would refuse what it cannot do at once.
            fcntl_setfl(&fd, fcntl_getfl(&fd)? - OFlags::NONBLOCK)?;
        }
        Ok(Self {
            fd,
            class,
            direct,
            regular,
        })
    }
}

/// A shared, writable mapping of the start of a file.
pub(super) struct Mapping {
    address: *mut std::ffi::c_void,
    length: usize,
}

// SAFETY: the address is only handed to system calls, which may come from any thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `length` bytes of a file from `offset` on, which is a whole number of pages.
    pub(super) fn new(open: &Open, offset: u64, length: usize) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &open.fd,
                offset,
            )
        }?;
        Ok(Self { address, length })
    }

    /// Stores at an offset, or says `EFAULT` where the file does not reach so far any more: the kernel does the
    /// copying, so that no signal ends this process.
    pub(super) fn store(&self, offset: usize, data: &[u8]) -> Result<(), Errno> {
        let length = data.len().min(self.length.saturating_sub(offset));
        let source = memfd_create(c"store", MemfdFlags::CLOEXEC)?;
        rustix::io::pwrite(&source, data, 0)?;
        // SAFETY: offset and length lie in the mapping; nothing in this process refers to these bytes.
        let stored = unsafe {
            libc::pread(
                source.as_raw_fd(),
                self.address.cast::<u8>().add(offset.min(self.length)).cast(),
                length,
                0,
            )
        };
        if stored < 0 { Err(last_error()) } else { Ok(()) }
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn sync(&self, flags: MsyncFlags) -> Result<(), Errno> {
        // SAFETY: the whole of a mapping that is there as long as `self`.
        unsafe { msync(self.address, self.length, flags) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to `self`; what munmap says is of no use here.
        _ = unsafe { munmap(self.address, self.length) };
    }
}

/// The error of the last system call of this thread.
pub(super) fn last_error() -> Errno {
    Errno::from_raw_os_error(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

/// What a system call of `libc` returned.
pub(super) fn checked(returned: libc::c_long) -> Result<(), Errno> {
    if returned < 0 { Err(last_error()) } else { Ok(()) }
}

/// What the threads of one process share.
pub(super) struct World {
    root: PathBuf,
    files: Vec<Mutex<Option<Arc<Open>>>>,
    mappings: Vec<Mutex<Option<Mapping>>>,
    loses_on_unshare: bool,
}

impl World {
    /// Makes the directory of the run, with a part of the directories in it: the others have to be created.
    pub(super) fn prepare(root: &Path) -> anyhow::Result<()> {
        use std::os::unix::ffi::OsStrExt as _;
        std::fs::create_dir(root).with_context(|| format!("create {}", root.display()))?;
        for below in [&b"d0"[..], b"d1", b"d0/d1"] {
            let path = root.join(std::ffi::OsStr::from_bytes(below));
            std::fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        }
        Ok(())
    }

    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            files: (0..OPEN_MAX).map(|_| Mutex::new(None)).collect(),
            mappings: (0..MAPPINGS_MAX).map(|_| Mutex::new(None)).collect(),
            loses_on_unshare: loses_on_unshare(root),
        }
    }
}

/// XFS before Linux 6.12 throws data away that waits for write-back in blocks which are reserved for copying on write, when another part of
/// the file is unshared (mended by 4390f019ad78). The journal then has what was written, and the disk has zeros once the page cache is gone.
fn loses_on_unshare(root: &Path) -> bool {
    const XFS_MAGIC: rustix::fs::FsWord = 0x5846_5342;
    let kernel = rustix::system::uname();
    let mut numbers = kernel
        .release()
        .to_bytes()
        .split(|byte| !byte.is_ascii_digit())
        .map(|digits| {
            std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse::<u32>().ok())
                .unwrap_or(0)
        });
    let release = (numbers.next(), numbers.next());
    let is_xfs = rustix::fs::statfs(root).is_ok_and(|found| found.f_type == XFS_MAGIC);
    is_xfs && release < (Some(6), Some(12))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One operation being executed: what its arguments are drawn from, and what is said of it.
pub(super) struct Step<'a> {
    world: &'a World,
    pub(super) random: Random,
    pub(super) thread: u32,
    pub(super) index: u32,
    /// Its arguments, for the trace.
    pub(super) said: String,
}

impl<'a> Step<'a> {
    pub(super) fn new(world: &'a World, random: Random, thread: u32, index: u32) -> Self {
        Self {
            world,
            random,
            thread,
            index,
            said: String::new(),
        }
    }

    /// Whether the file system here loses data when a range is unshared.
    pub(super) fn loses_on_unshare(&self) -> bool {
        self.world.loses_on_unshare
    }

    /// Keeps an argument for the trace.
    pub(super) fn say(&mut self, what: impl std::fmt::Display) {
        use std::fmt::Write as _;
        _ = write!(self.said, " {what}");
    }

    fn path(&mut self, below: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        self.say(shortened(below));
        self.world.root.join(std::ffi::OsStr::from_bytes(below))
    }

    /// The name of a file of a class.
    pub(super) fn name_of(&mut self, class: Class) -> PathBuf {
        let names = if class == Class::Direct { DIRECT } else { MAPPED };
        let mut below = Vec::new();
        if self.random.chance(40) {
            below.extend_from_slice(self.random.pick(DIRECTORIES));
            below.push(b'/');
        }
        below.extend_from_slice(self.random.pick(names));
        self.path(&below)
    }

    pub(super) fn class(&mut self) -> Class {
        if self.random.chance(65) {
            Class::Direct
        } else {
            Class::Mapped
        }
    }

    /// The name of a file of any class.
    pub(super) fn name(&mut self) -> PathBuf {
        let class = self.class();
        self.name_of(class)
    }

    /// The name of a directory.
    pub(super) fn directory(&mut self) -> PathBuf {
        let below = self.random.pick(DIRECTORIES);
        self.path(below)
    }

    /// The name of anything, the root of the run among them.
    pub(super) fn any(&mut self) -> PathBuf {
        match self.random.below(10) {
            0 => self.path(b"."),
            1..4 => self.directory(),
            _ => self.name(),
        }
    }

    /// An open file, from any slot that holds one.
    pub(super) fn open(&mut self) -> Result<Arc<Open>, Errno> {
        self.open_where(|_| true)
    }

    /// An open file of a certain kind.
    pub(super) fn open_where(&mut self, fits: impl Fn(&Open) -> bool) -> Result<Arc<Open>, Errno> {
        let first = usize::try_from(self.random.below(OPEN_MAX as u64)).unwrap_or(0);
        for slot in (first..OPEN_MAX).chain(0..first) {
            let found = lock(&self.world.files[slot]).clone();
            if let Some(open) = found.filter(|open| fits(open)) {
                self.say(format_args!("slot {slot}{}", behind(&open)));
                return Ok(open);
            }
        }
        Err(Errno::BADF)
    }

    /// Keeps an open file; what the slot held is closed.
    pub(super) fn keep(&mut self, open: Option<Open>) {
        let slot = usize::try_from(self.random.below(OPEN_MAX as u64)).unwrap_or(0);
        self.say(format_args!("slot {slot}"));
        let before = std::mem::replace(&mut *lock(&self.world.files[slot]), open.map(Arc::new));
        drop(before);
    }

    /// Does something with a mapping, if there is one.
    pub(super) fn with_mapping(
        &mut self,
        act: impl FnOnce(&mut Self, &Mapping) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let first = usize::try_from(self.random.below(MAPPINGS_MAX as u64)).unwrap_or(0);
        let world = self.world;
        for slot in (first..MAPPINGS_MAX).chain(0..first) {
            if let Some(mapping) = &*lock(&world.mappings[slot]) {
                self.say(format_args!("mapping {slot}"));
                return act(self, mapping);
            }
        }
        Err(Errno::BADF)
    }

    /// Keeps a mapping; what the slot held is unmapped.
    pub(super) fn keep_mapping(&mut self, mapping: Option<Mapping>) {
        let slot = usize::try_from(self.random.below(MAPPINGS_MAX as u64)).unwrap_or(0);
        self.say(format_args!("mapping {slot}"));
        *lock(&self.world.mappings[slot]) = mapping;
    }

    /// An offset into a file: mostly near the start, where others write too.
    pub(super) fn offset(&mut self, open: &Open) -> u64 {
        let offset = match self.random.below(20) {
            0..9 => self.random.below(64 << 10),
            9..14 => self.random.below(64) * 4096,
            14..17 => {
                let size = fstat(&open.fd).map_or(0, |stat| stat.st_size);
                let about = u64::try_from(size).unwrap_or(0) + self.random.below(8192);
                // What is far out stays the business of `far_write`.
                if about > FAR {
                    about % 65_536
                } else {
                    about.saturating_sub(4096)
                }
            }
            _ => self.random.below(1 << 20),
        };
        self.say(format_args!("at {offset}"));
        offset
    }

    /// A length that is not 0.
    pub(super) fn length(&mut self) -> u64 {
        let length = 1 + match self.random.below(10) {
            0..3 => self.random.below(100),
            3..7 => self.random.below(8 << 10),
            7..9 => self.random.below(64 << 10),
            _ => self.random.below(256 << 10),
        };
        self.say(format_args!("length {length}"));
        length
    }

    /// A whole number of file system blocks, as an offset.
    pub(super) fn block_offset(&mut self) -> u64 {
        let offset = self.random.below(48) * 4096;
        self.say(format_args!("at {offset}"));
        offset
    }

    /// A whole number of file system blocks, not 0.
    pub(super) fn block_length(&mut self) -> u64 {
        let length = (1 + self.random.below(12)) * 4096;
        self.say(format_args!("length {length}"));
        length
    }

    /// Content that names the operation and the place within it, so that no two look alike; sometimes only zeros.
    pub(super) fn data(&mut self, length: u64) -> Vec<u8> {
        let length = usize::try_from(length).unwrap_or(0);
        if self.random.chance(7) {
            self.say("zeros");
            return vec![0; length];
        }
        let mut data = Vec::with_capacity(length + 8);
        let mut word = u64::from(self.thread + 1) << 56 | u64::from(self.index & 0xff_ffff) << 32;
        while data.len() < length {
            data.extend_from_slice(&word.to_be_bytes());
            word += 1;
        }
        data.truncate(length);
        data
    }
}

/// Where "far out" begins.
pub(super) const FAR: u64 = 1 << 30;

/// A name for the trace.
fn shortened(name: &[u8]) -> String {
    let text = name.escape_ascii().to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Which inode an open file is, for the trace.
fn behind(open: &Open) -> String {
    fstat(&open.fd).map_or_else(|_| String::new(), |stat| format!(" (inode {})", stat.st_ino))
}
