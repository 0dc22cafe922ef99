//! `replayer export`: the segments as plain Parquet, decrypted where they are encrypted, for whoever asks them in SQL.
//!
//! Owns the names under the target: a directory for each chain of the volume, files in it as on the medium, so that queries for a medium fit. What is
//! written is compared with what was sealed first.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use journal::{Journal, Segment};
use serde_json::json;

use crate::cli::ExportArgs;
use crate::exit::Exit;
use crate::media::Media;
use crate::output::{Format, human};
use crate::progress::{Progress, Unit};

/// What was written, and what not.
#[derive(Default)]
struct Exported {
    segments: u64,
    bytes: u64,
    /// Media that were not given, and segments that lie there.
    absent: Vec<String>,
}

/// Runs `replayer export`.
pub(crate) fn run(args: &ExportArgs, format: Format) -> Result<Exit> {
    let media = Media::open(&args.media)?;
    let journals = media.journals_of(args.volume.as_deref())?;
    make_empty(&args.to)?;
    let total = journals.iter().flat_map(|journal| journal.all_segments());
    let total = total.map(|segment| segment.manifest.bytes).sum();
    let mut progress = Progress::start("exporting", Unit::Bytes, total);
    let mut exported = Exported::default();
    for (at, journal) in journals.iter().enumerate() {
        let directory = args
            .to
            .join(directory_name(&journals, at, &journal.volume().uuid));
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        for segment in journal.all_segments() {
            progress.add(segment.manifest.bytes);
            if segment.is_carried() {
                let absent = format!(
                    "segment {} on medium {}",
                    segment.manifest.index,
                    segment.lies_on()
                );
                exported.absent.push(absent);
                continue;
            }
            exported.bytes += write(segment, &directory)?;
            exported.segments += 1;
        }
    }
    drop(progress);
    let Exported {
        segments,
        bytes,
        absent,
    } = exported;
    let mut text = format!(
        "exported {segments} segments, {} to {}\n",
        human(bytes),
        args.to.display()
    );
    for absent in &absent {
        text.push_str(&format!(
            "not there: {absent}: mount it and name it with --medium\n"
        ));
    }
    format.result(
        &text,
        &json!({ "to": args.to, "segments": segments, "bytes": bytes, "absent": absent }),
    )?;
    Ok(if absent.is_empty() {
        Exit::Ok
    } else {
        Exit::Incomplete
    })
}

/// The uuid of the volume, with a number where it has several chains.
fn directory_name(journals: &[&Journal], at: usize, uuid: &str) -> String {
    if journals.len() == 1 {
        uuid.to_owned()
    } else {
        format!("{uuid}-{}", at + 1)
    }
}

/// The target, which must be empty, or is made.
fn make_empty(to: &Path) -> Result<()> {
    let context = || format!("create {}", to.display());
    match fs::create_dir(to) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let is_empty = fs::read_dir(to).with_context(context)?.next().is_none();
            ensure!(
                is_empty,
                "{} is not empty: name a directory that is, or that is not there",
                to.display()
            );
            Ok(())
        }
        result => result.with_context(context),
    }
}

/// Writes one segment, then its manifest as it lies there; returns the segment's bytes.
fn write(segment: &Segment, directory: &Path) -> Result<u64> {
    let (name, manifest) = segment.manifest.plain_file_names();
    let mut bytes = 0;
    whole(&directory.join(name), |file| {
        for piece in segment.plain()? {
            let piece = piece?;
            file.write_all(&piece).context("write to the target")?;
            bytes += piece.len() as u64;
        }
        Ok(())
    })?;
    whole(&directory.join(manifest), |file| {
        file.write_all(&segment.manifest_bytes()?)
            .context("write to the target")
    })?;
    Ok(bytes)
}

/// Makes a file that is whole, or none: what was cut off would pass for what there is.
fn whole(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let context = || format!("write {}", path.display());
    let mut file = File::create_new(path).with_context(context)?;
    fill(&mut file).with_context(context).inspect_err(|_| {
        let _gone = fs::remove_file(path);
    })
}
