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
    let path = dir.path().join("sub/catalog/catalog.json");
    let catalog = catalog(vec![first()]);
    let enter = |medium: Medium| {
        Catalog::change_at(&path, |catalog| {
            catalog.put(medium);
            Ok(())
        })
    };
    enter(first()).unwrap();
    assert_eq!(
        Catalog::read_from(&SystemDisk, &path).unwrap().media,
        catalog.media
    );
    let failed: Result<()> = Catalog::change_at(&path, |catalog| {
        catalog.media.clear();
        Err(anyhow::anyhow!("told to fail"))
    });
    assert!(failed.is_err());
    let retired = Medium {
        retired: Some(1),
        ..first()
    };
    enter(retired.clone()).unwrap();
    enter(first()).unwrap();
    assert_eq!(
        Catalog::read_from(&SystemDisk, &path).unwrap().media,
        [retired],
        "a look at the medium does not tell that it is retired"
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

#[test]
fn who_enters_what_a_medium_holds_of_a_volume_does_not_forget_another() {
    let of = |volume: &str, segments: &[(u64, u64)]| {
        let mut medium = medium("shared", segments, Vec::new());
        volume.clone_into(&mut medium.holds[0].volume);
        medium
    };
    let mut catalog = catalog(vec![of("a", &[(1, 5)])]);
    let mut stale = of("b", &[(1, 2)]);
    stale.holds.extend(of("a", &[(1, 1)]).holds);
    stale.holds.extend(of("another", &[(7, 7)]).holds);
    catalog.put_of("b", stale);
    let mut held: Vec<(&str, &[(u64, u64)])> = catalog.media[0]
        .holds
        .iter()
        .map(|held| (held.volume.as_str(), held.segments.as_slice()))
        .collect();
    held.sort_unstable();
    assert_eq!(
        held,
        [("a", &[(1, 5)][..]), ("another", &[(7, 7)]), ("b", &[(1, 2)])]
    );
}

#[test]
fn what_is_put_on_a_medium_is_entered_segment_by_segment_as_a_look_at_it_would() {
    let manifest = |index: u64| -> journal::Manifest {
        let mut manifest: journal::Manifest = serde_json::from_str(MANIFEST).unwrap();
        manifest.index = index;
        (manifest.first_time_ns, manifest.last_time_ns) = (i64::try_from(index).unwrap(), 100);
        manifest.points = vec![known(1, index, journal::PointKind::Mark, index * 10).point];
        manifest
    };
    let mut medium = Medium {
        holds: Vec::new(),
        ..first()
    };
    // The newest first, then what was sealed before.
    for index in [4, 2, 3, 3, 7] {
        medium.take(&manifest(index));
    }
    let [held] = &medium.holds[..] else {
        panic!("{:?}", medium.holds)
    };
    assert_eq!(held.segments, [(2, 4), (7, 7)]);
    assert_eq!((held.bytes, held.times), (4 * 5, (2, 100)));
    assert_eq!(held.points.len(), 4);
    assert_eq!(held.named, "host:/srv");
    assert!(medium.has("u", "c", 3) && !medium.has("u", "c", 5) && !medium.has("u", "other", 3));
}

const MANIFEST: &str = r#"{ "format": 7, "chain": "c", "volume": { "uuid": "u", "fs_type": "ext4", "label": "", "block_size": 4096, "size_bytes": 0,
    "root": { "ino": 2, "generation": 0 }, "mount_path": "/srv", "hostname": "host" }, "epoch": 1, "index": 1, "first_seq": 1, "last_seq": 1,
    "first_time_ns": 0, "last_time_ns": 0, "records": 1, "bytes": 5, "blake3": "", "row_groups": [], "previous": null, "void_indexes": [],
    "points": [], "writer": "" }"#;
