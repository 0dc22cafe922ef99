//! The commands that say how it is: `status`, `check`, `metrics`.
//!
//! Owns where the answer comes from: the recorder, or what it left, where it does not answer or none runs.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::exit::{FAILED, NOTHING_THERE, code_of};
use super::{print_line, print_result};
use crate::check::{self, Patience, Source, Verdict};
use crate::control::{Client, Silent};
use crate::status::{self, Report};
use crate::{capture, daemon, metrics};

/// Of `check --nagios`: it cannot be told.
pub(super) const UNKNOWN: u8 = 3;

/// Asks the recorder, or finds what it left.
fn source() -> Result<Source> {
    let left = || Report::read(&daemon::state_path());
    match Client::status() {
        Ok(report) => Ok(Source::Answer(report)),
        Err(error) if error.is::<Silent>() => Ok(Source::Silent(left().ok())),
        Err(error) if code_of(&error) == NOTHING_THERE => {
            let unread = capture::pinned_volumes()
                .into_iter()
                .map(|uuid| {
                    let unread = capture::unread(&uuid).unwrap_or_else(|error| {
                        eprintln!("volume {uuid}: {error:#}");
                        capture::Unread::default()
                    });
                    (uuid, unread)
                })
                .collect();
            Ok(Source::Nobody(unread, left().ok()))
        }
        Err(error) => Err(error),
    }
}

fn judge(source: &Source, patience: Patience) -> Verdict {
    check::judge(source, jiff::Timestamp::now(), patience)
}

/// `recorder status`.
pub(super) fn status(json: bool) -> Result<u8> {
    let source = source()?;
    let verdict = judge(
        &source,
        super::patience(super::STALE_S_DEFAULT, super::POOL_AWAY_S_DEFAULT),
    );
    let (report, is_heard) = match &source {
        Source::Answer(report) => (report, true),
        Source::Silent(Some(report)) => (report, false),
        Source::Silent(None) => return Err(Silent.into()),
        // The words of every other command.
        Source::Nobody(..) => {
            return Err(Client::connect()
                .err()
                .context("a recorder was started just now: ask again")?);
        }
    };
    let mut answer = serde_json::to_value(report).context("encode the status")?;
    status::add_rehearsals(&mut answer);
    let mut text = status::as_text(&answer);
    for finding in verdict.findings {
        text.push_str(&format!("{}\n  do: {}\n", finding.as_text(), finding.todo));
    }
    print_result(json, &answer, &text);
    if is_heard {
        return Ok(status::exit_code(&answer));
    }
    eprintln!(
        "recorder: {Silent}: this is what it said of itself at {}",
        report.time
    );
    Ok(FAILED)
}

/// `recorder check`.
pub(super) fn check(json: bool, nagios: bool, patience: Patience) -> Result<u8> {
    let source = match source() {
        Err(error) if nagios => {
            print_line(&format!(
                "UNKNOWN - {}",
                format!("{error:#}").replace(['|', '\n'], " ")
            ));
            return Ok(UNKNOWN);
        }
        source => source?,
    };
    let verdict = judge(&source, patience);
    if nagios {
        let (line, code) = verdict.as_plugin();
        print_line(&line);
        return Ok(code);
    }
    print_result(json, &json!(verdict), &verdict.as_text());
    Ok(verdict.code)
}

/// `recorder metrics`.
pub(super) fn metrics(json: bool, out: Option<&Path>) -> Result<u8> {
    let report = match source()? {
        Source::Answer(report) => Some(report),
        Source::Silent(_) | Source::Nobody(..) => None,
    };
    let text = metrics::as_text(report.as_ref());
    match out {
        Some(path) => replace(path, &text)?,
        None => print_result(json, &json!(report), &text),
    }
    Ok(0)
}

/// Puts a file where another lies, in one step: the collector reads it at any time. Its name ends otherwise until it is whole.
fn replace(path: &Path, text: &str) -> Result<()> {
    let context = || format!("write {}", path.display());
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = std::fs::File::create(&new).with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)?;
    std::fs::rename(&new, path).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_metrics_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tapeworm.prom");
        replace(&path, "one, which is longer\n").unwrap();
        replace(&path, "two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(replace(&directory.path().join("no/such"), "x").is_err());
    }
}
