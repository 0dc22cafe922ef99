//! The pipeline without a kernel: events are fed as the ring would give them, the medium is a store that does as it is told.

mod away;
mod crash;
mod dead;
mod ends;
mod medium;
mod order;
mod resume;
mod rig;
mod stalls;
