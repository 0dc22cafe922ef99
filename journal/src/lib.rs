//! The journal: what is written on media, and what it means.

pub mod record;
