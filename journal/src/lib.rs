//! The journal: what is written on media, and what it means.

mod convert;
mod error;
pub mod record;
mod schema;
pub mod store;
pub use error::{Error, Result};