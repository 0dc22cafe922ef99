//! Attributes, extended attributes, ACLs. All under the inode's lock, all after success.
//!
//! ACLs are taken where the file system stores them, not where they are asked for: a chmod changes them, a new inode inherits them, an
//! NFS server sets them past the calls of user space, and one that says no more than the mode is not kept at all.

use core::ffi::c_void;

use abi::{AttrBody, DirState, EventKind, Head, XattrBody, lost_flags};
use aya_ebpf::helpers::generated::{bpf_ktime_get_tai_ns, bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

use crate::emit::{NONE, Record, emit};
use crate::kernel::{Reader, dentry_inode, file_inode, inode_ref, offset, recorded, times, vfs_inode};
use crate::maps::{Note, begin_note, excluded, lose, note, take_note};

/// `ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_SIZE | ATTR_ATIME | ATTR_MTIME | ATTR_CTIME`.
const ATTR_ALL: u64 = 0x7f;
/// `ATTR_MTIME | ATTR_CTIME`: states nothing but these.
const ATTR_TIMES: u64 = 0x60;
/// Bytes of a `struct posix_acl_entry`.
const ACL_ENTRY_BYTES: u32 = 8;
/// `ACL_TYPE_DEFAULT`; the other type is `ACL_TYPE_ACCESS`.
const ACL_TYPE_DEFAULT: u64 = 0x4000;
const S_IFMT: u16 = 0o170_000;
const S_IFREG: u16 = 0o100_000;
const S_IFIFO: u16 = 0o010_000;

#[repr(C)]
struct AttrRecord {
    head: Head,
    body: AttrBody,
}

// SAFETY: it begins with its head.
unsafe impl Record for AttrRecord {}

#[repr(C)]
struct XattrRecord<const N: usize> {
    head: Head,
    body: XattrBody,
    value: [u8; N],
}

// SAFETY: it begins with its head.
unsafe impl<const N: usize> Record for XattrRecord<N> {}

#[inline(always)]
fn lose_attributes(seq: u64, kind: EventKind, inode: u64, bytes: usize) {
    let subject = inode_ref(&mut Reader::new(), inode);
    lose(
        seq,
        subject,
        NONE,
        NONE,
        lost_flags::ATTRS | lost_flags::CONTENT,
        kind as u32,
        bytes as u64,
    );
}

#[inline(always)]
fn is_excluded(inode: u64) -> bool {
    excluded(Reader::new().get(inode + offset!(inode_ino)))
}

/// Emits an event that is nothing but its head.
#[inline(always)]
pub(crate) fn emit_bare(kind: EventKind, flags: u16, inode: u64) {
    if is_excluded(inode) {
        return;
    }
    let bytes = core::mem::size_of::<Head>();
    emit::<Head>(
        kind,
        inode,
        |seq| lose_attributes(seq, kind, inode, bytes),
        |_, _| (bytes as u32, flags),
    );
}

/// States mode, owner and times, which hold under the lock, and of size and access time what `valid` names.
#[inline(always)]
pub(crate) fn emit_attributes(inode: u64, valid: u64) {
    if is_excluded(inode) {
        return;
    }
    let bytes = core::mem::size_of::<AttrRecord>();
    emit::<AttrRecord>(
        EventKind::SetAttr,
        inode,
        |seq| lose_attributes(seq, EventKind::SetAttr, inode, bytes),
        |record, _| {
            // SAFETY: a reserved record.
            unsafe {
                (*record).body = AttrBody {
                    valid: valid as u32,
                    pad: 0,
                };
            }
            (bytes as u32, 0)
        },
    );
}

#[inline(always)]
pub(crate) fn setattr(dentry: u64, valid: u64) {
    let inode = dentry_inode(dentry);
    if recorded(inode) {
        emit_attributes(inode, valid);
    }
}

/// A write into a FIFO changes its times, and tells nothing else.
#[inline(always)]
pub(crate) fn fifo_enter(iocb: u64) {
    let file: u64 = Reader::new().get(iocb + offset!(kiocb_file));
    times_enter(file_inode(file));
}

/// Btrfs: times are updated; where FIFOs have no function of their own for writing, this is seen of them.
#[inline(always)]
pub(crate) fn times_enter(inode: u64) {
    let mode: u16 = Reader::new().get(inode + offset!(inode_mode));
    if mode & S_IFMT == S_IFIFO && recorded(inode) {
        begin_note(
            note::TIMES,
            &Note {
                inode,
                ..Note::default()
            },
        );
    }
}

#[inline(always)]
pub(crate) fn times_exit(_result: i64) {
    if let Some(noted) = take_note(note::TIMES) {
        emit_attributes(noted.inode, ATTR_TIMES);
    }
}

/// Times that were last told, as hashes of inode and times: writes follow each other faster than the clock ticks. What gives way to another
/// is told twice.
#[map]
static TOLD: Array<u64> = Array::with_max_entries(TOLD_SLOTS, 0);
const TOLD_SLOTS: u32 = 4096;

/// ext4 and XFS write times down that they have set. Most of them are those of an event that follows; but a write that fails sets them as
/// well, and one into a FIFO tells nothing else.
#[inline(always)]
pub(crate) fn times_set(inode: u64) {
    let mode: u16 = Reader::new().get(inode + offset!(inode_mode));
    if (mode & S_IFMT == S_IFREG || mode & S_IFMT == S_IFIFO) && recorded(inode) && news(inode) {
        emit_attributes(inode, ATTR_TIMES);
    }
}

/// As [`times_set`], where XFS says what of an inode is to be written down.
#[inline(always)]
pub(crate) fn xfs_times_set(private: u64, what: u64) {
    const XFS_ILOG_TIMESTAMP: u64 = 0x4000;
    if what & XFS_ILOG_TIMESTAMP != 0 {
        times_set(vfs_inode(private));
    }
}

/// Whether times were set other than by reading, and not told yet.
#[inline(always)]
fn news(inode: u64) -> bool {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut reader = Reader::new();
    // Inode, modification and change time: what a directory's state is made of, too.
    let (
        atime,
        DirState {
            inode: subject,
            mtime,
            ctime,
        },
    ) = times(&mut reader, inode);
    if reader.failed() {
        // The event will say so.
        return true;
    }
    if atime.sec > ctime.sec || (atime.sec == ctime.sec && atime.nsec > ctime.nsec) {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_tai_ns() };
        // One that lies ahead was set by hand, and tells nothing.
        if (atime.sec as u64).wrapping_mul(1_000_000_000) <= now {
            return false;
        }
    }
    let mut hash = subject.ino ^ u64::from(subject.generation) << 32;
    hash = (hash.wrapping_mul(ODD) ^ mtime.sec as u64).wrapping_mul(ODD) ^ u64::from(mtime.nsec);
    hash = (hash.wrapping_mul(ODD) ^ ctime.sec as u64).wrapping_mul(ODD) ^ u64::from(ctime.nsec);
    hash = hash.wrapping_mul(ODD);
    let Some(told) = TOLD.get_ptr_mut((hash >> 32) as u32 % TOLD_SLOTS) else {
        return true;
    };
    // SAFETY: a slot of the map, aligned; processors may overwrite each other's word, but not half of it.
    unsafe {
        if told.read_volatile() == hash {
            return false;
        }
        told.write_volatile(hash);
    }
    true
}

/// Where the hook does not say what was set: state everything, which is true under the lock.
#[inline(always)]
pub(crate) fn setattr_all(dentry: u64) {
    setattr(dentry, ATTR_ALL);
}

/// Name of an extended attribute.
#[derive(Clone, Copy)]
enum Name {
    /// NUL-terminated, at a kernel address.
    At(u64),
    /// That of an ACL of this type.
    Acl(u64),
}

/// Copies a name; gives its length, 0 where it cannot be read.
#[inline(always)]
fn copy_name(name: Name, to: *mut [u8; 256]) -> u32 {
    // SAFETY: the caller gives a place of this size.
    unsafe {
        match name {
            Name::At(address) => {
                let copied = bpf_probe_read_kernel_str(to.cast::<c_void>(), 256, address as *const c_void);
                if copied > 1 { (copied as u32 - 1) & 0xff } else { 0 }
            }
            Name::Acl(ACL_TYPE_DEFAULT) => {
                to.cast::<[u8; 24]>().write(*b"system.posix_acl_default");
                24
            }
            Name::Acl(_) => {
                to.cast::<[u8; 23]>().write(*b"system.posix_acl_access");
                23
            }
        }
    }
}

#[inline(always)]
fn emit_xattr<const N: usize>(kind: EventKind, inode: u64, name: Name, value: u64, length: u32) {
    let bytes = core::mem::size_of::<XattrRecord<N>>();
    emit::<XattrRecord<N>>(
        kind,
        inode,
        |seq| lose_attributes(seq, kind, inode, bytes),
        |record, reader| {
            // SAFETY: a reserved record; lengths are masked for the verifier.
            let (name_len, value_len, failed) = unsafe {
                let body = &raw mut (*record).body;
                let name_len = copy_name(name, &raw mut (*body).name);
                let to = (&raw mut (*record).value).cast::<c_void>();
                let from = value as *const c_void;
                let (part, failed) = if length as usize >= N {
                    (N as u32, bpf_probe_read_kernel(to, N as u32, from))
                } else {
                    // Read again and masked right before the call: 6.1 forgets the bounds of what was put on the stack in between.
                    let part = core::ptr::read_volatile(&raw const length) & (N as u32 - 1);
                    (part, bpf_probe_read_kernel(to, part, from))
                };
                (*body).name_len = name_len;
                (*body).value_len = part;
                (name_len, part, failed)
            };
            reader.saw(i64::from(name_len == 0 || (failed != 0 && length != 0)));
            ((bytes - N) as u32 + value_len, 0)
        },
    );
}

/// Whether the attribute is an ACL: those are told where they are stored.
#[inline(always)]
fn is_acl(name: u64) -> bool {
    Reader::new().get::<[u8; 16]>(name) == *b"system.posix_acl"
}

#[inline(always)]
pub(crate) fn setxattr(dentry: u64, name: u64, value: u64, length: u64) {
    let inode = dentry_inode(dentry);
    if !recorded(inode) || is_excluded(inode) || is_acl(name) {
        return;
    }
    let (name, length) = (Name::At(name), length as u32);
    if length <= 256 {
        emit_xattr::<256>(EventKind::SetXattr, inode, name, value, length);
    } else if length <= 4096 {
        emit_xattr::<4096>(EventKind::SetXattr, inode, name, value, length);
    } else {
        emit_xattr::<65536>(EventKind::SetXattr, inode, name, value, length);
    }
}

#[inline(always)]
pub(crate) fn removexattr(dentry: u64, name: u64) {
    let inode = dentry_inode(dentry);
    if recorded(inode) && !is_excluded(inode) && !is_acl(name) {
        emit_xattr::<256>(EventKind::RemoveXattr, inode, Name::At(name), 0, 0);
    }
}

/// A write or a change of owner drops file capabilities, past the usual hooks.
#[inline(always)]
pub(crate) fn drop_xattr_enter(dentry: u64, name: u64) {
    let inode = dentry_inode(dentry);
    if !recorded(inode) || Reader::new().get::<[u8; 16]>(name) != *b"security.capabil" {
        return;
    }
    begin_note(
        note::CAPABILITY,
        &Note {
            inode,
            a: name,
            ..Note::default()
        },
    );
}

#[inline(always)]
pub(crate) fn drop_xattr_exit(result: i64) {
    if let Some(noted) = take_note(note::CAPABILITY)
        && result as i32 == 0
        && !is_excluded(noted.inode)
    {
        emit_xattr::<256>(EventKind::RemoveXattr, noted.inode, Name::At(noted.a), 0, 0);
    }
}

/// Emits an ACL as it lies in the inode; 0 is none.
#[inline(always)]
fn emit_acl(inode: u64, acl_type: u64, acl: u64) {
    let entries: u32 = if acl == 0 {
        0
    } else {
        Reader::new().get(acl + offset!(acl_count))
    };
    let length = (entries & 0x1fff) * ACL_ENTRY_BYTES;
    let first = acl + offset!(acl_entries);
    let name = Name::Acl(acl_type);
    if length <= 256 {
        emit_xattr::<256>(EventKind::SetAcl, inode, name, first, length);
    } else {
        emit_xattr::<65536>(EventKind::SetAcl, inode, name, first, length);
    }
}

/// The file system has stored an ACL, or removed it, and keeps it with the inode.
#[inline(always)]
pub(crate) fn cached_acl(inode: u64, acl_type: u64, acl: u64) {
    if recorded(inode) && !is_excluded(inode) {
        emit_acl(inode, acl_type & 0xffff, acl);
    }
}

/// The ACLs that a new inode got from its directory, told after its creation.
#[inline(always)]
pub(crate) fn emit_inherited_acls(inode: u64) {
    // A real pointer is neither NULL nor the all-ones of "not known", nor one of the small sentinels in between.
    let real = |pointer: u64| pointer > 4096 && pointer < u64::MAX - 4096;
    let mut reader = Reader::new();
    let acl: u64 = reader.get(inode + offset!(inode_acl));
    if real(acl) && !is_excluded(inode) {
        emit_acl(inode, 0, acl);
    }
    let default_acl: u64 = reader.get(inode + offset!(inode_default_acl));
    if real(default_acl) && !is_excluded(inode) {
        emit_acl(inode, ACL_TYPE_DEFAULT, default_acl);
    }
}

/// An access ACL may change the mode, which the file system does after it has stored the ACL.
#[inline(always)]
pub(crate) fn acl_enter(inode: u64) {
    if recorded(inode) {
        begin_note(
            note::ACL,
            &Note {
                inode,
                ..Note::default()
            },
        );
    }
}

#[inline(always)]
pub(crate) fn acl_enter_dentry(dentry: u64) {
    acl_enter(dentry_inode(dentry));
}

#[inline(always)]
pub(crate) fn acl_exit(result: i64) {
    if let Some(noted) = take_note(note::ACL)
        && result as i32 == 0
    {
        emit_attributes(noted.inode, 0);
    }
}
