//! Digest of a tree, entry by entry, and the comparison of two digests.

mod compare;
mod digest;
mod entry;
mod xattrs;

pub use compare::{Comparison, Difference, Options, compare};
pub use digest::digest;
pub use entry::{Entry, Kind};
