//! Random operations of every kind by several threads and processes on the same few files: what a run does, and how it
//! is counted.
//!
//! It knows nothing of recording: where it runs, and what becomes of it afterwards, is the business of others. What the
//! kernel refuses is counted, never an error.

mod attributes;
mod content;
pub mod kinds;
mod names;
pub mod plan;
mod queued;
mod ranges;
mod run;
mod shared;
mod world;

pub use run::{Settings, Tally, run};
