//! What the tests are made of: the oracle (does the restored tree equal the live one?), and the generator of random
//! operations.
//!
//! Neither knows of journals or media: they look at directories only, so that they can contradict everything else here.

pub mod generator;
pub mod oracle;
pub mod random;
