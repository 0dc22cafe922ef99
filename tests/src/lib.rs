//! What the tests are made of: the oracle (does the restored tree equal the live one?), the generator of random
//! operations, and the operations of the matrix.
//!
//! None of them knows of journals or media: they look at directories only, so that they can contradict everything else here.

pub mod generator;
pub mod ops;
pub mod oracle;
pub mod random;
