//! Results as they are kept: `tests/benchmarks.json` for programs, `docs/benchmarks.md`, made from it, for people.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

use super::Bench;
use super::arms::{self, Turns};
use super::figure::{Figure, interval, median, show_interval, shown};
use crate::setup;

const JSON: &str = "tests/benchmarks.json";
const PAGE: &str = "docs/benchmarks.md";

/// What a benchmark found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) figures: Vec<Figure>,
    /// Seconds by arm and turn.
    arms: BTreeMap<String, Vec<f64>>,
    /// Load of the machine in the minute before each turn.
    loads: Vec<f64>,
    /// Whether caches were dropped before each arm; nothing where there are none.
    dropped: Option<bool>,
    /// Of what, made how.
    pub(super) notes: Vec<String>,
}

impl Measured {
    pub(super) fn new(figures: Vec<Figure>, turns: Option<&Turns>, notes: Vec<String>) -> Result<Self> {
        let arms = turns.map_or_else(BTreeMap::new, |turns| {
            let names = turns.taken.iter().map(|(name, _)| *name);
            names.map(|name| (name.to_owned(), turns.seconds(name))).collect()
        });
        Ok(Self {
            figures,
            arms,
            loads: match turns {
                Some(turns) => turns.loads.clone(),
                None => vec![arms::load()?],
            },
            dropped: turns.map(|turns| turns.dropped),
            notes,
        })
    }
}

/// The same, with when and on what.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    measured: Measured,
    commit: String,
    /// UTC.
    date: String,
    machine: String,
}

/// All results, by benchmark.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Results(BTreeMap<String, Kept>);

impl Results {
    /// Puts a result into the files, in the place of the one before.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub(super) fn put(bench: Bench, measured: Measured) -> Result<()> {
        let root = setup::workspace_root();
        let json = root.join(JSON);
        let lock = File::create(root.join("target/benchmarks.lock")).context("create lock of the results")?;
        lock.lock().context("lock the results")?;
        let mut results: Self = match fs::read(&json) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| format!("parse {JSON}"))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error).with_context(|| format!("read {JSON}")),
        };
        let (commit, date) = setup::stamp(&[JSON, PAGE])?;
        let result = Kept {
            measured,
            commit,
            date,
            machine: machine()?,
        };
        results.0.insert(bench.name(), result);
        setup::keep_results((JSON, &results), (PAGE, &results.page()))
    }

    fn page(&self) -> String {
        let mut page = String::from(
            "# What was measured\n\n\
             Written by `cargo xtask bench`; do not edit. `cargo xtask bench --only NAME` repeats one. Arms run in turns, another one first each time; \
             a time includes the sync of the file system; where two arms are compared, it is by the ratio in the same turn. The interval is the 95 % one of the \
             median by the sign test, which assumes no distribution; of six turns it is from the least to the most. A figure is *reached* where all of the interval \
             is within the limit, *missed* where none of it is, else *unproven*. Source and target lie on the same disk, the target on a blank ext4 of its own in an image there. The load is that of the minute before each turn, with what the \
             turn before did in it; other work ran on the machine where it is above what the arms themselves make.\n\n\
             | what | median | 95 % interval | limit | |\n|---|---|---|---|---|\n",
        );
        let benches = || {
            let all = Bench::value_variants().iter();
            all.filter_map(|bench| Some((bench, self.0.get(&bench.name())?)))
        };
        for (_, result) in benches() {
            for figure in &result.measured.figures {
                page.push_str(&row(figure));
            }
        }
        for (bench, result) in benches() {
            page.push_str(&section(*bench, result));
        }
        page
    }
}

fn row(figure: &Figure) -> String {
    format!(
        "| {} | {} | {} | {} | {} |\n",
        figure.name,
        shown(median(&figure.values)),
        show_interval(&figure.values),
        figure.limit,
        figure.verdict()
    )
}

fn section(bench: Bench, result: &Kept) -> String {
    let Kept {
        measured,
        commit,
        date,
        machine,
    } = result;
    let value = bench.to_possible_value();
    let help = value
        .and_then(|value| value.get_help().map(ToString::to_string))
        .unwrap_or_default();
    let name = bench.name();
    let mut text = format!(
        "\n## {name}\n\n{help}. `cargo xtask bench --only {name}`, {date}, commit {commit}, {machine}.\n\n"
    );
    for note in &measured.notes {
        text.push_str(&format!("- {note}\n"));
    }
    let loads: Vec<_> = measured.loads.iter().map(|load| shown(*load)).collect();
    text.push_str(&format!("- load: {}\n", loads.join(", ")));
    match measured.dropped {
        Some(true) => text.push_str("- the kernel's caches were dropped before each arm\n"),
        Some(false) => text.push_str("- the kernel's caches could NOT be dropped: that takes root\n"),
        None => {}
    }
    if !measured.arms.is_empty() {
        text.push_str("\n| arm | median, s | 95 % interval | turns |\n|---|---|---|---|\n");
    }
    for (arm, seconds) in &measured.arms {
        let turns: Vec<_> = seconds.iter().map(|seconds| shown(*seconds)).collect();
        let of = interval(seconds).map_or_else(String::new, |(low, high)| {
            format!("{} to {}", shown(low), shown(high))
        });
        text.push_str(&format!(
            "| {arm} | {} | {of} | {} |\n",
            shown(median(seconds)),
            turns.join(", ")
        ));
    }
    text
}

/// The machine: processors, memory, kernel.
fn machine() -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
    let (cpus, memory, kernel) = (
        read("/proc/cpuinfo")?,
        read("/proc/meminfo")?,
        read("/proc/sys/kernel/osrelease")?,
    );
    let models: Vec<&str> = cpus
        .lines()
        .filter_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim()))
        .collect();
    let kib: u64 = memory
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    Ok(format!(
        "{} x {}, {} GiB, Linux {}",
        models.len(),
        models.first().unwrap_or(&"unknown processor"),
        kib >> 20,
        kernel.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::super::figure::Limit;
    use super::*;

    #[test]
    fn the_page_tells_figures_arms_and_load() {
        let measured = Measured {
            figures: vec![Figure::new("time", Limit::AtMost(1.25), vec![1.0; 6])],
            arms: BTreeMap::from([("cp -a".to_owned(), vec![2.0, 4.0])]),
            loads: vec![0.5],
            dropped: Some(false),
            notes: vec!["a note".to_owned()],
        };
        let result = Kept {
            measured,
            commit: "abc".to_owned(),
            date: "2026-11-26".to_owned(),
            machine: "a machine".to_owned(),
        };
        let page = Results(BTreeMap::from([("restore".to_owned(), result)])).page();
        for line in [
            "| time | 1.00 | 1.00 to 1.00 | at most 1.25 | reached |\n",
            "- a note\n- load: 0.50\n- the kernel's caches could NOT be dropped",
            "| cp -a | 3.00 |  | 2.00, 4.00 |\n",
            "`cargo xtask bench --only restore`, 2026-11-26, commit abc, a machine.",
        ] {
            assert!(page.contains(line), "{line} is not in {page}");
        }
    }
}
