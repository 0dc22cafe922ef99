//! `replayer export`: the segments as plain Parquet, decrypted where they are encrypted, for whoever asks them in SQL.
//!
//! Owns what is put where: objects have the names that they have on a medium, so that queries for a medium fit. The store writes each of them whole or
//! not at all; what is written is compared with what was sealed first.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use journal::Segment;
use journal::store::{DirStore, ObjectKind, Store};
use serde_json::{Value, json};

use crate::cli::ExportArgs;
use crate::exit::Exit;
use crate::media::Media;
use crate::output::{Format, human};
use crate::progress::{Progress, Unit};
use crate::restore::empty_directory;

/// Runs `replayer export`.
pub(crate) fn run(args: &ExportArgs, format: Format) -> Result<Exit> {
    let ExportArgs { media, to, volume } = args;
    let media = Media::open(media)?;
    let journals = media.journals_of(volume.as_deref())?;
    empty_directory(to)?;
    let all = || journals.iter().flat_map(|journal| journal.all_segments());
    let total = all().map(|segment| segment.manifest.bytes).sum();
    let mut progress = Progress::start("exporting", Unit::Bytes, total);
    let (mut segments, mut bytes) = (0_u64, 0);
    // Segments that lie on media that were not given, by medium.
    let mut absent: BTreeMap<String, u64> = BTreeMap::new();
    for (at, journal) in journals.iter().enumerate() {
        let store = match journals.len() {
            1 => DirStore::open(to),
            _ => numbered(to.join((at + 1).to_string())),
        };
        let store = store.with_context(|| format!("write to {}", to.display()))?;
        for segment in journal.all_segments() {
            progress.add(segment.manifest.bytes);
            if segment.is_carried() {
                *absent.entry(segment.lies_on().to_string()).or_default() += 1;
                continue;
            }
            bytes += write(segment, &store)?;
            segments += 1;
        }
    }
    drop(progress);
    let mut text = format!(
        "exported {segments} segments, {} to {}\n",
        human(bytes),
        to.display()
    );
    for (medium, count) in &absent {
        let _writing_to_a_string_cannot_fail = writeln!(
            text,
            "{count} segments lie on medium {medium}: mount it and name it with --medium"
        );
    }
    let is_complete = absent.is_empty();
    let absent: Vec<Value> = absent
        .into_iter()
        .map(|(medium, segments)| json!({ "medium": medium, "segments": segments }))
        .collect();
    format.result(
        &text,
        &json!({ "to": to, "segments": segments, "bytes": bytes, "absent": absent }),
    )?;
    Ok(if is_complete { Exit::Ok } else { Exit::Incomplete })
}

/// A directory for one chain of several: each counts its segments from 1.
fn numbered(path: PathBuf) -> std::io::Result<DirStore> {
    fs::create_dir(&path)?;
    DirStore::open(&path)
}

/// Writes one segment, then its manifest as it lies there; returns the segment's bytes.
fn write(segment: &Segment, store: &DirStore) -> Result<u64> {
    let (name, manifest) = segment.manifest.plain_names();
    let context = |name: &str| format!("write {name} to {}", store.describe());
    // Before anything is made: whether it can be read at all.
    let pieces = segment.plain()?;
    let mut object = store
        .create(&name, ObjectKind::Plain)
        .with_context(|| context(&name))?;
    let mut bytes = 0;
    for piece in pieces {
        let piece = piece?;
        object.write_all(&piece).with_context(|| context(&name))?;
        bytes += piece.len() as u64;
    }
    object.seal().with_context(|| context(&name))?;
    let mut object = store
        .create(&manifest, ObjectKind::Plain)
        .with_context(|| context(&manifest))?;
    object
        .write_all(&segment.manifest_bytes()?)
        .and_then(|()| object.seal())
        .with_context(|| context(&manifest))?;
    Ok(bytes)
}
