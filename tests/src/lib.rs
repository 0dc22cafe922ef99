//! The oracle: does the restored tree equal the live one? Owns the digest of a tree and the comparison of two.
//!
//! It knows nothing of journals or media: it looks at directories only, so that it can contradict everything else here.

pub mod oracle;
