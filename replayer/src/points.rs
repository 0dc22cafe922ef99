//! `replayer points`: the moments that can be restored by name, and the newest, of each chain. Reads manifests; only for the newest,
//! metadata.

use std::fmt::Write as _;

use anyhow::Result;
use journal::{At, Complete, Journal, PointKind};
use serde_json::{Value, json};

use crate::cli::PointsArgs;
use crate::exit::Exit;
use crate::media::Media;
use crate::output::{Format, escape, local, utc};

/// Runs `replayer points`.
pub(crate) fn run(args: &PointsArgs, format: Format) -> Result<Exit> {
    let media = Media::open(&args.media)?;
    let journals: Vec<&Journal> = match &args.volume {
        Some(uuid) => media.journals_of(Some(uuid))?,
        None => media.journals().collect(),
    };
    let (mut text, mut documents) = (String::new(), Vec::new());
    for journal in journals {
        documents.push(one(journal, &mut text));
    }
    format.result(&text, &json!({ "volumes": documents }))?;
    Ok(Exit::Ok)
}

fn one(journal: &Journal, text: &mut String) -> Value {
    let volume = journal.volume();
    let mut line = |line: String| {
        let _writing_to_a_string_cannot_fail = writeln!(text, "{line}");
    };
    line(format!(
        "volume {} ({}, {} on {}) on medium {}",
        volume.uuid,
        volume.fs_type,
        volume.mount_path,
        volume.hostname,
        journal.media().join(", ")
    ));
    let mut points = Vec::new();
    for (epoch, segment, point) in journal.points() {
        let what = match point.kind {
            PointKind::Mark => "mark",
            PointKind::BaseEnd => "base",
            PointKind::BaseBegin => continue,
            PointKind::Hole => "hole",
            PointKind::HoleClosed => "hole closed",
        };
        let (utc, local, name) = (
            utc(point.time_ns),
            local(point.time_ns),
            escape(point.name.as_bytes()),
        );
        line(format!(
            "  {what:<11} epoch {epoch} seq {:>10}  {utc}  (local {local})  {name}",
            point.seq
        ));
        points.push(json!({
            "kind": what, "name": point.name, "epoch": epoch, "seq": point.seq, "segment": segment, "time": utc, "time_local": local,
        }));
    }
    let mut checkpoints = Vec::new();
    for Complete {
        epoch,
        of,
        segments,
        bytes,
        ..
    } in journal.complete_checkpoints()
    {
        let (utc, local) = (utc(of.time_ns), local(of.time_ns));
        line(format!(
            "  {:<11} epoch {epoch} seq {:>10}  {utc}  (local {local})  segments {} to {}",
            "checkpoint", of.seq, segments.0, segments.1
        ));
        checkpoints.push(json!({
            "epoch": epoch, "seq": of.seq, "segments": segments, "bytes": bytes, "time": utc, "time_local": local,
        }));
    }
    let newest = match journal.resolve(&At::Latest) {
        Ok(newest) => {
            let (utc, local) = (utc(newest.time_ns), local(newest.time_ns));
            line(format!(
                "  {:<11} epoch {} seq {:>10}  {utc}  (local {local})",
                "newest", newest.epoch, newest.seq
            ));
            json!({"epoch": newest.epoch, "seq": newest.seq, "time": utc, "time_local": local, "rounded": newest.rounded})
        }
        Err(error) => {
            line(format!("  newest: {error}"));
            json!({ "error": error.to_string() })
        }
    };
    let problems: Vec<String> = journal.problems().iter().map(ToString::to_string).collect();
    for problem in &problems {
        line(format!("  PROBLEM: {problem}"));
    }
    json!({
        "uuid": volume.uuid, "fs_type": volume.fs_type, "chain": journal.chain(), "media": journal.media(),
        "points": points, "checkpoints": checkpoints, "newest": newest, "problems": problems,
    })
}
