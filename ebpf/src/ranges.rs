//! Operations on ranges that take their number before they act: fallocate and reflink.

use abi::{EventKind, Head, InodeRef, RangeBody, event_flags, lost_flags};

use crate::emit::{NONE, Record, emit};
use crate::kernel::{Reader, file_inode, inode_ref, offset, recorded};
use crate::maps::{Note, begin_note, count, drop_note, excluded, lose, note, note_of, put_note, take_note};

/// `REMAP_FILE_DEDUP`.
const REMAP_DEDUP: u64 = 1;

#[repr(C)]
struct RangeRecord {
    head: Head,
    body: RangeBody,
}

// SAFETY: it begins with its head.
unsafe impl Record for RangeRecord {}

/// Emits an event about a range and returns its sequence number; 0 where the inode is excluded.
#[inline(always)]
pub(crate) fn emit_range(kind: EventKind, inode: u64, body: RangeBody) -> u64 {
    if excluded(Reader::new().get(inode + offset!(inode_ino))) {
        return 0;
    }
    let bytes = core::mem::size_of::<RangeRecord>();
    emit::<RangeRecord>(
        kind,
        inode,
        |seq| {
            let subject = inode_ref(&mut Reader::new(), inode);
            let flags = lost_flags::CONTENT | lost_flags::ATTRS;
            lose(seq, subject, NONE, NONE, flags, kind as u32, bytes as u64);
        },
        |record, _| {
            // SAFETY: a reserved record.
            unsafe { (*record).body = body };
            (bytes as u32, 0)
        },
    )
}

#[inline(always)]
pub(crate) fn fallocate_enter(file: u64, mode: u64, start: u64, length: u64) {
    let inode = file_inode(file);
    if recorded(inode) {
        begin_note(
            note::FALLOCATE,
            &Note {
                inode,
                a: mode & 0xffff_ffff,
                b: start,
                c: length,
                ..Note::default()
            },
        );
    }
}

/// Every file system calls this under the inode's lock before it changes the file.
#[inline(always)]
pub(crate) fn file_modified(file: u64) {
    if let Some(noted) = note_of(note::FALLOCATE) {
        under_lock(noted, file_inode(file));
    }
}

/// So it does this, a moment before: a hook that no buffered write passes.
#[inline(always)]
pub(crate) fn dio_wait(inode: u64) {
    if let Some(noted) = note_of(note::FALLOCATE) {
        under_lock(noted, inode);
    }
}

#[inline(always)]
fn under_lock(mut noted: Note, inode: u64) {
    if inode != noted.inode || noted.seq != 0 {
        return;
    }
    let body = RangeBody {
        offset: noted.b,
        length: noted.c,
        mode: noted.a as u32,
        ..RangeBody::default()
    };
    noted.seq = emit_range(EventKind::Fallocate, inode, body);
    put_note(note::FALLOCATE, &noted);
}

#[inline(always)]
pub(crate) fn fallocate_exit(result: i64) {
    let Some(noted) = take_note(note::FALLOCATE) else {
        return;
    };
    let result = i64::from(result as i32);
    if noted.seq != 0 {
        end(EventKind::FallocateEnd, &noted, noted.a as u32, result);
    } else if result == 0 {
        // It succeeded and never passed the hook under the lock: its place in the order is not known.
        let flags = event_flags::WANT_CONTENT | event_flags::WANT_ATTRS;
        count(abi::Counter::Unpaired, 1);
        crate::attributes::emit_bare(EventKind::Changed, flags, noted.inode);
    }
}

#[inline(always)]
fn end(kind: EventKind, noted: &Note, mode: u32, result: i64) {
    let body = RangeBody {
        offset: noted.b,
        length: noted.c,
        mode,
        of_seq: noted.seq,
        result,
        ..RangeBody::default()
    };
    emit_range(kind, noted.inode, body);
}

/// Arguments of generic_remap_file_range_prep: (source, offset, target, offset, &length, flags).
#[inline(always)]
pub(crate) fn remap_enter(source: u64, source_offset: u64, target: u64, start: u64, length: u64, flags: u64) {
    let inode = file_inode(target);
    if flags & REMAP_DEDUP == 0 && recorded(inode) {
        begin_note(
            note::REMAP,
            &Note {
                inode,
                a: file_inode(source),
                b: start,
                c: length,
                d: source_offset,
                seq: 0,
            },
        );
    }
}

/// The range is checked, both inodes are locked, nothing is changed yet.
#[inline(always)]
pub(crate) fn remap_prep_exit(result: i64) {
    let Some(mut noted) = note_of(note::REMAP) else {
        return;
    };
    let mut reader = Reader::new();
    let length: u64 = reader.get(noted.c);
    if result as i32 != 0 || length == 0 {
        drop_note(note::REMAP);
        return;
    }
    let source: InodeRef = inode_ref(&mut reader, noted.a);
    let body = RangeBody {
        offset: noted.b,
        length,
        source,
        source_offset: noted.d,
        ..RangeBody::default()
    };
    noted.c = length;
    noted.seq = emit_range(EventKind::Clone, noted.inode, body);
    put_note(note::REMAP, &noted);
}

/// The file system's remap_file_range is over: bytes done, or an error.
#[inline(always)]
pub(crate) fn remap_exit(result: i64) {
    let Some(noted) = take_note(note::REMAP) else {
        return;
    };
    if noted.seq != 0 {
        end(EventKind::CloneEnd, &noted, 0, result);
        // What lies in another subvolume is not in the journal: there is nothing to clone from.
        if !recorded(noted.a) {
            let flags = event_flags::WANT_CONTENT | event_flags::WANT_ATTRS;
            crate::attributes::emit_bare(EventKind::Changed, flags, noted.inode);
        }
    }
}
