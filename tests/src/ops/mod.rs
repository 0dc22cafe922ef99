//! The operations of the matrix: every way a file can change, each a small scenario in a directory of its own.
//!
//! Owns the table of operations. What an operation does is in the file of its family, what it declares in `declare`,
//! how a run is made in `run`. Nothing here records, restores or compares.

mod aio;
mod attributes;
mod clone;
mod create;
mod declare;
mod ioctls;
mod layers;
mod mapped;
mod names;
mod order;
mod remove;
mod run;
mod size;
mod splice;
mod sys;
mod util;
mod write;
mod xattrs;

pub use declare::{Context, FileSystem, Limit, Operation, Release};
pub use run::{Cell, Line, Outcome, one, run};

/// The files of operations, by family, in the order in which a run does them. A mark follows each family; the last is
/// the largest, and after it only the end is restored.
const FAMILIES: [(&str, &[Operation]); 15] = [
    ("write", write::OPERATIONS),
    ("write", aio::OPERATIONS),
    ("copy", splice::OPERATIONS),
    ("copy", clone::OPERATIONS),
    ("mmap", mapped::OPERATIONS),
    ("ranges", size::OPERATIONS),
    ("ranges", ioctls::RANGES),
    ("names", create::OPERATIONS),
    ("names", remove::OPERATIONS),
    ("attributes", attributes::OPERATIONS),
    ("attributes", xattrs::OPERATIONS),
    ("order", order::OPERATIONS),
    ("layers", layers::OPERATIONS),
    // After some of these everything is read again, which must not count for the others.
    ("ioctls", ioctls::OPERATIONS),
    ("limits", names::OPERATIONS),
];

/// Every operation with its family.
pub fn all() -> impl Iterator<Item = (&'static str, &'static Operation)> {
    FAMILIES
        .into_iter()
        .flat_map(|(family, operations)| operations.iter().map(move |operation| (family, operation)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::all;

    #[test]
    fn names_are_unique_and_fit_as_directories() {
        let mut seen = BTreeSet::new();
        for (_, operation) in all() {
            assert!(seen.insert(operation.name), "{} twice", operation.name);
            let plain = operation
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            assert!(plain, "{}", operation.name);
        }
        assert!(seen.len() > 100);
    }
}
