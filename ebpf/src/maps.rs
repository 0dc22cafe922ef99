//! The maps, and the few things that are done with them everywhere.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use abi::{Counter, InodeRef, LOST_SLOTS, LostSlot, SEQ_SLOT_NEXT, features};
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, RingBuf};

use crate::complain::{Complaint, complain};
use crate::kernel::config;

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(64 << 20, 0);
#[map]
static SEQ: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static COUNTERS: Array<u64> = Array::with_max_entries(Counter::Count as u32, BPF_F_MMAPABLE);
#[map]
static LOST: Array<LostSlot> = Array::with_max_entries(LOST_SLOTS, BPF_F_MMAPABLE);
/// Inode numbers that are not recorded: the spool, where it lies on the volume.
#[map]
static EXCLUDED: HashMap<u64, u8> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);
/// Inodes that are or were mapped writable since they came into memory, and when that was told last, in ns since boot.
#[map]
static MAPPED: HashMap<InodeRef, u64> = HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
/// What tasks are in the middle of. Operations that fail leave their note behind, so the oldest notes give way.
#[map]
static NOTES: LruHashMap<NoteKey, Note> = LruHashMap::with_max_entries(65536, 0);

/// A task and a kind of operation: one kind may be nested in another (a write that drops capabilities, say).
#[repr(C)]
#[derive(Clone, Copy)]
struct NoteKey {
    task: u64,
    kind: u64,
}

/// What a task is in the middle of.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Note {
    pub(crate) inode: u64,
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) c: u64,
    pub(crate) d: u64,
    pub(crate) seq: u64,
}

/// Maps by number, for complaints.
mod map_id {
    pub(super) const EXCLUDED: u64 = 1;
    pub(super) const MAPPED: u64 = 2;
    pub(super) const NOTES: u64 = 3;
}

/// That an inode is stored to through a mapping is told at most this often.
const MAPPED_TELL_NS: u64 = 1_000_000_000;

/// Kinds of notes.
pub(crate) mod note {
    pub(crate) const LINK: u64 = 1;
    pub(crate) const SYMLINK: u64 = 2;
    pub(crate) const RENAME: u64 = 3;
    pub(crate) const FALLOCATE: u64 = 4;
    pub(crate) const REMAP: u64 = 5;
    pub(crate) const CHANGE: u64 = 6;
    pub(crate) const ACL: u64 = 7;
    pub(crate) const CAPABILITY: u64 = 8;
    pub(crate) const TIMES: u64 = 9;
}

/// Adds atomically and returns what was there. The target has no compare-and-swap, so `core`'s atomics lack this.
///
/// # Safety
/// `slot` must be valid and aligned.
#[inline(always)]
unsafe fn add(slot: *mut u64, amount: u64) -> u64 {
    // SAFETY: as the caller says.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(slot, amount) }
}

/// Takes the next sequence number.
#[inline(always)]
pub(crate) fn next_seq() -> u64 {
    match SEQ.get_ptr_mut(SEQ_SLOT_NEXT) {
        // SAFETY: a slot of the map, aligned, shared by atomic operations only.
        Some(slot) => unsafe { add(slot, 1) },
        None => 0,
    }
}

/// Adds to a counter.
#[inline(always)]
pub(crate) fn count(counter: Counter, amount: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: as above.
        unsafe { add(slot, amount) };
    }
}

/// Writes down an operation that found no place in the ring.
#[inline(always)]
pub(crate) fn lose(
    seq: u64,
    inode: InodeRef,
    parent: InodeRef,
    to_parent: InodeRef,
    flags: u32,
    kind: u32,
    bytes: u64,
) {
    count(Counter::Dropped, 1);
    count(Counter::DroppedBytes, bytes);
    let Some(head) = COUNTERS.get_ptr_mut(Counter::LostHead as u32) else {
        return;
    };
    // SAFETY: as above.
    let at = unsafe { add(head, 1) };
    let Some(slot) = LOST.get_ptr_mut((at % u64::from(LOST_SLOTS)) as u32) else {
        return;
    };
    // SAFETY: a slot of the map; its number makes it this program's own until the array has gone round.
    unsafe {
        (&raw mut (*slot).seq).write_volatile(0);
        (*slot).inode = inode;
        (*slot).parent = parent;
        (*slot).to_parent = to_parent;
        (*slot).flags = flags;
        (*slot).kind = kind;
        (&raw mut (*slot).seq).write_volatile(seq);
    }
}

/// Whether an inode number is excluded.
#[inline(always)]
pub(crate) fn excluded(ino: u64) -> bool {
    config!(features) & features::HAS_EXCLUDED != 0 && EXCLUDED.get_ptr(ino).is_some()
}

/// Excludes what was made in an excluded directory.
#[inline(always)]
pub(crate) fn exclude(ino: u64) {
    if EXCLUDED.insert(ino, 1, 0).is_err() {
        count(Counter::MapFull, 1);
        complain(Complaint::MapFull, map_id::EXCLUDED, ino);
    }
}

/// Forgets everything about an inode that is leaving memory. Its exclusion goes only when it dies.
#[inline(always)]
pub(crate) fn forget(inode: &InodeRef, dies: bool) {
    let _ = MAPPED.remove(inode);
    if dies && config!(features) & features::HAS_EXCLUDED != 0 {
        let _ = EXCLUDED.remove(inode.ino);
    }
}

/// What is to be told when a page of an inode becomes writable.
#[derive(PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing: it was told a moment ago.
    Told,
    /// That it does.
    Tell,
    /// That its content is lost: the map is full.
    Full,
}

/// Marks an inode as mapped writable.
#[inline(always)]
pub(crate) fn mark_mapped(inode: &InodeRef, now_ns: u64) -> Mark {
    if let Some(told_ns) = MAPPED.get_ptr_mut(inode) {
        // SAFETY: a value of the map, of which a race at worst tells twice.
        let told_ns = unsafe { &mut *told_ns };
        if now_ns < *told_ns + MAPPED_TELL_NS {
            return Mark::Told;
        }
        *told_ns = now_ns;
        return Mark::Tell;
    }
    if MAPPED.insert(inode, now_ns, 0).is_ok() {
        return Mark::Tell;
    }
    count(Counter::MapFull, 1);
    complain(Complaint::MapFull, map_id::MAPPED, inode.ino);
    Mark::Full
}

/// Whether an inode is or was mapped writable.
#[inline(always)]
pub(crate) fn is_mapped(inode: &InodeRef) -> bool {
    MAPPED.get_ptr(inode).is_some()
}

#[inline(always)]
fn note_key(kind: u64) -> NoteKey {
    NoteKey {
        task: bpf_get_current_pid_tgid(),
        kind,
    }
}

/// Notes what this task begins.
#[inline(always)]
pub(crate) fn put_note(kind: u64, note: &Note) {
    let key = note_key(kind);
    if NOTES.insert(key, note, 0).is_err() {
        count(Counter::MapFull, 1);
        complain(Complaint::MapFull, map_id::NOTES, key.task);
    }
}

/// Notes what this task begins and will tell the end of: an older note of the kind means that its end was missed.
#[inline(always)]
pub(crate) fn begin_note(kind: u64, note: &Note) {
    if let Some(older) = note_of(kind) {
        count(Counter::ExitMissed, 1);
        complain(Complaint::ExitMissed, kind, older.inode);
    }
    put_note(kind, note);
}

/// What this task is in the middle of, if it is of this kind.
#[inline(always)]
pub(crate) fn note_of(kind: u64) -> Option<Note> {
    // SAFETY: only this task writes its note.
    Some(unsafe { NOTES.get_ptr(note_key(kind))?.read() })
}

/// This task is done with it.
#[inline(always)]
pub(crate) fn drop_note(kind: u64) {
    let _ = NOTES.remove(note_key(kind));
}

/// Takes the note away.
#[inline(always)]
pub(crate) fn take_note(kind: u64) -> Option<Note> {
    let note = note_of(kind)?;
    drop_note(kind);
    Some(note)
}
