//! Where the time of recording goes: the programs in the kernel, as it counts them, and the threads of the recorder. Pure.

use super::super::figure::shown;
use super::super::page::Table;
use super::guest::Told;

/// Programs that took less than this part of all are not told one by one.
const TOLD_MIN: f64 = 0.01;

/// Tables of a turn in which the kernel counted; `recorded` and `bare` are the seconds of turns in which it did not.
pub(super) fn tables(told: &Told, recorded: f64, bare: f64) -> Vec<Table> {
    let mut programs: Vec<_> = told
        .programs
        .iter()
        .map(|(name, &(runs, ns))| (name.as_str(), runs, ns))
        .collect();
    programs.sort_by_key(|&(name, _, ns)| (std::cmp::Reverse(ns), name));
    let all_runs: u64 = programs.iter().map(|(_, runs, _)| runs).sum();
    let all_ns: u64 = programs.iter().map(|(_, _, ns)| ns).sum();
    let mut table = Table::new(&[
        "program in the kernel",
        "runs",
        "ms",
        "ns a run",
        "% of a bare turn",
    ]);
    let mut row = |name: &str, runs: u64, ns: u64| {
        let ms = ns as f64 / 1e6;
        table.row(&[
            name.to_owned(),
            runs.to_string(),
            shown(ms),
            shown(ns as f64 / (runs as f64).max(1.0)),
            shown(ms / bare / 10.0),
        ]);
    };
    let (mut rest_runs, mut rest_ns) = (0, 0);
    for (name, runs, ns) in programs {
        if ns as f64 >= all_ns as f64 * TOLD_MIN {
            row(&format!("`{name}`"), runs, ns);
        } else {
            (rest_runs, rest_ns) = (rest_runs + runs, rest_ns + ns);
        }
    }
    row("the others", rest_runs, rest_ns);
    row("all", all_runs, all_ns);
    let mut tables = vec![table];
    if let Some(recorder) = &told.recorder {
        let mut table = Table::new(&["where the time goes, in the turn in which the kernel counted", ""]);
        let mut row = |what: &str, value: f64| table.row(&[what.to_owned(), shown(value)]);
        row(
            "seconds that recording adds to a turn, median, not counting",
            recorded - bare,
        );
        row("seconds in programs in the kernel", all_ns as f64 / 1e9);
        row(
            "ns in programs for an event",
            all_ns as f64 / recorder.events.max(1.0),
        );
        row(
            "ns in programs for a captured KiB",
            all_ns as f64 / (recorder.bytes_captured / 1024.0).max(1.0),
        );
        row(
            "ns of the recorder for an event",
            recorder.cpu_s * 1e9 / recorder.events.max(1.0),
        );
        for (name, seconds) in &told.threads {
            row(
                &format!("processor seconds of the recorder's thread `{name}`"),
                *seconds,
            );
        }
        tables.push(table);
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_stand_by_their_time_and_small_ones_together() {
        let told = serde_json::json!({
            "arm": "recorded", "turn": -1, "seconds": 1.0,
            "programs": {"small": [5, 1], "large": [2, 3_000_000], "middle": [10, 1_000_000]},
        });
        let told: Told = serde_json::from_value(told).unwrap();
        let text = tables(&told, 1.5, 1.0)[0].text();
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| `large` | 2 | 3.00 | 1500000 | 0.30 |",
                "| `middle` | 10 | 1.00 | 100000 | 0.10 |",
                "| the others | 5 | 0.00 | 0.20 | 0.00 |",
                "| all | 17 | 4.00 | 235294 | 0.40 |",
            ]
        );
    }
}
