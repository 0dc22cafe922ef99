//! Looks into the past: the tree of a moment is listed, searched, read, mounted and compared without being restored, and the journal is asked what
//! happened to a path. Reads metadata, and of the data only what is asked for; writes nothing anywhere.

mod cat;
mod content;
mod diff;
mod find;
mod history;
mod list;
mod mount;
mod tree;

pub(crate) use cat::run as cat;
pub(crate) use diff::run as diff;
pub(crate) use find::run as find;
pub(crate) use history::run as history;
pub(crate) use list::run as ls;
pub(crate) use mount::run as mount;
