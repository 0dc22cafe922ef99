//! The made-up past: what its journal folds to is the tree that is made beside it, and the same shape gives the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use journal::fold::{Inode, State};
use journal::record::InodeKey;
use journal::store::DirStore;
use journal::{Projection, Reader};
use tests::history::{Order, Shape, make};

fn shape(order: Order) -> Shape {
    Shape {
        files: 120,
        small_bytes_max: 4096,
        large_bytes: 3 << 20,
        overwrites: 3,
        piece_bytes_max: 64 << 10,
        order,
        seed: 5,
    }
}

/// Content by path, as the journal has it at its end.
fn folded(medium: &Path) -> BTreeMap<String, Vec<u8>> {
    let store = DirStore::open(medium).expect("a medium");
    let reader = Reader::open(vec![Arc::new(store)]).expect("a journal");
    let journal = reader.journal(None).expect("one journal");
    let (mut state, mut data) = (State::new(), BTreeMap::new());
    for segment in journal.segments() {
        for item in segment.records(Projection::All).expect("a segment") {
            let (row, record) = item.expect("a record");
            state.apply(row, &record);
            if let journal::record::Op::Write { data: bytes, .. } = record.op {
                data.insert(row, bytes);
            }
        }
    }
    let content = |inode: &Inode| {
        let mut content = vec![0; inode.size as usize];
        for extent in inode.extents.iter() {
            let from = &data[&extent.source.row][extent.source.offset as usize..];
            let (at, length) = (extent.offset as usize, extent.length as usize);
            content[at..at + length].copy_from_slice(&from[..length]);
        }
        content
    };
    let inode = |key: InodeKey| state.inode(key).expect("an inode");
    let root = inode(state.root().expect("a root"));
    let text = |name: &Vec<u8>| String::from_utf8(name.clone()).expect("a name");
    let mut files = BTreeMap::new();
    for (directory, key) in &root.entries {
        for (name, key) in &inode(*key).entries {
            files.insert(
                format!("{}/{}", text(directory), text(name)),
                content(inode(*key)),
            );
        }
    }
    files
}

fn read(tree: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for directory in fs::read_dir(tree).expect("a tree") {
        let directory = directory.expect("a directory").path();
        for file in fs::read_dir(&directory).expect("a directory") {
            let path = file.expect("a file").path();
            let name = path.strip_prefix(tree).expect("below").display().to_string();
            files.insert(name, fs::read(&path).expect("content"));
        }
    }
    files
}

#[test]
fn the_journal_gives_the_tree_in_either_order() {
    let mut trees = Vec::new();
    for order in [Order::Rounds, Order::Mixed] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (medium, tree) = (directory.path().join("medium"), directory.path().join("tree"));
        fs::create_dir(&medium).expect("make");
        let made = make(&shape(order), &medium, Some(&tree), true).expect("made");
        let files = read(&tree);
        assert_eq!(files.len(), 121);
        assert_eq!(files, folded(&medium), "{order:?}");
        let bytes: usize = files.values().map(Vec::len).sum();
        assert_eq!(
            (made.tree_bytes, made.written_bytes),
            (bytes as u64, bytes as u64 * 4)
        );
        assert_eq!(made.entries, 121 + 4);
        // About half, as the page about benchmarks says.
        let half = made.written_bytes as f64 / made.zstd_bytes as f64;
        assert!((1.8..2.3).contains(&half), "{half}");
        trees.push(files);
    }
    assert_eq!(trees[0], trees[1], "the tree does not depend on the order");
}
