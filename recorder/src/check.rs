//! `recorder check`: is everything durable, since when not, and what must be done?
//!
//! Owns what is concluded from what a recorder says of itself, or from what it left behind where it says nothing. Pure: it asks nobody.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::capture::Unread;
use crate::cli::exit::{FAILED, HOLE, MEDIUM_FULL, MEDIUM_NEEDED, NOTHING_THERE, STALE};
use crate::pulse::{Place, Stall};
use crate::status::{MediumStatus, PoolStatus, Report, VolumeStatus, bytes};

/// A state file is written every few seconds; one that is older comes from a recorder that hangs.
const STATE_AGE_MAX_S: i64 = 30;
/// A call to a medium that takes so long is more than a slow medium, seconds.
const MEDIUM_CALL_MAX_S: u64 = 120;
/// Part of the spool, in hundredths, above which a medium is needed at once.
const SPOOL_TIGHT: u64 = 75;

/// Where a report comes from.
pub(crate) enum Source {
    /// The recorder says so.
    Answer(Report),
    /// It does not answer; what it left in its state file last, if anything.
    Silent(Option<Report>),
    /// None runs: what its programs have captured, by volume, and what the last one left, if anything.
    Nobody(Vec<(String, Unread)>, Option<Report>),
}

/// How bad something is, in the words of monitoring plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Nothing is to be done.
    Ok,
    /// It will get worse if nothing is done.
    Warning,
    /// Something is at risk now.
    Critical,
}

impl Level {
    /// The word and the exit code by which plugins say it.
    fn as_plugin(self) -> (&'static str, u8) {
        match self {
            Self::Ok => ("OK", 0),
            Self::Warning => ("WARNING", 1),
            Self::Critical => ("CRITICAL", 2),
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) level: Level,
    /// Exit code.
    pub(crate) code: u8,
    /// The volume's path; empty where it concerns the recorder.
    pub(crate) path: String,
    /// What it is.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) todo: String,
}

/// What is concluded.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    /// The worst of all.
    pub(crate) level: Level,
    /// The exit code of the most urgent; 0 where there is none.
    pub(crate) code: u8,
    /// What is not as it should be, the most urgent first.
    pub(crate) findings: Vec<Finding>,
    /// How far each volume is durable.
    pub(crate) durable: Vec<String>,
    /// Values for monitoring.
    #[serde(skip)]
    perfdata: String,
}

/// How long something may stay behind before it is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// What is not durable, and copies that could be made.
    pub(crate) stale: Duration,
    /// Copies to a pool of which no medium is there: it may be kept elsewhere, and come once a day.
    pub(crate) pool_away: Duration,
}

/// Concludes.
pub(crate) fn judge(source: &Source, now: jiff::Timestamp, patience: Patience) -> Verdict {
    let mut findings = Vec::new();
    let report = match source {
        Source::Answer(report) => Some(report),
        Source::Silent(report) => {
            findings.push(silent(report.as_ref(), now));
            report.as_ref()
        }
        Source::Nobody(unread, report) => {
            findings.extend(nobody(unread));
            report.as_ref().filter(|_| !unread.is_empty())
        }
    };
    let is_heard = matches!(source, Source::Answer(_));
    let volumes = report.map_or(&[][..], |report| &report.volumes);
    if let Source::Answer(report) | Source::Silent(Some(report)) = source {
        findings.extend(report.stalls.iter().map(|stall| stalled("", stall)));
        if report.volumes.is_empty() {
            findings.push(finding(
                (Level::Critical, NOTHING_THERE),
                "",
                "nothing is recorded".to_owned(),
                "attach a volume",
            ));
        }
        for volume in volumes {
            examine(volume, patience, &mut findings);
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse((finding.level, urgency(finding.code))));
    Verdict {
        level: findings
            .iter()
            .map(|finding| finding.level)
            .max()
            .unwrap_or(Level::Ok),
        code: findings
            .iter()
            .map(|finding| finding.code)
            .max_by_key(|code| urgency(*code))
            .unwrap_or(0),
        durable: volumes
            .iter()
            .map(|volume| durable(volume, now, is_heard))
            .collect(),
        perfdata: if is_heard {
            perfdata(volumes, patience.stale)
        } else {
            String::new()
        },
        findings,
    }
}

/// What goes first where several things are wrong: what keeps the recorder from working, then what it needs, then what it owes.
fn urgency(code: u8) -> u8 {
    match code {
        0 => 0,
        HOLE => 1,
        STALE => 2,
        MEDIUM_FULL | MEDIUM_NEEDED => 3,
        _ => 4,
    }
}

fn finding((level, code): (Level, u8), path: &str, what: String, todo: &str) -> Finding {
    Finding {
        level,
        code,
        path: path.to_owned(),
        what,
        todo: todo.to_owned(),
    }
}

fn silent(report: Option<&Report>, now: jiff::Timestamp) -> Finding {
    let age_s = report
        .and_then(|report| report.time.parse::<jiff::Timestamp>().ok())
        .map(|time| now.as_second() - time.as_second());
    let what = match (report, age_s) {
        (Some(report), Some(age_s)) if age_s > STATE_AGE_MAX_S => format!(
            "the recorder (process {}) does not answer, and nothing was heard of it since {}",
            report.pid, report.time
        ),
        (Some(report), _) => format!("the recorder (process {}) does not answer", report.pid),
        (None, _) => "the recorder does not answer".to_owned(),
    };
    let todo =
        "start it anew (systemctl restart tapeworm): its programs go on meanwhile, and it goes on from there";
    finding((Level::Critical, FAILED), "", what, todo)
}

fn nobody(unread: &[(String, Unread)]) -> Vec<Finding> {
    let level = (Level::Critical, NOTHING_THERE);
    if unread.is_empty() {
        let todo = "start one: recorder attach PATH --medium DIR, or systemctl start tapeworm";
        return vec![finding(level, "", "no recorder is running here".to_owned(), todo)];
    }
    let left = |(uuid, unread): &(String, Unread)| {
        let Unread {
            captured_seq,
            ring_fill_bytes,
            ring_bytes,
            dropped,
        } = unread;
        let what = format!(
            "no recorder is running here, but the programs of one that ended go on (volume {uuid}): they have captured up to seq \
             {captured_seq}, {} of {} wait in the ring, {dropped} events found no room",
            bytes(*ring_fill_bytes),
            bytes(*ring_bytes)
        );
        finding(
            level,
            "",
            what,
            "start it again before the ring is full: it goes on from there",
        )
    };
    unread.iter().map(left).collect()
}

/// Everything about one volume.
fn examine(volume: &VolumeStatus, patience: Patience, findings: &mut Vec<Finding>) {
    let stale = patience.stale;
    let path = &volume.path;
    if let Some(failure) = &volume.failure {
        let todo = "see the log, then start the recorder anew: it goes on from there";
        findings.push(finding(
            (Level::Critical, FAILED),
            path,
            format!("recording does not go on: {failure}"),
            todo,
        ));
    }
    if let Some(since) = &volume.blind_since {
        let what = format!("the programs in the kernel do not see changes since {since}");
        findings.push(finding(
            (Level::Critical, FAILED),
            path,
            what,
            "detach and attach again",
        ));
    }
    if !volume.is_passing {
        let what = format!(
            "captured up to seq {}, but nothing has passed seq {} for two minutes",
            volume.captured_seq, volume.passed_seq
        );
        findings.push(finding(
            (Level::Critical, FAILED),
            path,
            what,
            "start the recorder anew",
        ));
    }
    findings.extend(volume.stalls.iter().map(|stall| stalled(path, stall)));
    findings.extend(medium(volume, stale));
    if volume.state == "base" {
        let what = "the base is still being taken: nothing of this epoch can be restored yet".to_owned();
        findings.push(finding(
            (Level::Warning, STALE),
            path,
            what,
            "wait until it is complete",
        ));
    }
    if volume.behind_s > stale.as_secs() {
        let what = format!(
            "not everything is durable since {} ({} s): {} numbers are behind",
            volume.durable_time,
            volume.behind_s,
            volume.captured_seq.saturating_sub(volume.safe_seq)
        );
        let todo = match volume.medium_state.trouble {
            Some(_) => "as said of the medium",
            None => "wait, or find a faster medium",
        };
        findings.push(finding((Level::Critical, STALE), path, what, todo));
    }
    findings.extend(copies(volume, patience));
    if volume.holes_open > 0 {
        let what = format!("{} holes are open", volume.holes_open);
        let todo = "wait: what was lost is being read again; where it cannot be, the log says why";
        findings.push(finding((Level::Warning, HOLE), path, what, todo));
    }
}

/// What a thread that does not move means depends on where it is.
fn stalled(path: &str, stall: &Stall) -> Finding {
    let (level, todo) = match stall.place {
        Place::Medium if stall.for_s < MEDIUM_CALL_MAX_S => (
            (Level::Warning, MEDIUM_NEEDED),
            "wait: a slow medium is waited for",
        ),
        Place::Medium => (
            (Level::Critical, MEDIUM_NEEDED),
            "look at the medium and the kernel's log",
        ),
        Place::Copies => (
            (Level::Warning, STALE),
            "look at the media for copies and the kernel's log: recording goes on meanwhile",
        ),
        Place::Volume | Place::Sync => (
            (Level::Warning, FAILED),
            "look at the recorded file system: is it frozen, or its disk in trouble?",
        ),
        Place::Spool => ((Level::Critical, FAILED), "look at the disk of the spool"),
        Place::Own => (
            (Level::Critical, FAILED),
            "start the recorder anew, and report it with its log",
        ),
    };
    finding(level, path, stall.to_string(), todo)
}

fn medium(volume: &VolumeStatus, stale: Duration) -> Option<Finding> {
    let MediumStatus {
        trouble,
        exit_code,
        trouble_s,
        free_bytes: _,
        uuid,
        name,
    } = &volume.medium_state;
    let trouble = trouble.as_ref()?;
    let is_tight = volume.spool_used_bytes * 100 >= volume.spool_bytes_max * SPOOL_TIGHT;
    let level = if is_tight || volume.behind_s > stale.as_secs() {
        Level::Critical
    } else {
        Level::Warning
    };
    let lasts = volume.spool_left_s.map_or_else(String::new, |seconds| {
        format!(", the spool lasts {} min more", seconds / 60)
    });
    let todo = match *exit_code {
        MEDIUM_FULL => format!("make room on the medium at {}", volume.medium),
        _ => format!("mount the medium {name} ({uuid}) at {}, writable", volume.medium),
    };
    let what = format!("{trouble}, for {trouble_s} s{lasts}");
    Some(finding(
        (level, *exit_code),
        &volume.path,
        what,
        &format!("{todo}: recording goes on by itself"),
    ))
}

/// What has no copy for too long.
fn copies(volume: &VolumeStatus, Patience { stale, pool_away }: Patience) -> Vec<Finding> {
    let Some(copies) = &volume.copies else {
        return Vec::new();
    };
    let level = (Level::Warning, STALE);
    let may_wait = |pool: &PoolStatus| if pool.there.is_empty() { pool_away } else { stale };
    let late = copies
        .pools
        .iter()
        .filter(|pool| pool.behind_s > may_wait(pool).as_secs());
    let mut findings: Vec<Finding> = late
        .map(|pool| {
            let what = format!("pool {} has not all copies: {}", pool.pool, pool.behind_as_text());
            let todo = match &pool.waits {
                Some(_) => "as said: copying goes on by itself",
                None => "wait: copies are being made",
            };
            finding(level, &volume.path, what, todo)
        })
        .collect();
    if copies.without_pool_s > stale.as_secs() {
        let places = copies.places.iter();
        let places: Vec<String> = places
            .map(|place| format!("{}: {}", place.path, place.why))
            .collect();
        let what = format!(
            "no medium takes copies for {} s ({})",
            copies.without_pool_s,
            places.join("; ")
        );
        let todo = "mount one there, labelled with `recorder media label DIR --copies --pool NAME`";
        findings.push(finding(level, &volume.path, what, todo));
    }
    if let Some(trouble) = &copies.trouble {
        let what = format!("copies: {trouble}");
        findings.push(finding(level, &volume.path, what, "see the log"));
    }
    findings
}

/// How far a volume is durable, for people. Of what was captured since a recorder that is not heard of any more, nothing is known.
fn durable(volume: &VolumeStatus, now: jiff::Timestamp, is_heard: bool) -> String {
    let (path, time) = (&volume.path, &volume.durable_time);
    if is_heard && volume.captured_seq <= volume.safe_seq {
        return format!("{path}: everything is durable");
    }
    let age = time.parse::<jiff::Timestamp>().map_or_else(
        |_| String::new(),
        |time| format!(" ({} s ago)", now.as_second() - time.as_second()),
    );
    format!("{path}: durable is what happened before {time}{age}")
}

/// `'label'=value[unit];warn;crit;min;max`, as plugins print them.
fn perfdata(volumes: &[VolumeStatus], stale: Duration) -> String {
    let mut text = String::new();
    for volume in volumes {
        // A quote is said by two, and a label knows no equals sign.
        let label = volume.path.replace('\'', "''").replace('=', "_");
        let _infallible = write!(
            text,
            "'{label} behind'={}s;;{};0 '{label} holes'={};0;;0 '{label} ring'={}B;;;0;{} '{label} spool'={}B;;;0;{} ",
            volume.behind_s,
            stale.as_secs(),
            volume.holes_open,
            volume.ring_fill_bytes,
            volume.ring_bytes,
            volume.spool_used_bytes,
            volume.spool_bytes_max,
        );
    }
    text.trim_end().to_owned()
}

impl Finding {
    /// What it is, and of which volume.
    pub(crate) fn as_text(&self) -> String {
        let Self { path, what, .. } = self;
        if path.is_empty() {
            what.clone()
        } else {
            format!("{path}: {what}")
        }
    }
}

impl Verdict {
    /// For people: what is wrong, what to do, how far it is durable.
    pub(crate) fn as_text(&self) -> String {
        let mut lines = Vec::new();
        for finding in &self.findings {
            let (word, _) = finding.level.as_plugin();
            lines.push(format!("{word}: {}", finding.as_text()));
            lines.push(format!("  do: {}", finding.todo));
        }
        lines.extend(self.durable.clone());
        if self.findings.is_empty() {
            lines.push("nothing is to be done".to_owned());
        }
        lines.join("\n")
    }

    /// As monitoring plugins say it: one line, and its exit code.
    pub(crate) fn as_plugin(&self) -> (String, u8) {
        let (word, code) = self.level.as_plugin();
        let said: Vec<String> = self.findings.iter().map(Finding::as_text).collect();
        let text = if said.is_empty() {
            self.durable.join("; ")
        } else {
            said.join("; ")
        };
        // A bar begins the values, and a plugin says one line.
        let text = text.replace(['|', '\n'], " ");
        let line = if self.perfdata.is_empty() {
            format!("{word} - {text}")
        } else {
            format!("{word} - {text} | {}", self.perfdata)
        };
        (line, code)
    }
}

#[cfg(test)]
mod tests;
