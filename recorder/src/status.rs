//! The state of recorded volumes as JSON and as text.
//!
//! Owns the field names of `recorder status --json` and the text forms of answers; it measures nothing itself.

mod copies;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::exit::FAILED;
use crate::daemon::Base;
use crate::media::catalog::show_runs;
use crate::pulse::Stall;
pub(crate) use copies::{CopiesStatus, MediumThere, PlaceStatus, PoolStatus};

/// Everything that a recorder knows of itself: its answer to `status`, and what it leaves in its state file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// When this was so, RFC 3339.
    pub(crate) time: String,
    /// Its process.
    pub(crate) pid: u32,
    /// It has ended, as told, and left its programs in the kernel.
    pub(crate) has_ended: bool,
    /// Threads of the daemon itself that do not move.
    pub(crate) stalls: Vec<Stall>,
    /// The volumes.
    pub(crate) volumes: Vec<VolumeStatus>,
}

/// Longest state file in bytes.
const STATE_BYTES_MAX: u64 = 16 << 20;

impl Report {
    /// What a recorder left there.
    ///
    /// # Errors
    /// No file, or one that is none of these.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let context = || format!("read {}", path.display());
        let file = File::open(path).with_context(context)?;
        serde_json::from_reader(BufReader::new(file.take(STATE_BYTES_MAX))).with_context(context)
    }
}

/// The medium of a volume.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct MediumStatus {
    /// Why it does not take what it is given, or would not.
    pub(crate) trouble: Option<String>,
    /// The exit code of that; 0 where there is no trouble.
    pub(crate) exit_code: u8,
    /// For how long.
    pub(crate) trouble_s: u64,
    /// Bytes that still fit, where it can tell.
    pub(crate) free_bytes: Option<u64>,
    /// Uuid on its label.
    pub(crate) uuid: String,
    /// What people call it.
    #[serde(default)]
    pub(crate) name: String,
}

/// One volume in `recorder status --json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct VolumeStatus {
    /// Path as given.
    pub(crate) path: String,
    /// The file system's own uuid.
    pub(crate) uuid: String,
    /// `base`, `recording` or `failed`.
    pub(crate) state: String,
    /// Number of the epoch.
    pub(crate) epoch: u64,
    /// Newest sequence number taken.
    pub(crate) captured_seq: u64,
    /// Everything up to here is on the volume's own disk, as the newest barrier says; 0 before the first.
    pub(crate) barrier_seq: u64,
    /// Everything up to here is in the spool, synced.
    pub(crate) spooled_seq: u64,
    /// Everything up to here is in order, decoded and handed to the writer of the journal.
    pub(crate) passed_seq: u64,
    /// Everything up to here is on the medium, synced.
    pub(crate) durable_seq: u64,
    /// Everything up to here is on the medium, or changed nothing.
    pub(crate) safe_seq: u64,
    /// When `captured_seq` was the newest number, RFC 3339.
    pub(crate) captured_time: String,
    /// What was captured before this time is in the spool, synced.
    pub(crate) spooled_time: String,
    /// What was captured before this time is on the medium, synced.
    pub(crate) durable_time: String,
    /// Age of the oldest change that is not on the medium; 0 where there is none.
    pub(crate) behind_s: u64,
    /// Bytes that wait in the ring.
    pub(crate) ring_fill_bytes: u64,
    /// Bytes that the ring holds.
    pub(crate) ring_bytes: u64,
    /// Bytes in memory that wait for a missing number.
    pub(crate) window_bytes: u64,
    /// Bytes of disk that the spool takes.
    pub(crate) spool_bytes: u64,
    /// Of these, bytes that hold something.
    pub(crate) spool_used_bytes: u64,
    /// Most bytes of disk that it may take.
    pub(crate) spool_bytes_max: u64,
    /// Seconds until it is full if the medium takes nothing and changes come as in the last ten minutes.
    pub(crate) spool_left_s: Option<u64>,
    /// Bytes of events that came from the kernel.
    pub(crate) bytes_captured: u64,
    /// Bytes of segments on the medium, written in this run.
    pub(crate) bytes_written: u64,
    /// Time that writers were held since the programs were attached, milliseconds.
    pub(crate) throttled_ms: u64,
    /// Events from the kernel.
    pub(crate) events: u64,
    /// Holes that are not repaired.
    pub(crate) holes_open: u64,
    /// Holes that were repaired in this run.
    pub(crate) holes_repaired: u64,
    /// Hits that programs missed.
    pub(crate) misses: u64,
    /// Segments sealed in this run.
    pub(crate) segments: u64,
    /// How its base was taken.
    pub(crate) base: Base,
    /// Directory of the medium.
    pub(crate) medium: String,
    /// How it is.
    pub(crate) medium_state: MediumStatus,
    /// Copies of it, where any are wanted.
    #[serde(default)]
    pub(crate) copies: Option<CopiesStatus>,
    /// The age recipients that the journal is encrypted to; none where it is not.
    #[serde(default)]
    pub(crate) recipients: Vec<String>,
    /// Threads that do not move.
    pub(crate) stalls: Vec<Stall>,
    /// What is captured passes.
    pub(crate) is_passing: bool,
    /// Since when the programs do not see changes, RFC 3339.
    pub(crate) blind_since: Option<String>,
    /// Why recording stopped.
    pub(crate) failure: Option<String>,
    /// Why recording stopped, or what it waits for.
    pub(crate) error: Option<String>,
}

/// `recorder status` as text: one paragraph per volume.
pub(crate) fn as_text(answer: &Value) -> String {
    let mut text = String::new();
    for volume in volumes(answer) {
        let number = |name: &str| volume[name].as_u64().unwrap_or_default();
        let word = |name: &str| volume[name].as_str().unwrap_or("?").to_owned();
        let behind = number("captured_seq").saturating_sub(number("durable_seq"));
        let _infallible = write!(
            text,
            "{}: {}\n  volume   {} epoch {}\n  medium   {}\n  captured seq {}  spooled seq {}  on the medium seq {} ({behind} behind)\n  \
             events   {} ({})  ring {}  spool {}  written {} in {} segments\n  holes    {} open, {} missed hits\n  slowed   {} s\n",
            word("path"),
            word("state"),
            word("uuid"),
            number("epoch"),
            word("medium"),
            number("captured_seq"),
            number("spooled_seq"),
            number("durable_seq"),
            number("events"),
            bytes(number("bytes_captured")),
            bytes(number("ring_fill_bytes")),
            bytes(number("spool_bytes")),
            bytes(number("bytes_written")),
            number("segments"),
            number("holes_open"),
            number("misses"),
            number("throttled_ms") / 1000,
        );
        let age = number("behind_s");
        let until = match number("captured_seq") > number("safe_seq") {
            true => format!("up to {}, {age} s ago", word("durable_time")),
            false => "everything".to_owned(),
        };
        let _infallible = writeln!(text, "  durable  {until}");
        text.push_str(&copies::as_text(&volume["copies"]));
        let recipients: Vec<&str> = volume["recipients"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !recipients.is_empty() {
            let _infallible = writeln!(text, "  encrypted to {}", recipients.join(", "));
        }
        let base = &volume["base"];
        if let Some(why) = base["whole_because"].as_str() {
            let _infallible = writeln!(text, "  base     whole: {why}");
        } else if base["continues"].is_object() {
            let _infallible = writeln!(
                text,
                "  base     from epoch {} seq {}: {} inodes looked at, {} differed, {} in doubt, {} gone",
                base["continues"]["epoch"],
                base["continues"]["seq"],
                base["looked_at"],
                base["differed"],
                base["in_doubt"],
                base["gone"]
            );
        }
        if volume["rehearsal"].is_object() {
            let _infallible = writeln!(text, "  rehearsed {}", rehearsal_as_text(&volume["rehearsal"]));
        }
        if let Some(error) = volume["error"].as_str() {
            let _infallible = writeln!(text, "  error    {error}");
        }
    }
    if text.is_empty() {
        "nothing is recorded".to_owned()
    } else {
        text
    }
}

/// Directory where rehearsals leave their results.
const REHEARSED_DIR: &str = "/var/lib/tapeworm/rehearsed";
/// Longest result of a rehearsal in bytes.
const REHEARSAL_BYTES_MAX: u64 = 4 << 20;

/// Adds to a status what the last rehearsal of each volume left, as far as there was one.
pub(crate) fn add_rehearsals(answer: &mut Value) {
    for volume in answer["volumes"].as_array_mut().into_iter().flatten() {
        let found = volume["uuid"].as_str().and_then(rehearsal);
        if let Some(found) = found {
            volume["rehearsal"] = found;
        }
    }
}

fn rehearsal(uuid: &str) -> Option<Value> {
    let path = Path::new(REHEARSED_DIR).join(format!("{uuid}.json"));
    let file = File::open(path).ok()?;
    serde_json::from_reader(BufReader::new(file.take(REHEARSAL_BYTES_MAX))).ok()
}

/// A rehearsal for people.
fn rehearsal_as_text(rehearsal: &Value) -> String {
    let time = rehearsal["time"].as_str().unwrap_or("?");
    match (rehearsal["same"] == true, rehearsal["error"].as_str()) {
        (true, _) => format!("{time}: the same, {} names", rehearsal["entries"]),
        (false, Some(error)) => format!("{time}: FAILED: {error}"),
        (false, None) => format!("{time}: DIFFERENT, {} differences", rehearsal["difference_count"]),
    }
}

/// 1 where a volume is in error: a script that only looks at the code must see it.
pub(crate) fn exit_code(answer: &Value) -> u8 {
    if volumes(answer).iter().any(|volume| volume["error"].is_string()) {
        FAILED
    } else {
        0
    }
}

/// The answer to `mark` as text.
pub(crate) fn marks_as_text(answer: &Value) -> String {
    lines(answer, |volume| {
        format!(
            "mark {} volume {} seq {} at {}",
            volume["name"], volume["uuid"], volume["seq"], volume["time"]
        )
    })
}

/// The answer to `flush` as text.
pub(crate) fn flush_as_text(answer: &Value) -> String {
    lines(answer, |volume| {
        if volume["waited"] == true {
            format!(
                "durable volume {} seq {} segment {}",
                volume["uuid"], volume["durable_seq"], volume["segment"]
            )
        } else {
            format!("flushing volume {} up to seq {}", volume["uuid"], volume["seq"])
        }
    })
}

/// The answer to `checkpoint` as text.
pub(crate) fn checkpoint_as_text(answer: &Value) -> String {
    lines(answer, |volume| {
        format!(
            "checkpoint of volume {} epoch {} seq {}: {} inodes, {}",
            volume["uuid"],
            volume["epoch"],
            volume["seq"],
            volume["inodes"],
            bytes(volume["bytes"].as_u64().unwrap_or(0))
        )
    })
}

/// The answer to `media eject` as text.
pub(crate) fn eject_as_text(answer: &Value) -> String {
    lines(answer, |volume| {
        if volume["pool"].is_string() {
            return copies::ejected_as_text(volume);
        }
        let mut text = format!(
            "ejected medium {} ({}): {} may be unmounted; everything of {} up to seq {} is there",
            volume["medium"]["name"],
            volume["medium"]["uuid"],
            volume["at"],
            volume["path"],
            volume["durable_seq"]
        );
        let single = volume["single_copy"].as_array().map_or(&[][..], Vec::as_slice);
        for runs in single {
            let runs: Vec<(u64, u64)> = serde_json::from_value(runs.clone()).unwrap_or_default();
            let _infallible = write!(text, "; it holds the only copy of segments {}", show_runs(&runs));
        }
        let next = match volume["next"].as_str() {
            Some(next) => format!("; goes on on medium {next}"),
            None => "; THE NEXT MEDIUM IS NEEDED".to_owned(),
        };
        text + &next
    })
}

/// The answer to `detach` as text.
pub(crate) fn detach_as_text(answer: &Value) -> String {
    lines(answer, |volume| {
        let (path, uuid, seq) = (&volume["path"], &volume["uuid"], &volume["durable_seq"]);
        if seq.is_null() {
            return format!("detached volume {uuid}, for which no recorder was running");
        }
        format!("detached {path} volume {uuid} seq {seq}")
    })
}

/// What is to be said of an answer whose moment lies within open holes, if it does; the exit code is [`HOLE`] then.
pub(crate) fn holes_as_text(answer: &Value) -> Option<String> {
    let text = lines(answer, |volume| match volume["holes_open"].as_u64() {
        None | Some(0) => String::new(),
        Some(open) => format!(
            "{}: {open} holes are open: what was lost is not read again yet, or cannot be, and a restore of this moment is refused \
             (`recorder status` counts them, the log names them)",
            volume["path"]
        ),
    });
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn volumes(answer: &Value) -> &[Value] {
    answer["volumes"].as_array().map_or(&[], Vec::as_slice)
}

fn lines(answer: &Value, line: impl Fn(&Value) -> String) -> String {
    // Strings without their quotes: these lines are for people and for `awk`.
    volumes(answer)
        .iter()
        .map(|volume| line(volume).replace('"', ""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A time, given in milliseconds since 1970, to the second.
pub(crate) fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_second(ms.div_euclid(1000)).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

/// Bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_names_state_and_lag() {
        let status = VolumeStatus {
            path: "/srv".to_owned(),
            state: "recording".to_owned(),
            captured_seq: 100,
            durable_seq: 90,
            recipients: vec!["age1a".to_owned(), "age1b".to_owned()],
            ..VolumeStatus::default()
        };
        let answer = json!({ "volumes": [status] });
        let text = as_text(&answer);
        assert!(
            text.contains("/srv: recording") && text.contains("(10 behind)"),
            "{text}"
        );
        assert!(text.contains("0 missed hits"), "{text}");
        assert!(text.contains("encrypted to age1a, age1b\n"), "{text}");
        assert_eq!(exit_code(&answer), 0);
        assert_eq!(exit_code(&json!({ "volumes": [{ "error": "x" }] })), FAILED);
    }

    #[test]
    fn open_holes_are_said() {
        let volume = |path: &str, holes_open: u64| json!({ "path": path, "holes_open": holes_open });
        let text = holes_as_text(&json!({ "volumes": [volume("/a", 0), volume("/b", 7)] })).unwrap();
        assert!(text.starts_with("/b: 7 holes are open"), "{text}");
        assert_eq!(holes_as_text(&json!({ "volumes": [volume("/a", 0), {}] })), None);
    }

    #[test]
    fn mark_line() {
        let answer = json!({ "volumes": [{ "name": "m", "uuid": "u", "seq": 7, "time": "t" }] });
        assert_eq!(marks_as_text(&answer), "mark m volume u seq 7 at t");
    }
}
