//! Somebody else is at work in the target while it is restored to: nothing outside is touched.

use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn a_link_planted_while_restoring_leads_nowhere() {
    let directory_ = tempfile::tempdir().expect("a temporary directory");
    let (inside, outside) = (directory_.path().join("in"), directory_.path().join("out"));
    std::fs::create_dir(&inside).expect("make");
    std::fs::create_dir(&outside).expect("make");
    std::fs::write(outside.join("f"), "safe").expect("write");
    let attributes = Attributes {
        size: Some(4),
        ..inode(libc::S_IFREG | 0o644, 1).attributes
    };
    let (mut plan, index) = plan([
        (1, directory(0o755, 1, &[(b"d", 2)])),
        (2, directory(0o755, 1, &[(b"f", 3)])),
        (
            3,
            RawInode {
                attributes,
                ..RawInode::default()
            },
        ),
    ]);
    let row = RowRef::default();
    plan.pieces = vec![Piece {
        row,
        data_offset: 0,
        node: index[&key(3)],
        offset: 0,
        length: 4,
    }];
    // Between names and data somebody puts a link that leads out in the place of the file, or of its directory.
    let is_safe = || {
        assert_eq!(std::fs::read(outside.join("f")).expect("outside"), b"safe");
        assert_eq!(std::fs::metadata(outside.join("f")).expect("outside").uid(), 0);
        assert_eq!(std::fs::read_dir(&outside).expect("outside").count(), 1);
    };
    let target = open_directory(&inside).expect("open");
    let problems = execute(&plan, target, Problems::default(), |write| {
        std::os::unix::fs::symlink(outside.join("f"), inside.join("d/f")).expect("swap");
        write(row, b"evil")
    });
    is_safe();
    let problems = problems.expect("the rest is restored");
    assert!(
        problems.kept.iter().any(|problem| problem.contains("make /d/f")),
        "{:?}",
        problems.kept
    );

    std::fs::remove_dir_all(inside.join("d")).expect("clear");
    let target = open_directory(&inside).expect("open");
    let result = execute(&plan, target, Problems::default(), |write| {
        std::fs::remove_dir(inside.join("d")).expect("swap");
        std::os::unix::fs::symlink(&outside, inside.join("d")).expect("swap");
        write(row, b"evil")
    });
    is_safe();
    assert!(result.is_err());
}

#[test]
fn a_file_swapped_between_its_pieces_is_not_followed() {
    let directory_ = tempfile::tempdir().expect("a temporary directory");
    let (inside, outside) = (directory_.path().join("in"), directory_.path().join("out"));
    std::fs::create_dir(&inside).expect("make");
    std::fs::write(&outside, "safe").expect("write");
    let count = 600;
    let names: Vec<String> = (0..count).map(|number| format!("f{number}")).collect();
    let entries: Vec<(&[u8], u64)> = names
        .iter()
        .zip(2..)
        .map(|(name, ino)| (name.as_bytes(), ino))
        .collect();
    let attributes = Attributes {
        size: Some(8),
        ..inode(libc::S_IFREG | 0o644, 1).attributes
    };
    let file = RawInode {
        attributes,
        ..RawInode::default()
    };
    let files = (2..2 + count).map(|ino| (ino, file.clone()));
    let (mut plan, index) = plan([(1, directory(0o755, 1, &entries))].into_iter().chain(files));
    let row = |half: u32| RowRef {
        segment: half,
        row: 0,
    };
    for half in 0..2 {
        plan.pieces.extend((2..2 + count).map(|ino| Piece {
            row: row(half),
            data_offset: 0,
            node: index[&key(ino)],
            offset: u64::from(half) * 4,
            length: 4,
        }));
    }
    // More files than stay open: the first is opened again for its second half.
    let target = open_directory(&inside).expect("open");
    let result = execute(&plan, target, Problems::default(), |write| {
        write(row(0), b"good")?;
        std::fs::remove_file(inside.join("f0")).expect("swap");
        std::os::unix::fs::symlink(&outside, inside.join("f0")).expect("swap");
        write(row(1), b"evil")
    });
    assert!(result.is_err());
    assert_eq!(std::fs::read(&outside).expect("outside"), b"safe");
}
