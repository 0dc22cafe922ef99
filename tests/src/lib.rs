//! What the tests are made of: the oracle (does the restored tree equal the live one?), the generator of random
//! operations, the operations of the matrix, and made-up histories for benchmarks.
//!
//! None of them but the last knows of journals or media: they look at directories only, so that they can contradict everything else here.

pub mod generator;
pub mod history;
pub mod ops;
pub mod oracle;
pub mod random;
