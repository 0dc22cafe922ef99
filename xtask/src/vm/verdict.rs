//! What a round trip came to: points that were restored alike or not, sizes, times; and how that is told.
//!
//! Owns the report and its two forms, lines and JSON. What a digest is and how two differ is the oracle's business.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::roundtrip::FileSystem;
use crate::setup;

/// Lines of a comparison that are shown; the kept digests hold the rest.
const DIFFERENCES_SHOWN: usize = 40;

/// A point of the journal that was restored.
#[derive(Serialize)]
pub(crate) struct Point {
    /// `final` or `mark-NAME`.
    pub(crate) name: String,
    pub(crate) same: bool,
    pub(crate) entries: Option<u64>,
    pub(crate) bytes: Option<u64>,
    /// What the oracle says of the first differences.
    pub(crate) differences: Vec<String>,
}

/// Result of a round trip.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) kernel: String,
    pub(crate) fs: String,
    pub(crate) to_fs: String,
    /// All points were restored alike, and the script itself ended with 0.
    pub(crate) ok: bool,
    pub(crate) script_code: i32,
    /// The final state comes first.
    pub(crate) points: Vec<Point>,
    /// Room that the origin's files took at the end, bytes.
    pub(crate) origin_bytes: u64,
    /// Room taken on the medium, bytes.
    pub(crate) medium_bytes: u64,
    pub(crate) record_s: f64,
    pub(crate) restore_s: f64,
    /// `recorder status --json` after the flush.
    pub(crate) status: serde_json::Value,
    pub(crate) kernel_warnings: Vec<String>,
}

impl Report {
    /// Entries and bytes of the final tree, as the oracle counts them.
    pub(crate) fn size(&self) -> (u64, u64) {
        let end = self.points.first();
        (
            end.and_then(|p| p.entries).unwrap_or(0),
            end.and_then(|p| p.bytes).unwrap_or(0),
        )
    }

    /// Holes that the recorder still had open after the flush.
    pub(crate) fn holes_open(&self) -> u64 {
        let volumes = self.status.get("volumes").and_then(serde_json::Value::as_array);
        volumes
            .into_iter()
            .flatten()
            .filter_map(|v| v.get("holes_open")?.as_u64())
            .sum()
    }
}

/// Prints the verdict on stdout: `SAME <entries> <bytes>`, or what differs.
pub(super) fn print_verdict(report: &Report) {
    if report.points.iter().all(|p| p.same) {
        let (entries, bytes) = report.size();
        println!("SAME {entries} {bytes}");
        return;
    }
    for point in report.points.iter().filter(|p| !p.same) {
        println!("DIFFERENT at {}", point.name);
        for line in &point.differences {
            println!("  {line}");
        }
    }
}

/// Says on stderr what else is worth knowing.
pub(super) fn tell_details(report: &Report, took: Duration) {
    for warning in &report.kernel_warnings {
        setup::say(&format!("a guest's kernel warns: {warning}"));
    }
    if report.script_code != 0 {
        setup::say(&format!(
            "the script ended with {}: the round trip counts as failed",
            report.script_code
        ));
    }
    if report.holes_open() != 0 {
        setup::say(&format!(
            "the recorder reports {} open holes",
            report.holes_open()
        ));
    }
    let same = report.points.iter().filter(|p| p.same).count();
    setup::say(&format!(
        "kernel {}, {} to {}: {same} of {} points the same; recorded in {:.0} s, restored in {:.0} s, {:.0} s in all",
        report.kernel,
        report.fs,
        report.to_fs,
        report.points.len(),
        report.record_s,
        report.restore_s,
        took.as_secs_f64()
    ));
}

/// The program that compares, and how.
pub(super) struct Oracle<'a> {
    pub(super) program: &'a Path,
    /// Only what both of these can hold is compared.
    pub(super) held_by: Option<[FileSystem; 2]>,
}

/// Has the oracle compare two digests of what should be the same tree.
///
/// # Errors
/// When the oracle fails. Trees that differ, or one that was not restored, are no error but a [`Point`].
pub(super) fn compare(oracle: &Oracle<'_>, name: &str, expected: &Path, restored: &Path) -> Result<Point> {
    let mut point = Point {
        name: name.to_string(),
        same: false,
        entries: None,
        bytes: None,
        differences: Vec::new(),
    };
    if !restored.is_file() {
        point.differences.push("was not restored".into());
        return Ok(point);
    }
    let mut command = Command::new(oracle.program);
    command.arg("compare").args([expected, restored]);
    if let Some(held_by) = oracle.held_by {
        command.arg("--held-by").args(held_by.map(|fs| fs.to_string()));
    }
    let out = command
        .stdin(Stdio::null())
        .output()
        .context("start oracle compare")?;
    let text = String::from_utf8_lossy(&out.stdout);
    match out.status.code() {
        Some(0) => {
            let (entries, bytes) =
                parse_same(&text).with_context(|| format!("understand the oracle: {text:?}"))?;
            (point.same, point.entries, point.bytes) = (true, Some(entries), Some(bytes));
        }
        Some(1) => point.differences = text.lines().take(DIFFERENCES_SHOWN).map(str::to_string).collect(),
        _ => bail!(
            "oracle compare ended with {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        ),
    }
    Ok(point)
}

/// `SAME <entries> <bytes>`
fn parse_same(text: &str) -> Option<(u64, u64)> {
    let mut words = text
        .lines()
        .find_map(|line| line.strip_prefix("SAME "))?
        .split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_of_the_oracle_is_understood() {
        assert_eq!(parse_same("SAME 12 3456\n"), Some((12, 3456)));
        assert_eq!(parse_same("DIFFERENT\n"), None);
        assert_eq!(parse_same("SAME 12\n"), None);
    }
}
