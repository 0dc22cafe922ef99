//! Media that are absent, signed by somebody, or rehearsed with.

use std::sync::Arc;

use journal::store::{DirStore, Store};
use journal::{Label, Naming, Reader, Signer, VolumeInfo, Writer, write_index};

use crate::bench::{Bench, UUID, json, key, story};

/// One chain over two media, `one` and `two`, signed with a key.
fn spanned(signer: &Signer) -> Bench {
    let bench = Bench::new(&story());
    let mut segments = story().into_iter();
    for name in ["one", "two"] {
        std::fs::create_dir(bench.path(name)).expect("make");
        let store = Arc::new(DirStore::open(&bench.path(name)).expect("open"));
        let naming = Naming {
            name: Some(name.to_owned()),
            signer: Some(signer.clone()),
            ..Naming::default()
        };
        Label::ensure_as(&*store, b"#!/bin/sh\n", 1, &naming).expect("label");
        if name == "two" {
            let one: Arc<dyn Store> = Arc::new(DirStore::open(&bench.path("one")).expect("open"));
            let reader = Reader::open(vec![one]).expect("read");
            write_index(reader.journal(None).expect("there"), 2, &*store).expect("carry");
        }
        let volume = VolumeInfo {
            uuid: UUID.to_owned(),
            fs_type: "ext4".to_owned(),
            root: key(1),
            ..VolumeInfo::default()
        };
        let mut writer = if name == "one" {
            Writer::open(store, volume).expect("open")
        } else {
            let head = journal::Head::of(&*store, UUID).expect("read").expect("carried");
            Writer::resume(store, volume, &head)
                .expect("open")
                .expect("the same")
        }
        .signed_by(Some(signer.clone()));
        for record in segments.next().expect("two") {
            writer.push(&record).expect("push");
        }
        writer.seal().expect("seal");
    }
    bench
}

fn restore(bench: &Bench, media: &[&str], more: &[&str]) -> std::process::Output {
    let mut args = vec!["restore", "--json", "--to", "to"];
    media.iter().for_each(|medium| args.extend(["--medium", medium]));
    args.extend(more);
    bench.run(&args)
}

#[test]
fn absent_media_are_named_before_anything_is_written() {
    let bench = spanned(&Signer::new(&[1; 32]));
    let output = restore(&bench, &["two"], &["--at", "mark:first"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(20), "{stderr}");
    assert!(stderr.contains("medium one"), "{stderr}");
    assert!(bench.is_untouched());
    let plan = bench.run(&["plan", "--json", "--medium", "two", "--at", "mark:first"]);
    assert_eq!(json(&plan)["media"][0]["is_given"], false);
    // Names and attributes need no data.
    let found = bench.run(&["find", "--medium", "two"]);
    assert_eq!(found.status.code(), Some(0));
    // Of the newest moment, nothing that is left lies on the other one.
    let output = restore(&bench, &["two"], &[]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(std::fs::read(bench.path("to/again")).expect("content"), b"TWO");
    let both = [
        "restore",
        "--medium",
        "two",
        "--medium",
        "one",
        "--at",
        "mark:first",
        "--to",
        "then",
    ];
    assert_eq!(bench.run(&both).status.code(), Some(0));
}

#[test]
fn what_is_not_signed_with_the_trusted_key_is_refused() {
    let signer = Signer::new(&[1; 32]);
    let bench = spanned(&signer);
    let right = signer.public_key().to_string();
    let wrong = Signer::new(&[2; 32]).public_key().to_string();
    let output = restore(&bench, &["one", "two"], &["--trust-key", &wrong]);
    assert_eq!(output.status.code(), Some(12));
    assert!(bench.is_untouched());
    // What nobody signed is none of the trusted key's either.
    let output = restore(&bench, &["medium"], &["--trust-key", &right]);
    assert_eq!(output.status.code(), Some(12));
    let output = restore(&bench, &["one", "two"], &["--trust-key", "12"]);
    assert_eq!(output.status.code(), Some(2));
    std::fs::write(bench.path("key"), format!("{right}\nfingerprint x\n")).expect("write");
    let path = bench.path("key").display().to_string();
    let output = restore(&bench, &["one", "two"], &["--trust-key", &path]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_rehearsal_compares_and_leaves_its_result_only() {
    let bench = Bench::new(&story());
    std::fs::create_dir(bench.path("scratch")).expect("make");
    let rehearse = || {
        bench.run(&[
            "rehearse",
            "--json",
            "--medium",
            "medium",
            "--scratch",
            "scratch",
            "--result",
            "result.json",
        ])
    };
    let left = || -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(bench.path("result.json")).expect("there")).expect("JSON")
    };
    let output = rehearse();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!((&left()["same"], &left()["volume"]), (&true.into(), &UUID.into()));
    assert_eq!(json(&output)["entries"], 3);
    let is_empty = || {
        std::fs::read_dir(bench.path("scratch"))
            .expect("there")
            .next()
            .is_none()
    };
    assert!(is_empty());
    // A segment that rotted: the rehearsal says so, and leaves nothing but that.
    let path = bench.segment(2, "parquet");
    let mut bytes = std::fs::read(&path).expect("there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::remove_file(&path).expect("ours");
    std::fs::write(&path, bytes).expect("ours");
    assert_eq!(rehearse().status.code(), Some(30));
    assert_eq!(left()["same"], false);
    assert!(left()["error"].is_string() && is_empty());
}

#[test]
fn exported_segments_are_those_of_the_media() {
    let bench = spanned(&Signer::new(&[1; 32]));
    let export = |media: &[&str], to: &str| {
        let mut args = vec!["export", "--json", "--to", to];
        media.iter().for_each(|medium| args.extend(["--medium", medium]));
        bench.run(&args)
    };
    let output = export(&["one", "two"], "all");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(json(&output)["segments"], 2);
    for (medium, index) in [("one", 1), ("two", 2)] {
        for suffix in ["parquet", "manifest.json"] {
            let name = format!("{UUID}/{index:010}.{suffix}");
            let read = |directory: &str| std::fs::read(bench.path(directory).join(&name)).expect("there");
            assert!(read("all") == read(medium), "{name}");
        }
    }

    // Of what lies elsewhere only its metadata is there: it is left out, and said.
    let output = export(&["two"], "half");
    assert_eq!(output.status.code(), Some(3));
    let absent = &json(&output)["absent"];
    assert_eq!(absent[0]["segments"], 1, "{absent}");
    assert!(absent[0]["medium"].to_string().contains("one"), "{absent}");
    assert!(
        !bench
            .path("half")
            .join(format!("{UUID}/0000000001.parquet"))
            .exists()
    );

    let output = export(&["one", "two"], "all");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && stderr.contains("is not empty"),
        "{stderr}"
    );
}

#[test]
fn chains_are_exported_apart() {
    let bench = Bench::new(&story());
    bench.add_medium("other", 1_000_000_000, &story());
    let output = bench.run(&["export", "--medium", "medium", "--medium", "other", "--to", "all"]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for chain in ["1", "2"] {
        assert!(
            bench
                .path("all")
                .join(format!("{chain}/{UUID}/0000000001.parquet"))
                .exists()
        );
    }
}
