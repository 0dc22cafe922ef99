//! Attributes, extended attributes, ACLs. All under the inode's lock, all after success.

use core::ffi::c_void;

use abi::{AttrBody, EventKind, Head, XattrBody, event_flags, lost_flags};
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};

use crate::emit::{NONE, fill_head};
use crate::kernel::{Reader, dentry_inode, inode_ref, offset, recorded};
use crate::maps::{EVENTS, Note, count, drop_note, excluded, lose, next_seq, note, note_of, put_note};

/// `ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_SIZE | ATTR_ATIME | ATTR_MTIME | ATTR_CTIME`.
const ATTR_ALL: u64 = 0x7f;
/// Bytes of a `struct posix_acl_entry`.
const ACL_ENTRY_BYTES: u32 = 8;

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

#[inline(always)]
pub(crate) fn setattr(dentry: u64, valid: u64) {
    let inode = dentry_inode(dentry);
    if !recorded(inode) || is_excluded(inode) {
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

/// Where the hook does not say what was set: state everything, which is true under the lock.
#[inline(always)]
pub(crate) fn setattr_all(dentry: u64) {
    setattr(dentry, ATTR_ALL);
}

#[inline(always)]
fn emit_xattr<const N: usize>(kind: EventKind, inode: u64, name: u64, value: u64, length: u32) {
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
        let copied = bpf_probe_read_kernel_str(
            (&raw mut (*body).name).cast::<c_void>(),
            256,
            name as *const c_void,
        );
        let mut flags = if copied > 1 { 0 } else { event_flags::READ_FAILED };
        (*body).name_len = if copied > 1 { (copied as u32 - 1) & 0xff } else { 0 };
        let to = (&raw mut (*record).value).cast::<c_void>();
        let failed = if length as usize >= N {
            (*body).value_len = N as u32;
            bpf_probe_read_kernel(to, N as u32, value as *const c_void)
        } else {
            let part = length & (N as u32 - 1);
            (*body).value_len = part;
            bpf_probe_read_kernel(to, part, value as *const c_void)
        };
        if failed != 0 && length != 0 {
            flags |= event_flags::READ_FAILED;
        }
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

#[inline(always)]
pub(crate) fn setxattr(dentry: u64, name: u64, value: u64, length: u64) {
    let inode = dentry_inode(dentry);
    if !recorded(inode) || is_excluded(inode) {
        return;
    }
    let length = length as u32;
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
    if recorded(inode) && !is_excluded(inode) {
        emit_xattr::<256>(EventKind::RemoveXattr, inode, name, 0, 0);
    }
}

#[inline(always)]
pub(crate) fn set_acl(dentry: u64, name: u64, acl: u64) {
    let inode = dentry_inode(dentry);
    if !recorded(inode) || is_excluded(inode) {
        return;
    }
    let entries: u32 = if acl == 0 {
        0
    } else {
        Reader::new().get(acl + offset!(acl_count))
    };
    let length = (entries & 0x1fff) * ACL_ENTRY_BYTES;
    let first = acl + offset!(acl_entries);
    if length <= 256 {
        emit_xattr::<256>(EventKind::SetAcl, inode, name, first, length);
    } else {
        emit_xattr::<65536>(EventKind::SetAcl, inode, name, first, length);
    }
}

#[inline(always)]
pub(crate) fn remove_acl(dentry: u64, name: u64) {
    let inode = dentry_inode(dentry);
    if recorded(inode) && !is_excluded(inode) {
        emit_xattr::<256>(EventKind::SetAcl, inode, name, 0, 0);
    }
}

/// A write or a change of owner drops file capabilities, past the usual hooks and before it is done: read them anew.
#[inline(always)]
pub(crate) fn drop_xattr(dentry: u64, name: u64) {
    let inode = dentry_inode(dentry);
    if !recorded(inode) {
        return;
    }
    let start: [u8; 16] = Reader::new().get(name);
    if start == *b"security.capabil" {
        emit_bare(EventKind::Changed, event_flags::WANT_ATTRS, inode);
    }
}

/// chattr begins. Its result is read anew when it is over: file systems keep these flags each in its own way.
#[inline(always)]
pub(crate) fn fileattr_enter(dentry: u64) {
    let inode = dentry_inode(dentry);
    if recorded(inode) {
        put_note(&Note {
            kind: note::FILEATTR,
            inode,
            ..Note::default()
        });
    }
}

#[inline(always)]
pub(crate) fn fileattr_exit(result: i64) {
    let Some(noted) = note_of(note::FILEATTR) else {
        return;
    };
    drop_note();
    if result as i32 == 0 {
        emit_bare(EventKind::Changed, event_flags::WANT_ATTRS, noted.inode);
    }
}
