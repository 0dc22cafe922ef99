//! Digest of a tree, entry by entry, and the comparison of two digests.

mod compare;
mod digest;
mod entry;
mod flags;
mod ranges;
mod xattrs;

pub use compare::{Comparison, Difference, Options, compare};
pub use digest::digest;
pub use entry::{Entry, Kind};
pub use flags::Held;
