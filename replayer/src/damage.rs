//! What damage costs, for people and for programs: numbers, files, and up to where the journal is whole. Owns the words; what is lost is
//! found by `journal`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use journal::{Damage, Journal};
use serde_json::{Value, json};

use crate::cli::Durable;
use crate::exit::{Exit, exit_of, failure, integrity};
use crate::output::escape;

/// Files named in text; JSON has more.
const FILES_SHOWN_MAX: usize = 20;

/// Lines of text.
pub(crate) fn text(damage: &Damage) -> Vec<String> {
    let Damage {
        indexes,
        epoch,
        first_seq,
        last_seq,
        records,
        readable,
        files,
        more_files,
        whole_until,
    } = damage;
    let (first, last) = (indexes.start(), indexes.end());
    let which = if first == last {
        format!("segment {first}")
    } else {
        format!("segments {first} to {last}")
    };
    let lost = match last_seq {
        Some(last_seq) => format!("sequence numbers {first_seq} to {last_seq}"),
        None => format!("sequence numbers from {first_seq} on"),
    };
    let before = match whole_until {
        Some(seq) => format!("moments up to seq {seq} can be restored"),
        None => "no earlier moment of it can be restored, or none but what stands above".to_owned(),
    };
    let mut lines = vec![format!("{which} costs {lost} of epoch {epoch}: {before}")];
    let of = records.map_or_else(String::new, |records| format!(" of {records}"));
    lines.push(if *readable == 0 {
        "any file may have been changed there: no record of it can be read".to_owned()
    } else {
        format!("{readable}{of} records can still be read; they are about")
    });
    lines.extend(
        files
            .iter()
            .take(FILES_SHOWN_MAX)
            .map(|path| format!("  {}", escape(path))),
    );
    if *more_files || files.len() > FILES_SHOWN_MAX {
        lines.push("  and more".to_owned());
    }
    lines
}

/// The same for programs.
pub(crate) fn json(damage: &Damage) -> Value {
    let files: Vec<String> = damage.files.iter().map(|path| escape(path)).collect();
    json!({
        "first_segment": damage.indexes.start(), "last_segment": damage.indexes.end(), "epoch": damage.epoch,
        "first_seq": damage.first_seq, "last_seq": damage.last_seq, "records": damage.records, "records_readable": damage.readable,
        "files": files, "more_files": damage.more_files, "whole_until_seq": damage.whole_until,
    })
}

/// Adds to an error that damage caused what that damage costs.
pub(crate) fn explain<'a>(
    error: anyhow::Error,
    journals: impl IntoIterator<Item = &'a Journal>,
) -> anyhow::Error {
    let exit = exit_of(&error);
    if !matches!(exit, Exit::Integrity | Exit::MediumNeeded) {
        return error;
    }
    let mut message = format!("{error:#}");
    for journal in journals {
        for line in journal.damage(&BTreeSet::new()).iter().flat_map(text) {
            let _writing_to_a_string_cannot_fail = write!(message, "\n  {line}");
        }
    }
    failure(exit, message)
}

/// Refuses journals of which none reaches as far as the recorder said.
pub(crate) fn check_end(journals: &[&Journal], durable: Option<Durable>) -> anyhow::Result<()> {
    let Some(durable) = durable else { return Ok(()) };
    let ends: Vec<Durable> = journals
        .iter()
        .filter_map(|journal| journal.segments().next_back())
        .map(|segment| Durable {
            epoch: segment.manifest.epoch,
            seq: segment.manifest.last_seq,
        })
        .collect();
    if ends.iter().any(|end| *end >= durable) {
        return Ok(());
    }
    let Durable { epoch, seq } = durable;
    let shown: Vec<String> = ends
        .iter()
        .map(|end| format!("epoch {} seq {}", end.epoch, end.seq))
        .collect();
    Err(integrity(format!(
        "the newest segments are missing: the journal ends at {}, and epoch {epoch} seq {seq} was on the medium",
        shown.join(" and ")
    )))
}
