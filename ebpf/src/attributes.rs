//! Attributes, extended attributes, ACLs. All under the inode's lock, all after success.
//!
//! ACLs are taken where the file system stores them, not where they are asked for: a chmod changes them, a new inode inherits them, an
//! NFS server sets them past the calls of user space, and one that says no more than the mode is not kept at all.

use core::ffi::c_void;

use abi::{AttrBody, EventKind, Head, XattrBody, event_flags, lost_flags};
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};

use crate::emit::{NONE, fill_head};
use crate::kernel::{Reader, dentry_inode, inode_ref, offset, recorded};
use crate::maps::{EVENTS, Note, count, excluded, lose, next_seq, note, put_note, take_note};

/// `ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_SIZE | ATTR_ATIME | ATTR_MTIME | ATTR_CTIME`.
const ATTR_ALL: u64 = 0x7f;
/// Bytes of a `struct posix_acl_entry`.
const ACL_ENTRY_BYTES: u32 = 8;
/// `ACL_TYPE_DEFAULT`; the other type is `ACL_TYPE_ACCESS`.
const ACL_TYPE_DEFAULT: u64 = 0x4000;

#[repr(C)]
struct AttrRecord {
    head: Head,
    body: AttrBody,
}

#[repr(C)]
struct XattrRecord<const N: usize> {
    head: Head,
    body: XattrBody,
    value: [u8; N],
}

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
    let seq = next_seq();
    let Some(mut entry) = EVENTS.reserve::<Head>(0) else {
        lose_attributes(seq, kind, inode, core::mem::size_of::<Head>());
        return;
    };
    let mut reader = Reader::new();
    fill_head(
        entry.as_mut_ptr(),
        kind,
        flags,
        seq,
        core::mem::size_of::<Head>() as u32,
        inode,
        &mut reader,
    );
    entry.submit(0);
    count(abi::Counter::Submitted, 1);
}

/// States mode, owner and times, which hold under the lock, and of size and access time what `valid` names.
#[inline(always)]
fn emit_attributes(inode: u64, valid: u64) {
    if is_excluded(inode) {
        return;
    }
    let seq = next_seq();
    let Some(mut entry) = EVENTS.reserve::<AttrRecord>(0) else {
        lose_attributes(seq, EventKind::SetAttr, inode, core::mem::size_of::<AttrRecord>());
        return;
    };
    let record = entry.as_mut_ptr();
    let mut reader = Reader::new();
    // SAFETY: a reserved record.
    unsafe {
        (*record).body = AttrBody {
            valid: valid as u32,
            pad: 0,
        };
        let size = core::mem::size_of::<AttrRecord>() as u32;
        fill_head(
            &raw mut (*record).head,
            EventKind::SetAttr,
            0,
            seq,
            size,
            inode,
            &mut reader,
        );
    }
    entry.submit(0);
    count(abi::Counter::Submitted, 1);
}

#[inline(always)]
pub(crate) fn setattr(dentry: u64, valid: u64) {
    let inode = dentry_inode(dentry);
    if recorded(inode) {
        emit_attributes(inode, valid);
    }
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
    let seq = next_seq();
    let Some(mut entry) = EVENTS.reserve::<XattrRecord<N>>(0) else {
        lose_attributes(seq, kind, inode, core::mem::size_of::<XattrRecord<N>>());
        return;
    };
    let record = entry.as_mut_ptr();
    let mut reader = Reader::new();
    // SAFETY: a reserved record; lengths are masked for the verifier.
    unsafe {
        let body = &raw mut (*record).body;
        let name_len = copy_name(name, &raw mut (*body).name);
        (*body).name_len = name_len;
        let to = (&raw mut (*record).value).cast::<c_void>();
        let failed = if length as usize >= N {
            (*body).value_len = N as u32;
            bpf_probe_read_kernel(to, N as u32, value as *const c_void)
        } else {
            let part = length & (N as u32 - 1);
            (*body).value_len = part;
            bpf_probe_read_kernel(to, part, value as *const c_void)
        };
        let flags = if name_len == 0 || (failed != 0 && length != 0) {
            event_flags::READ_FAILED
        } else {
            0
        };
        let size = (core::mem::size_of::<XattrRecord<N>>() - N) as u32 + (*body).value_len;
        fill_head(
            &raw mut (*record).head,
            kind,
            flags,
            seq,
            size,
            inode,
            &mut reader,
        );
    }
    entry.submit(0);
    count(abi::Counter::Submitted, 1);
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
    put_note(
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
        put_note(
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
