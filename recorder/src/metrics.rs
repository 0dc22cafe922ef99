//! The state as Prometheus reads it: its text format, for node_exporter's textfile collector.
//!
//! Owns the names. Written by hand, some lines: the crate for it (prometheus-client) speaks OpenMetrics, whose counters that collector takes for
//! values of no type.

use std::fmt::Write as _;

use crate::status::{Report, VolumeStatus};

/// The state of every volume; `None` where no recorder answers.
pub(crate) fn as_text(report: Option<&Report>) -> String {
    let mut text = String::new();
    family(&mut text, "up", "gauge", "A recorder runs and answers.");
    let _infallible = writeln!(text, "tapeworm_up {}", u8::from(report.is_some()));
    let Some(report) = report else {
        return text;
    };
    family(
        &mut text,
        "stalled_threads",
        "gauge",
        "Threads that do not move, those of the daemon itself.",
    );
    let _infallible = writeln!(text, "tapeworm_stalled_threads {}", report.stalls.len());
    for Metric {
        name,
        kind,
        help,
        value,
    } in &METRICS
    {
        family(&mut text, name, kind, help);
        for volume in &report.volumes {
            if let Some(value) = value(volume) {
                let _infallible = writeln!(text, "tapeworm_{name}{{{}}} {value}", labels(volume));
            }
        }
    }
    let help = "Bytes of segments that have no copy in a pool yet.";
    family(&mut text, "copies_behind_bytes", "gauge", help);
    for volume in &report.volumes {
        for pool in volume.copies.iter().flat_map(|copies| &copies.pools) {
            let (labels, name, behind) = (labels(volume), escaped(&pool.pool), pool.bytes_behind);
            let _infallible = writeln!(
                text,
                "tapeworm_copies_behind_bytes{{{labels},pool=\"{name}\"}} {behind}"
            );
        }
    }
    text
}

/// One metric of a volume.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// `None` where it cannot be told.
    value: fn(&VolumeStatus) -> Option<i64>,
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&VolumeStatus) -> Option<i64>) -> Metric {
    Metric {
        name,
        kind: "gauge",
        help,
        value,
    }
}

const fn counter(name: &'static str, help: &'static str, value: fn(&VolumeStatus) -> Option<i64>) -> Metric {
    Metric {
        name,
        kind: "counter",
        help,
        value,
    }
}

const METRICS: [Metric; 29] = [
    gauge("recording", "The base is complete and recording goes on.", |v| {
        Some(i64::from(v.state == "recording" && v.failure.is_none()))
    }),
    gauge("epoch", "Epoch that is being written.", |v| number(v.epoch)),
    gauge("captured_seq", "Newest sequence number taken.", |v| {
        number(v.captured_seq)
    }),
    gauge(
        "spooled_seq",
        "Everything up to here is in the spool, synced.",
        |v| number(v.spooled_seq),
    ),
    gauge(
        "durable_seq",
        "Everything up to here is on the medium, synced.",
        |v| number(v.durable_seq),
    ),
    gauge(
        "safe_seq",
        "Everything up to here is on the medium, or changed nothing.",
        |v| number(v.safe_seq),
    ),
    gauge(
        "captured_timestamp_seconds",
        "When the newest sequence number was looked at.",
        |v| seconds(&v.captured_time),
    ),
    gauge(
        "spooled_timestamp_seconds",
        "What was captured before is in the spool.",
        |v| seconds(&v.spooled_time),
    ),
    gauge(
        "durable_timestamp_seconds",
        "What was captured before is on the medium.",
        |v| seconds(&v.durable_time),
    ),
    gauge(
        "lag_seconds",
        "Age of the oldest change that is not on the medium.",
        |v| number(v.behind_s),
    ),
    gauge("holes_open", "Holes that are not repaired.", |v| {
        number(v.holes_open)
    }),
    counter(
        "holes_repaired_total",
        "Holes that were repaired by this recorder.",
        |v| number(v.holes_repaired),
    ),
    counter("missed_hits_total", "Hits that programs missed.", |v| {
        number(v.misses)
    }),
    gauge("ring_fill_bytes", "Bytes that wait in the ring.", |v| {
        number(v.ring_fill_bytes)
    }),
    gauge("ring_bytes", "Bytes that the ring holds.", |v| {
        number(v.ring_bytes)
    }),
    gauge("window_bytes", "Bytes that wait for a missing number.", |v| {
        number(v.window_bytes)
    }),
    gauge("spool_bytes", "Bytes of disk that the spool takes.", |v| {
        number(v.spool_bytes)
    }),
    gauge(
        "spool_used_bytes",
        "Bytes in the spool that hold something.",
        |v| number(v.spool_used_bytes),
    ),
    gauge("spool_max_bytes", "Bytes of disk that the spool may take.", |v| {
        number(v.spool_bytes_max)
    }),
    gauge(
        "spool_left_seconds",
        "Time until the spool is full if the medium takes nothing; none where no changes come.",
        |v| v.spool_left_s.and_then(number),
    ),
    counter(
        "captured_bytes_total",
        "Bytes of events that came from the kernel.",
        |v| number(v.bytes_captured),
    ),
    counter(
        "written_bytes_total",
        "Bytes of segments written to the medium.",
        |v| number(v.bytes_written),
    ),
    counter("segments_total", "Segments sealed.", |v| number(v.segments)),
    counter(
        "throttled_milliseconds_total",
        "Time that writers were held.",
        |v| number(v.throttled_ms),
    ),
    gauge(
        "medium_ok",
        "The medium is there and takes what it is given.",
        |v| Some(i64::from(v.medium_state.trouble.is_none())),
    ),
    gauge("medium_free_bytes", "Bytes that still fit on the medium.", |v| {
        v.medium_state.free_bytes.and_then(number)
    }),
    gauge(
        "volume_stalled_threads",
        "Threads that do not move, those of the volume.",
        |v| i64::try_from(v.stalls.len()).ok(),
    ),
    gauge(
        "passing",
        "What is captured passes within two minutes, or waits for the medium.",
        |v| Some(i64::from(v.is_passing)),
    ),
    gauge("blind", "The programs in the kernel do not see changes.", |v| {
        Some(i64::from(v.blind_since.is_some()))
    }),
];

fn number(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}

fn seconds(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>()
        .ok()
        .map(jiff::Timestamp::as_second)
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _infallible = writeln!(
        text,
        "# HELP tapeworm_{name} {help}\n# TYPE tapeworm_{name} {kind}"
    );
}

/// A value of a label, as it is written between quotes.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn labels(volume: &VolumeStatus) -> String {
    format!(
        "path=\"{}\",volume=\"{}\",medium=\"{}\"",
        escaped(&volume.path),
        escaped(&volume.uuid),
        escaped(&volume.medium_state.uuid)
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::status::{CopiesStatus, PoolStatus};

    #[test]
    fn every_line_is_one_that_prometheus_reads() {
        let volume = |path: &str| VolumeStatus {
            path: path.to_owned(),
            uuid: "u-1".to_owned(),
            durable_time: "1970-01-01T00:01:40Z".to_owned(),
            spool_left_s: None,
            captured_seq: 7,
            ..VolumeStatus::default()
        };
        let mut copied = volume("/srv");
        copied.copies = Some(CopiesStatus {
            pools: vec![PoolStatus {
                pool: "ne\"ar".to_owned(),
                bytes_behind: 9,
                ..PoolStatus::default()
            }],
            ..CopiesStatus::default()
        });
        let report = Report {
            volumes: vec![copied, volume("/a \"b\"\\\nc")],
            ..Report::default()
        };
        let text = as_text(Some(&report));
        assert!(text.ends_with('\n'));
        let mut typed = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(typed.insert(name.to_owned()), "{name} twice");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            } else if !line.starts_with("# HELP ") {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                assert!(typed.contains(name), "{line}: after its family");
                value.parse::<i64>().unwrap();
            }
        }
        let first = "tapeworm_captured_seq{path=\"/srv\",volume=\"u-1\",medium=\"\"} 7\n";
        assert!(text.contains(first), "{text}");
        let behind =
            "tapeworm_copies_behind_bytes{path=\"/srv\",volume=\"u-1\",medium=\"\",pool=\"ne\\\"ar\"} 9\n";
        assert!(text.contains(behind), "{text}");
        assert!(text.contains("path=\"/a \\\"b\\\"\\\\\\nc\""), "{text}");
        assert!(
            text.contains(
                "tapeworm_durable_timestamp_seconds{path=\"/srv\",volume=\"u-1\",medium=\"\"} 100\n"
            )
        );
        assert!(!text.contains("tapeworm_spool_left_seconds{"), "nobody can tell");
    }

    #[test]
    fn without_a_recorder_it_is_not_up() {
        let text = as_text(None);
        assert!(text.ends_with("tapeworm_up 0\n"), "{text}");
    }
}
