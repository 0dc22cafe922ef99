//! `replayer verify`: every hash, the chain, and that every record can be decoded.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::json;

use crate::cli::MediaArgs;
use crate::exit::Exit;
use crate::media::Media;
use crate::output::{Format, human};
use crate::progress::{Progress, Unit};

/// Runs `replayer verify`.
pub(crate) fn run(args: &MediaArgs, format: Format) -> Result<Exit> {
    let media = Media::open(&args.media)?;
    let (mut text, mut documents, mut good) = (String::new(), Vec::new(), true);
    for journal in media.journals() {
        let total = journal.segments().map(|segment| segment.manifest.bytes).sum();
        let mut progress = Progress::start("verifying", Unit::Bytes, total);
        let mut before = 0;
        let report = journal.verify(|bytes| {
            progress.add(bytes - before);
            before = bytes;
        })?;
        drop(progress);
        let (uuid, media) = (&journal.volume().uuid, journal.media());
        let verdict = if report.problems.is_empty() {
            "good"
        } else {
            "DAMAGED"
        };
        let mut line = |line: String| {
            let _writing_to_a_string_cannot_fail = writeln!(text, "{line}");
        };
        let (segments, records, bytes) = (report.segments, report.records, human(report.bytes));
        line(format!(
            "volume {uuid} on {}: {verdict}: {segments} segments, {records} records, {bytes}",
            media.join(", ")
        ));
        for problem in &report.problems {
            line(format!("  {problem}"));
        }
        good &= report.problems.is_empty();
        documents.push(
            json!({"uuid": uuid, "media": media, "good": report.problems.is_empty(), "report": report}),
        );
    }
    format.result(&text, &json!({ "volumes": documents }))?;
    Ok(if good { Exit::Ok } else { Exit::Integrity })
}
