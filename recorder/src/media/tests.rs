//! The catalog, and what it says of media that are not there.

use journal::store::disk::SystemDisk;

use super::catalog::{Catalog, Holding, Known, Medium};
use super::show::{chains, list_as_text};
use super::*;

fn known(epoch: u64, index: u64, kind: journal::PointKind, seq: u64) -> Known {
    Known {
        epoch,
        index,
        point: journal::Point {
            kind,
            seq,
            time_ns: i64::try_from(seq).unwrap() * 1_000_000_000,
            name: if kind == journal::PointKind::Mark {
                format!("mark-{seq}")
            } else {
                String::new()
            },
            since_seq: None,
            continues: None,
        },
    }
}

fn medium(name: &str, segments: &[(u64, u64)], points: Vec<Known>) -> Medium {
    Medium {
        uuid: format!("uuid-{name}"),
        name: name.to_owned(),
        pool: String::new(),
        copies: false,
        verified: None,
        retired: None,
        holds: vec![Holding {
            volume: "v".to_owned(),
            named: "host:/srv".to_owned(),
            chain: "c".to_owned(),
            segments: segments.to_vec(),
            bytes: 10,
            times: (0, 90_000_000_000),
            points,
            before: vec![("tape-1 (uuid-tape-1)".to_owned(), vec![(1, 3)])],
        }],
    }
}

fn catalog(media: Vec<Medium>) -> Catalog {
    let dir = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::read_from(&SystemDisk, &dir.path().join("none")).unwrap();
    media.into_iter().for_each(|medium| catalog.put(medium));
    catalog
}

fn first() -> Medium {
    use journal::PointKind::{BaseBegin, BaseEnd, Mark};
    medium(
        "tape-1",
        &[(1, 3)],
        vec![
            known(1, 1, BaseBegin, 1),
            known(1, 1, BaseEnd, 5),
            known(1, 2, Mark, 20),
        ],
    )
}

#[test]
fn it_is_kept_whole_and_garbage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sub").join("catalog.json");
    let catalog = catalog(vec![first()]);
    catalog.write_to(&SystemDisk, &path).unwrap();
    assert_eq!(
        Catalog::read_from(&SystemDisk, &path).unwrap().media,
        catalog.media
    );
    std::fs::write(&path, b"{").unwrap();
    let error = Catalog::read_from(&SystemDisk, &path).unwrap_err();
    assert!(error.to_string().contains("recorder media scan"), "{error}");
}

#[test]
fn what_can_be_rebuilt_depends_on_the_media_that_are_known() {
    let second = medium(
        "tape-2",
        &[(4, 6)],
        vec![known(1, 5, journal::PointKind::Mark, 50)],
    );
    let both = chains(&catalog(vec![second.clone(), first()]));
    assert_eq!(both[0]["missing"], json!([]));
    assert_eq!(both[0]["rebuilds"][0]["marks"], json!(["mark-20", "mark-50"]));
    let alone = chains(&catalog(vec![second]));
    assert_eq!(alone[0]["missing"][0]["segments"], json!([1, 3]));
    assert_eq!(alone[0]["missing"][0]["medium"], json!(["tape-1 (uuid-tape-1)"]));
    assert_eq!(alone[0]["rebuilds"], json!([]));
    let text = list_as_text(&json!({ "media": [], "chains": alone }));
    assert!(text.contains("segments 1 to 3 are not known here"), "{text}");
    assert!(text.contains("nothing of it can be rebuilt"), "{text}");
}

#[test]
fn the_only_copy_of_something_is_not_retired() {
    let copy = |segments| Medium {
        copies: true,
        ..medium("copies", segments, Vec::new())
    };
    let without = catalog(vec![first()]);
    assert!(without.check_retire(&first()).is_err());
    let half = catalog(vec![first(), copy(&[(1, 2)])]);
    let error = half.check_retire(&first()).unwrap_err();
    assert!(error.to_string().contains("only copy of segments 3"), "{error}");
    let whole = catalog(vec![first(), copy(&[(1, 3)])]);
    whole.check_retire(&first()).unwrap();
    let retired = Medium {
        retired: Some(1),
        ..copy(&[(1, 3)])
    };
    assert!(catalog(vec![first(), retired]).check_retire(&first()).is_err());
}
