//! Names: create, link, unlink, rmdir, rename, exchange, and the end of an inode.

use core::ffi::c_void;

use abi::{EventKind, Head, InodeRef, NAME_BYTES_MAX, NameBlock, event_flags, lost_flags};
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};

use crate::attributes::{emit_attributes, emit_bare, emit_inherited_acls};
use crate::emit::{NONE, Record, emit};
use crate::kernel::{Reader, dentry_inode, dentry_parent, dir_state, inherits, inode_ref, offset, recorded};
use crate::maps::{Note, drop_note, exclude, excluded, forget, lose, note, note_of, put_note, take_note};

const S_IFMT: u16 = 0o170_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFLNK: u16 = 0o120_000;
const S_IFCHR: u16 = 0o020_000;
/// `RENAME_WHITEOUT`.
const RENAME_WHITEOUT: u64 = 4;
/// Room for a link target with its NUL.
const TARGET_BYTES: usize = 4096;

#[repr(C)]
struct NameRecord {
    head: Head,
    names: NameBlock,
}

// SAFETY: it begins with its head.
unsafe impl Record for NameRecord {}

#[repr(C)]
struct SymlinkRecord {
    head: Head,
    names: NameBlock,
    target: [u8; TARGET_BYTES],
}

// SAFETY: it begins with its head.
unsafe impl Record for SymlinkRecord {}

/// Copies a dentry's name and says how long it is.
#[inline(always)]
fn copy_name(reader: &mut Reader, dentry: u64, to: *mut [u8; 256]) -> u16 {
    let name = dentry + offset!(dentry_name);
    let length: u32 = reader.get(name + offset!(qstr_len));
    let bytes: u64 = reader.get(name + offset!(qstr_name));
    let length = if length > NAME_BYTES_MAX as u32 {
        NAME_BYTES_MAX as u32
    } else {
        length
    };
    // SAFETY: the destination has 256 bytes, the length is masked to less.
    let result = unsafe { bpf_probe_read_kernel(to.cast::<c_void>(), length & 0xff, bytes as *const c_void) };
    reader.saw(result);
    length as u16
}

/// One side of a name: directory and dentry; the second side is 0 where there is none.
struct Sides {
    parent: u64,
    dentry: u64,
    to_parent: u64,
    to_dentry: u64,
    victim: u64,
    rename_flags: u32,
}

impl Sides {
    /// Of an operation on one name.
    #[inline(always)]
    fn one(dentry: u64) -> Self {
        Self {
            parent: dentry_parent(dentry),
            dentry,
            to_parent: 0,
            to_dentry: 0,
            victim: 0,
            rename_flags: 0,
        }
    }
}

/// Fills the names of a reserved record.
#[inline(always)]
fn fill_names(names: *mut NameBlock, sides: &Sides, reader: &mut Reader) {
    let victim_nlink = sides.victim + offset!(inode_nlink);
    // SAFETY: a reserved record.
    unsafe {
        (*names).parent = dir_state(reader, sides.parent);
        (*names).name_len = copy_name(reader, sides.dentry, &raw mut (*names).name);
        (*names).rename_flags = sides.rename_flags;
        (*names).target_len = 0;
        if sides.to_parent != 0 {
            (*names).to_parent = dir_state(reader, sides.to_parent);
            (*names).to_name_len = copy_name(reader, sides.to_dentry, &raw mut (*names).to_name);
        } else {
            (*names).to_parent.inode = NONE;
            (*names).to_name_len = 0;
        }
        if sides.victim != 0 {
            (*names).victim = inode_ref(reader, sides.victim);
            (*names).victim_nlink = reader.get(victim_nlink);
        } else {
            (*names).victim = NONE;
            (*names).victim_nlink = 0;
        }
    }
}

#[inline(always)]
fn lose_names(seq: u64, kind: EventKind, inode: u64, sides: &Sides) {
    let mut reader = Reader::new();
    let subject = inode_ref(&mut reader, inode);
    let parent = inode_ref(&mut reader, sides.parent);
    let to_parent: InodeRef = if sides.to_parent != 0 {
        inode_ref(&mut reader, sides.to_parent)
    } else {
        NONE
    };
    let flags = lost_flags::ENTRIES | lost_flags::ATTRS | lost_flags::CONTENT;
    lose(
        seq,
        subject,
        parent,
        to_parent,
        flags,
        kind as u32,
        core::mem::size_of::<NameRecord>() as u64,
    );
}

/// Emits a namespace event without a link target.
#[inline(always)]
fn emit_names(kind: EventKind, flags: u16, inode: u64, sides: &Sides) {
    emit::<NameRecord>(
        kind,
        inode,
        |seq| lose_names(seq, kind, inode, sides),
        |record, reader| {
            // SAFETY: a reserved record.
            unsafe { fill_names(&raw mut (*record).names, sides, reader) };
            (core::mem::size_of::<NameRecord>() as u32, flags)
        },
    );
}

/// Emits the creation of a symbolic link whose target stands at a kernel address.
#[inline(always)]
fn emit_symlink(flags: u16, inode: u64, sides: &Sides, target: u64) {
    emit::<SymlinkRecord>(
        EventKind::Create,
        inode,
        |seq| lose_names(seq, EventKind::Create, inode, sides),
        |record, reader| {
            // SAFETY: a reserved record.
            let copied = unsafe {
                fill_names(&raw mut (*record).names, sides, reader);
                let to = (&raw mut (*record).target).cast::<c_void>();
                bpf_probe_read_kernel_str(to, TARGET_BYTES as u32, target as *const c_void)
            };
            // With its NUL; an empty target cannot be.
            let length = if copied > 1 { copied as u32 - 1 } else { 0 } & 0xfff;
            reader.saw(i64::from(length == 0));
            // SAFETY: as above.
            unsafe { (*record).names.target_len = length };
            (core::mem::size_of::<NameRecord>() as u32 + length, flags)
        },
    );
}

/// An inode gets a name that was negative: create, mkdir, mknod, symlink, link. The directory is locked.
#[inline(always)]
pub(crate) fn instantiate(dentry: u64, inode: u64) {
    if !recorded(inode) {
        return;
    }
    let mut reader = Reader::new();
    let sides = Sides::one(dentry);
    let parent_ino: u64 = reader.get(sides.parent + offset!(inode_ino));
    if excluded(parent_ino) {
        exclude(reader.get(inode + offset!(inode_ino)));
        return;
    }
    if let Some(noted) = note_of(note::LINK)
        && noted.inode == inode
    {
        emit_names(EventKind::Link, 0, inode, &sides);
        return;
    }
    let flags = inherited_flag(&mut reader, inode);
    let mode: u16 = reader.get(inode + offset!(inode_mode));
    if mode & S_IFMT == S_IFLNK {
        let target = take_note(note::SYMLINK).map_or(0, |noted| noted.a);
        emit_symlink(flags, inode, &sides, target);
        return;
    }
    emit_names(EventKind::Create, flags, inode, &sides);
    emit_inherited_acls(inode);
}

#[inline(always)]
fn inherited_flag(reader: &mut Reader, inode: u64) -> u16 {
    if inherits(reader, inode) {
        event_flags::INHERITS
    } else {
        0
    }
}

/// An inode without a name.
#[inline(always)]
pub(crate) fn tmpfile(inode: u64) {
    if recorded(inode) {
        let flags = inherited_flag(&mut Reader::new(), inode);
        emit_bare(EventKind::Tmpfile, flags, inode);
        emit_inherited_acls(inode);
    }
}

#[inline(always)]
pub(crate) fn link_enter(old: u64) {
    let inode = dentry_inode(old);
    if recorded(inode) {
        put_note(
            note::LINK,
            &Note {
                inode,
                ..Note::default()
            },
        );
    }
}

#[inline(always)]
pub(crate) fn link_exit(_result: i64) {
    drop_note(note::LINK);
}

#[inline(always)]
pub(crate) fn symlink_enter(directory: u64, target: u64) {
    if recorded(directory) {
        put_note(
            note::SYMLINK,
            &Note {
                a: target,
                ..Note::default()
            },
        );
    }
}

#[inline(always)]
pub(crate) fn rename_enter(data: u64) {
    let mut reader = Reader::new();
    let old: u64 = reader.get(data + offset!(rename_old_dentry));
    if recorded(dentry_inode(old)) {
        let flags: u32 = reader.get(data + offset!(rename_flags));
        put_note(
            note::RENAME,
            &Note {
                a: u64::from(flags),
                ..Note::default()
            },
        );
    }
}

/// A new inode is complete. In a rename it is the whiteout, which gets its name without any of the hooks for new names: its name
/// is told together with the rename's.
#[inline(always)]
pub(crate) fn new_inode(inode: u64) {
    let Some(mut noted) = note_of(note::RENAME) else {
        return;
    };
    if noted.a & RENAME_WHITEOUT == 0 || !recorded(inode) {
        return;
    }
    let mut reader = Reader::new();
    let (mode, device): (u16, u32) = (
        reader.get(inode + offset!(inode_mode)),
        reader.get(inode + offset!(inode_rdev)),
    );
    if mode & S_IFMT != S_IFCHR || device != 0 {
        return;
    }
    tmpfile(inode);
    let key = inode_ref(&mut reader, inode);
    noted.inode = inode;
    (noted.b, noted.c) = (key.ino, u64::from(key.generation));
    put_note(note::RENAME, &noted);
}

/// unlink or rmdir has succeeded; the directory is still locked, the dentry still positive.
#[inline(always)]
pub(crate) fn delete(dentry: u64) {
    let inode = dentry_inode(dentry);
    if !recorded(inode) {
        return;
    }
    let mut reader = Reader::new();
    let sides = Sides::one(dentry);
    if excluded(reader.get(sides.parent + offset!(inode_ino))) {
        return;
    }
    let mode: u16 = reader.get(inode + offset!(inode_mode));
    let kind = if mode & S_IFMT == S_IFDIR {
        EventKind::Rmdir
    } else {
        EventKind::Unlink
    };
    emit_names(kind, 0, inode, &sides);
}

#[inline(always)]
fn moved(kind: EventKind, dentry: u64, target: u64) {
    let inode = dentry_inode(dentry);
    if !recorded(inode) {
        return;
    }
    let noted = take_note(note::RENAME).unwrap_or_default();
    let sides = Sides {
        parent: dentry_parent(dentry),
        dentry,
        to_parent: dentry_parent(target),
        to_dentry: target,
        victim: dentry_inode(target),
        rename_flags: noted.a as u32,
    };
    let mut reader = Reader::new();
    if excluded(reader.get(sides.parent + offset!(inode_ino)))
        && excluded(reader.get(sides.to_parent + offset!(inode_ino)))
    {
        return;
    }
    if noted.a & RENAME_WHITEOUT == 0 {
        emit_names(kind, 0, inode, &sides);
        return;
    }
    // The whiteout has its name and was let go of: it is still there unless memory is very short.
    let whiteout = inode_ref(&mut reader, noted.inode);
    let known = noted.inode != 0
        && recorded(noted.inode)
        && (whiteout.ino, u64::from(whiteout.generation)) == (noted.b, noted.c);
    if known {
        emit_names(kind, 0, inode, &sides);
        emit_names(EventKind::Link, 0, noted.inode, &Sides::one(dentry));
    } else {
        emit_names(kind, event_flags::WHITEOUT, inode, &sides);
    }
}

/// A rename has succeeded; both directories are locked, the dentries have their old names yet.
#[inline(always)]
pub(crate) fn rename(dentry: u64, target: u64) {
    moved(EventKind::Rename, dentry, target);
}

#[inline(always)]
pub(crate) fn exchange(dentry: u64, target: u64) {
    moved(EventKind::Exchange, dentry, target);
    // The event tells of one of the two only, and XFS changes the times of directories that get another parent.
    let other = dentry_inode(target);
    if recorded(other) {
        emit_attributes(other, 0);
    }
}

/// An inode leaves memory; without links it is gone.
#[inline(always)]
pub(crate) fn evict(inode: u64) {
    if !recorded(inode) {
        return;
    }
    let mut reader = Reader::new();
    let key = inode_ref(&mut reader, inode);
    let links: u32 = reader.get(inode + offset!(inode_nlink));
    if links == 0 {
        emit_bare(EventKind::Evict, 0, inode);
    }
    forget(&key, links == 0);
}
