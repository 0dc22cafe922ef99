//! What the eBPF programs and the recorder share: the layout of ring-buffer events, of the shared arrays and of the
//! load-time configuration.
//!
//! Owns layouts only: no logic, no dependencies, no allocation. It knows nothing of the journal: the record on the
//! medium is not the event in the ring. Every struct is `repr(C)`, of fixed-width integers, with explicit padding and
//! an asserted size; all integers are in host byte order (both sides run on the same machine).
#![no_std]

mod config;
mod event;
mod shared;

pub use config::{ABSENT, Config, INODE_BYTES_MAX, Offsets, Private, features};
pub use event::{
    Actor, AttrBody, DataBody, DirState, Event, EventKind, Head, InodeRef, InodeState, NameBlock, RangeBody,
    Time, XattrBody, event_flags,
};
pub use shared::{Counter, LOST_SLOTS, LostSlot, SEQ_SLOT_NEXT, lost_flags, throttle};

/// Changes whenever a layout or a kind here changes, or that of the recorder's own records in its spool; what a recorder of another version
/// left is not taken over.
pub const ABI_VERSION: u32 = 5;

/// Longest directory entry name in bytes, on every Linux file system.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symbolic link target in bytes (`PATH_MAX` less the terminating NUL).
pub const LINK_TARGET_BYTES_MAX: usize = 4095;
/// Longest extended attribute value in bytes (`XATTR_SIZE_MAX`).
pub const XATTR_VALUE_BYTES_MAX: usize = 65536;

/// Sizes in bytes of the data area of a ring-buffer record: a reservation must be constant for the verifier, so the
/// smallest class that holds the payload is taken. [`Head::size`] says how much of the record is meaningful.
pub const DATA_CLASSES: [usize; 10] = [128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
