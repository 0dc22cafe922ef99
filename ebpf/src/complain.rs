//! What the programs have to say to whoever looks after the recorder: trouble, once in a while, as text.
//!
//! Everything here is also counted (`COUNTERS`) and acted upon; the text only says where to look.

use aya_log_ebpf::warn;

/// What went wrong.
#[derive(Clone, Copy)]
pub(crate) enum Complaint {
    /// Kernel memory could not be read: event kind, inode number.
    ReadFailed = 1,
    /// A map is full: which (a letter), inode number or task.
    MapFull = 2,
    /// An operation began while the same task's operation of that kind had not ended: kind of note, inode number.
    ExitMissed = 3,
}

/// Says it.
#[inline(always)]
pub(crate) fn complain(what: Complaint, one: u64, other: u64) {
    say(what as u64, one, other);
}

/// A function of its own with nothing but numbers for arguments: the verifier looks at it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn say(what: u64, one: u64, other: u64) -> u64 {
    const READ_FAILED: u64 = Complaint::ReadFailed as u64;
    const MAP_FULL: u64 = Complaint::MapFull as u64;
    match what {
        READ_FAILED => warn!(
            what,
            "kernel memory could not be read: event kind {}, inode {}", one, other
        ),
        MAP_FULL => warn!(what, "map {} is full: inode or task {}", one, other),
        _ => warn!(
            what,
            "the end of an operation was missed: kind {}, inode {}", one, other
        ),
    }
    0
}
