//! `replayer verify`: every hash, the chain, and that every record can be decoded.

use std::fmt::Write as _;

use anyhow::Result;
use journal::Journal;
use serde_json::{Value, json};

use crate::cli::VerifyArgs;
use crate::damage;
use crate::exit::Exit;
use crate::media::Media;
use crate::output::{Format, human};
use crate::progress::{Progress, Unit};

/// What was found.
pub(crate) struct Verdict {
    pub(crate) is_good: bool,
    pub(crate) text: String,
    document: Value,
}

/// Runs `replayer verify`.
pub(crate) fn run(args: &VerifyArgs, format: Format) -> Result<Exit> {
    let verdict = check(args)?;
    format.result(&verdict.text, &verdict.document)?;
    Ok(if verdict.is_good {
        Exit::Ok
    } else {
        Exit::Integrity
    })
}

/// Reads everything.
pub(crate) fn check(args: &VerifyArgs) -> Result<Verdict> {
    let media = Media::open(&args.media)?;
    let journals: Vec<&Journal> = media.journals().collect();
    let (mut text, mut documents) = (String::new(), Vec::new());
    let mut problems = media.verify()?;
    if let Err(error) = damage::check_end(&journals, args.durable) {
        problems.push(error.to_string());
    }
    let mut is_good = problems.is_empty();
    for problem in &problems {
        let _writing_to_a_string_cannot_fail = writeln!(text, "{problem}");
    }
    for journal in journals {
        let (good, document) = one(journal, &mut text)?;
        is_good &= good;
        documents.push(document);
    }
    Ok(Verdict {
        is_good,
        text,
        document: json!({ "volumes": documents, "problems": problems }),
    })
}

fn one(journal: &Journal, text: &mut String) -> Result<(bool, Value)> {
    let total = journal.segments().map(|segment| segment.manifest.bytes).sum();
    let mut progress = Progress::start("verifying", Unit::Bytes, total);
    let mut before = 0;
    let report = journal.verify(|bytes| {
        progress.add(bytes - before);
        before = bytes;
    })?;
    drop(progress);
    let good = report.problems.is_empty();
    let (uuid, media) = (&journal.volume().uuid, journal.media());
    let mut line = |line: String| {
        let _writing_to_a_string_cannot_fail = writeln!(text, "{line}");
    };
    let verdict = if good { "good" } else { "DAMAGED" };
    let (segments, records, bytes) = (report.segments, report.records, human(report.bytes));
    line(format!(
        "volume {uuid} on {}: {verdict}: {segments} segments, {records} records, {bytes}",
        media.join(", ")
    ));
    if report.encrypted > 0 {
        line(format!(
            "  {} of them are encrypted: compared with what was sealed, and not decoded (--identity FILE)",
            report.encrypted
        ));
    }
    if let Some(end) = report.epochs.last() {
        // What is missing at the end nothing here can show.
        line(format!(
            "  ends at epoch {} seq {}: compare with what `recorder status` last said (--durable EPOCH:SEQ)",
            end.epoch, end.last_seq
        ));
    }
    for problem in &report.problems {
        line(format!("  {problem}"));
    }
    for damage in &report.damage {
        damage::text(damage)
            .into_iter()
            .for_each(|words| line(format!("    {words}")));
    }
    let damage: Vec<Value> = report.damage.iter().map(damage::json).collect();
    let document = json!({"uuid": uuid, "media": media, "good": good, "report": report, "damage": damage});
    Ok((good, document))
}
