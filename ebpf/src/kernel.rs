//! Reading the kernel's structures through the offsets in `CONFIG`.

use abi::{ABSENT, Config, Counter, DirState, InodeRef, InodeState, Time, features};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

use crate::maps::count;

#[unsafe(no_mangle)]
pub(crate) static CONFIG: Config = unsafe { core::mem::zeroed() };

/// A field of the configuration; volatile, because the loader writes it behind the compiler's back.
macro_rules! config {
    ($($field:ident).+) => {
        // SAFETY: a static, aligned.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::CONFIG.$($field).+) }
    };
}
pub(crate) use config;

/// An offset of the configuration.
macro_rules! offset {
    ($field:ident) => {
        u64::from($crate::kernel::config!(offsets.$field))
    };
}
pub(crate) use offset;

/// A reader of kernel memory that remembers whether any read failed.
pub(crate) struct Reader {
    failed: i64,
}

impl Reader {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { failed: 0 }
    }

    /// The value at an address; zero bits where it cannot be read.
    #[inline(always)]
    pub(crate) fn get<T: Copy>(&mut self, address: u64) -> T {
        // SAFETY: all types read are plain integers.
        let mut value: T = unsafe { core::mem::zeroed() };
        // SAFETY: the destination is a local of that size.
        self.failed |= unsafe {
            bpf_probe_read_kernel(
                (&raw mut value).cast(),
                core::mem::size_of::<T>() as u32,
                address as *const _,
            )
        };
        value
    }

    /// Remembers the result of a read that was made elsewhere.
    #[inline(always)]
    pub(crate) fn saw(&mut self, result: i64) {
        self.failed |= result;
    }

    /// Whether a read failed; counts it.
    #[inline(always)]
    pub(crate) fn failed(&self) -> bool {
        if self.failed != 0 {
            count(Counter::ReadFailed, 1);
        }
        self.failed != 0
    }
}

/// Whether the inode is on the recorded volume.
#[inline(always)]
pub(crate) fn recorded(inode: u64) -> bool {
    if inode == 0 {
        return false;
    }
    let mut reader = Reader::new();
    let superblock: u64 = reader.get(inode + offset!(inode_sb));
    let device: u32 = reader.get(superblock + offset!(sb_dev));
    reader.failed == 0 && device == config!(device) && in_subvolume(inode)
}

/// Whether the inode is in the recorded subvolume, where the file system has such: inode numbers are told apart only within one.
#[inline(always)]
fn in_subvolume(inode: u64) -> bool {
    if config!(subvolume) == 0 {
        return true;
    }
    let mut reader = Reader::new();
    let root: u64 = reader.get(private(inode) + u64::from(config!(private.root)));
    let id: u64 = reader.get(root + u64::from(config!(private.root_id)));
    reader.failed == 0 && id == config!(subvolume)
}

/// The file system's own struct around a VFS inode.
#[inline(always)]
fn private(inode: u64) -> u64 {
    inode.wrapping_sub(u64::from(config!(private.inode)))
}

/// Whether a new inode came with file flags or a project, which it got from its directory past all hooks.
#[inline(always)]
pub(crate) fn inherits(reader: &mut Reader, inode: u64) -> bool {
    if config!(features) & features::CREATES_ARE_LABELLED != 0 {
        return true;
    }
    if config!(private.flags) == ABSENT {
        return false;
    }
    let flags = private(inode) + u64::from(config!(private.flags));
    let flags = if config!(private.flags_bytes) == 2 {
        u32::from(reader.get::<u16>(flags))
    } else {
        reader.get::<u32>(flags)
    };
    let project: u32 = if config!(private.project) == ABSENT {
        0
    } else {
        reader.get(private(inode) + u64::from(config!(private.project)))
    };
    flags & config!(private.flags_mask) != 0 || project != 0
}

/// The VFS inode in a file system's own struct.
#[inline(always)]
pub(crate) fn vfs_inode(private: u64) -> u64 {
    private + u64::from(config!(private.inode))
}

#[inline(always)]
pub(crate) fn inode_ref(reader: &mut Reader, inode: u64) -> InodeRef {
    InodeRef {
        ino: reader.get(inode + offset!(inode_ino)),
        generation: reader.get(inode + offset!(inode_generation)),
        pad: 0,
    }
}

/// Bytes of [`InodeBytes`].
const INODE_BYTES_MAX: usize = abi::INODE_BYTES_MAX as usize;

/// The begin of an inode, where most of what is told of it lies, read at once: a call for each field costs more than the field. Not on the stack,
/// which is 512 bytes deep for all callers together. A probe is neither preempted nor interrupted by another one, so there is one at a time.
#[map]
static INODES: PerCpuArray<InodeBytes> = PerCpuArray::with_max_entries(1, 0);

/// Room for the last field, wherever an offset says that it is.
#[repr(C, align(8))]
struct InodeBytes([u8; INODE_BYTES_MAX + 8]);

/// An inode as it was a moment ago; until the next one is read.
struct InodeNow {
    bytes: *const u8,
    key: InodeRef,
}

impl InodeNow {
    #[inline(always)]
    fn read(reader: &mut Reader, inode: u64) -> Option<Self> {
        let Some(bytes) = INODES.get_ptr_mut(0) else {
            reader.saw(-1);
            return None;
        };
        let length = config!(inode_bytes) & (INODE_BYTES_MAX as u32 - 1);
        // SAFETY: a slot of the map, of this processor, and at least as long.
        reader.saw(unsafe { bpf_probe_read_kernel(bytes.cast(), length, inode as *const _) });
        let mut now = Self {
            bytes: bytes.cast(),
            key: InodeRef {
                ino: 0,
                // Where structs of locks and lists come before it, it is too far from the others.
                generation: reader.get(inode + offset!(inode_generation)),
                pad: 0,
            },
        };
        now.key.ino = now.get(offset!(inode_ino));
        Some(now)
    }

    /// A field; what the loader said to be the length reaches over all that are asked for.
    #[inline(always)]
    fn get<T: Copy>(&self, offset: u64) -> T {
        let offset = offset as usize & (INODE_BYTES_MAX - 1);
        // SAFETY: within the slot; the kernel aligns its fields, and the slot is aligned like an inode.
        unsafe { self.bytes.add(offset).cast::<T>().read() }
    }

    #[inline(always)]
    fn time(&self, whole: u64, sec: u64, nsec: u64) -> Time {
        let (sec, nsec) = if config!(features) & features::INODE_TIMES_ARE_STRUCTS != 0 {
            (whole, whole + 8)
        } else {
            (sec, nsec)
        };
        Time {
            sec: self.get(sec),
            nsec: self.get(nsec),
            pad: 0,
        }
    }

    #[inline(always)]
    fn atime(&self) -> Time {
        self.time(
            offset!(inode_atime),
            offset!(inode_atime_sec),
            offset!(inode_atime_nsec),
        )
    }

    #[inline(always)]
    fn mtime(&self) -> Time {
        self.time(
            offset!(inode_mtime),
            offset!(inode_mtime_sec),
            offset!(inode_mtime_nsec),
        )
    }

    #[inline(always)]
    fn ctime(&self) -> Time {
        let (sec, nsec) = (offset!(inode_ctime_sec), offset!(inode_ctime_nsec));
        // 6.6 moved only the change time; its struct is then spelled `__i_ctime`, which the loader has found.
        let mut time = self.time(offset!(inode_ctime), sec, nsec);
        // A multigrain change time keeps a flag above the nanoseconds.
        time.nsec &= 0x3fff_ffff;
        time
    }

    #[inline(always)]
    fn dir_state(&self) -> DirState {
        DirState {
            inode: self.key,
            mtime: self.mtime(),
            ctime: self.ctime(),
        }
    }
}

/// Access time of an inode, and what else a directory is stated by; nothing where it cannot be read, and the reader knows.
#[inline(always)]
pub(crate) fn times(reader: &mut Reader, inode: u64) -> (Time, DirState) {
    InodeNow::read(reader, inode)
        .map(|now| (now.atime(), now.dir_state()))
        .unwrap_or_default()
}

#[inline(always)]
pub(crate) fn dir_state(reader: &mut Reader, inode: u64) -> DirState {
    InodeNow::read(reader, inode)
        .map(|now| now.dir_state())
        .unwrap_or_default()
}

#[inline(always)]
pub(crate) fn inode_state(reader: &mut Reader, inode: u64) -> InodeState {
    InodeNow::read(reader, inode)
        .map(|now| InodeState {
            inode: now.key,
            mode: u32::from(now.get::<u16>(offset!(inode_mode))),
            uid: now.get(offset!(inode_uid)),
            gid: now.get(offset!(inode_gid)),
            rdev: now.get(offset!(inode_rdev)),
            nlink: now.get(offset!(inode_nlink)),
            flags: now.get(offset!(inode_flags)),
            size: now.get(offset!(inode_size)),
            atime: now.atime(),
            mtime: now.mtime(),
            ctime: now.ctime(),
        })
        .unwrap_or_default()
}

/// The inode behind a dentry.
#[inline(always)]
pub(crate) fn dentry_inode(dentry: u64) -> u64 {
    Reader::new().get(dentry + offset!(dentry_inode))
}

/// The inode of the directory that a dentry stands in.
#[inline(always)]
pub(crate) fn dentry_parent(dentry: u64) -> u64 {
    let parent: u64 = Reader::new().get(dentry + offset!(dentry_parent));
    dentry_inode(parent)
}

/// The inode of an open file.
#[inline(always)]
pub(crate) fn file_inode(file: u64) -> u64 {
    Reader::new().get(file + offset!(file_inode))
}

/// The folio that a page belongs to, and the page's number in it.
#[inline(always)]
pub(crate) fn page_folio(page: u64) -> u64 {
    if config!(features) & features::WRITE_END_TAKES_PAGES == 0
        || config!(offsets.page_compound_head) == ABSENT
    {
        return page;
    }
    let head: u64 = Reader::new().get(page + offset!(page_compound_head));
    if head & 1 != 0 { head - 1 } else { page }
}

/// The inode whose page cache holds the folio, or 0.
#[inline(always)]
pub(crate) fn folio_inode(folio: u64) -> u64 {
    let mapping: u64 = Reader::new().get(folio + offset!(folio_mapping));
    // The low bits mark anonymous and movable memory.
    if mapping == 0 || mapping & 3 != 0 {
        return 0;
    }
    Reader::new().get(mapping + offset!(mapping_host))
}

/// Byte offset of the folio in its file.
#[inline(always)]
pub(crate) fn folio_position(folio: u64) -> u64 {
    let index: u64 = Reader::new().get(folio + offset!(folio_index));
    index << 12
}

/// Bytes of the folio.
#[inline(always)]
pub(crate) fn folio_bytes(folio: u64) -> u64 {
    let mut reader = Reader::new();
    let flags: u64 = reader.get(folio + offset!(folio_flags));
    if (flags >> (config!(pg_head_bit) & 63)) & 1 == 0 {
        return 4096;
    }
    let order: u8 = if config!(features) & features::FOLIO_ORDER_IN_FLAGS != 0 {
        reader.get(folio + offset!(folio_flags_1))
    } else {
        reader.get(folio + offset!(folio_order))
    };
    4096 << (order & 15)
}

/// Whether all of the folio's content is valid.
#[inline(always)]
pub(crate) fn folio_is_uptodate(folio: u64) -> bool {
    let flags: u64 = Reader::new().get(folio + offset!(folio_flags));
    (flags >> (config!(pg_uptodate_bit) & 63)) & 1 != 0
}

/// What the kernel has in `vmemmap_base` and `page_offset_base`: set while it boots, so read once.
static mut VMEMMAP_BASE: u64 = 0;
static mut PAGE_OFFSET_BASE: u64 = 0;

/// The value of a variable of the kernel that does not change, kept in `slot`.
#[inline(always)]
fn constant(slot: *mut u64, address: u64) -> u64 {
    // SAFETY: one of ours, aligned; whoever else writes it writes the same.
    unsafe {
        let mut value = slot.read_volatile();
        if value == 0 {
            value = Reader::new().get(address);
            slot.write_volatile(value);
        }
        value
    }
}

/// Address of a page's bytes in the kernel's direct map.
#[inline(always)]
pub(crate) fn page_address(page: u64) -> u64 {
    let vmemmap = constant(&raw mut VMEMMAP_BASE, config!(vmemmap_base_address));
    let page_offset = constant(&raw mut PAGE_OFFSET_BASE, config!(page_offset_base_address));
    ((page.wrapping_sub(vmemmap) >> 6) << 12).wrapping_add(page_offset)
}
