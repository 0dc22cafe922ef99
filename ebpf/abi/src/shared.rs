//! Arrays that both sides map: the sequence counter, the counters of trouble, and what was lost.

use core::mem::size_of;

use crate::InodeRef;

/// Slot of the array map `SEQ` (u64, mmap-able) with the next sequence number. The programs take theirs by atomic
/// fetch-and-add under the kernel's lock; the recorder takes numbers for its own records (snapshots, marks) in the same way
/// through its mapping, so that one order holds for both.
pub const SEQ_SLOT_NEXT: u32 = 0;

/// Slots of the array map `COUNTERS` (u64, mmap-able).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Events handed to the ring.
    Submitted = 0,
    /// Events that found the ring full.
    Dropped = 1,
    /// Bytes of record size that found the ring full.
    DroppedBytes = 2,
    /// Kernel reads that failed.
    ReadFailed = 3,
    /// Map insertions that failed (mark of a mapped inode, operation in flight).
    MapFull = 4,
    /// Operations that succeeded past the hook under the lock: read anew, since their place in the order is not known.
    Unpaired = 5,
    /// Next slot of the array `LOST`, counting without end; the slot is this modulo [`LOST_SLOTS`].
    LostHead = 6,
    /// Write-backs of mapped folios.
    MapWriteBack = 7,
    /// Operations whose end a return probe did not see.
    ExitMissed = 8,
    /// Nanoseconds that writers were held.
    HeldNs = 9,
    /// Number of counters.
    Count = 10,
}

/// Slots of the array map `THROTTLE` (u64, mmap-able), by which the recorder asks the programs to slow writers down.
pub mod throttle {
    /// Until when, in nanoseconds of the monotonic clock: a wish ends by itself, whatever becomes of the recorder.
    pub const UNTIL_NS: u32 = 0;
    /// Nanoseconds that a writer is held for each KiB of content.
    pub const NS_PER_KIB: u32 = 1;
    /// A writer is held, too, while more bytes than these wait in the ring.
    pub const RING_BYTES: u32 = 2;
    /// Number of slots.
    pub const SLOTS: u32 = 3;
    /// Longest time that one event holds a writer, in nanoseconds: nothing else runs on its processor meanwhile.
    pub const HOLD_NS_MAX: u64 = 10_000_000;
}

/// Slots of the array map `LOST` (mmap-able).
pub const LOST_SLOTS: u32 = 65536;

/// Bits of [`LostSlot::flags`].
pub mod lost_flags {
    /// Content in the range was lost.
    pub const CONTENT: u32 = 1;
    /// Attributes or extended attributes were lost.
    pub const ATTRS: u32 = 2;
    /// Entries of the directories named were lost.
    pub const ENTRIES: u32 = 4;
}

/// One operation whose event did not reach the ring: enough to repair it by snapshots.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostSlot {
    /// Sequence number, written last; 0 while the slot is being filled.
    pub seq: u64,
    /// The inode.
    pub inode: InodeRef,
    /// Directory whose entries changed; ino 0 where none.
    pub parent: InodeRef,
    /// Second directory of a rename; ino 0 where none.
    pub to_parent: InodeRef,
    /// Bits of [`lost_flags`].
    pub flags: u32,
    /// The event's [`crate::EventKind`].
    pub kind: u32,
}

const _: () = assert!(size_of::<LostSlot>() == 64);
