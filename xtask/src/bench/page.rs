//! Results as they are kept: `tests/benchmarks.json` for programs, `docs/benchmarks.md`, made from it, for people.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

use super::arms::{self, Turns};
use super::figure::{Figure, Limit, interval, median, show_interval, shown};
use super::plot::{self, Row};
use super::{Bench, Part};
use crate::setup;

const JSON: &str = "tests/benchmarks.json";
const PAGE: &str = "docs/benchmarks.md";
/// The chart of what is measured in machines, beside the page.
const CHART: &str = "docs/benchmarks-recording.svg";
/// Arm that the others are compared with there.
const BARE: &str = "bare";

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
    /// What else was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tables: Vec<Table>,
}

/// A table of the page.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self {
            head: head.iter().map(ToString::to_string).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, with as many cells as the head has.
    pub(super) fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.to_vec());
    }

    /// As Markdown.
    pub(super) fn text(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let under = format!("|{}\n", "---|".repeat(self.head.len()));
        let rows: String = self.rows.iter().map(|cells| line(cells)).collect();
        line(&self.head) + &under + &rows
    }
}

impl Measured {
    /// What was measured in a machine of its own: seconds by arm and turn, the host's load by turn.
    pub(super) fn in_machine(
        figures: Vec<Figure>,
        arms: &[(&str, Vec<f64>)],
        loads: Vec<f64>,
        notes: Vec<String>,
        tables: Vec<Table>,
    ) -> Self {
        let arms = arms
            .iter()
            .map(|(name, seconds)| ((*name).to_owned(), seconds.clone()));
        Self {
            figures,
            arms: arms.collect(),
            loads,
            dropped: None,
            notes,
            tables,
        }
    }

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
            tables: Vec::new(),
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

/// All results, by benchmark, or by benchmark and work.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Results(BTreeMap<String, Kept>);

impl Results {
    /// Puts a result into the files, in the place of the one before.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub(super) fn put(part: Part, measured: Measured) -> Result<()> {
        let root = setup::workspace_root();
        let json = root.join(JSON);
        let lock = File::create(root.join("target/benchmarks.lock")).context("create lock of the results")?;
        lock.lock().context("lock the results")?;
        let mut results: Self = match fs::read(&json) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| format!("parse {JSON}"))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error).with_context(|| format!("read {JSON}")),
        };
        let (commit, date) = setup::stamp(&[JSON, PAGE, CHART])?;
        let result = Kept {
            measured,
            commit,
            date,
            machine: machine()?,
        };
        results.0.insert(part.name(), result);
        let rows = results.rows();
        if !rows.is_empty() {
            let chart = plot::chart("Time while another file system, or this one, is recorded", &rows)?;
            fs::write(root.join(CHART), chart).with_context(|| format!("write {CHART}"))?;
        }
        setup::keep_results((JSON, &results), (PAGE, &results.page()))
    }

    /// What was measured in machines against a bare arm, as the chart shows it.
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for part in Bench::Record.parts(&[]) {
            let (Some(result), Some(work)) = (self.0.get(&part.name()), part.work) else {
                continue;
            };
            let arms = &result.measured.arms;
            let Some(bare) = arms.get(BARE) else { continue };
            let others = arms.iter().filter(|(name, _)| *name != BARE);
            let ratio = |(name, seconds): (&String, &Vec<f64>)| {
                let ratios = seconds.iter().zip(bare).map(|(ours, bare)| ours / bare);
                (name.clone(), ratios.collect())
            };
            rows.push(Row {
                name: work.name(),
                ratios: others.map(ratio).collect(),
                limit: match work.limit() {
                    Limit::AtMost(most) => Some(most),
                    Limit::AtLeast(_) | Limit::None => None,
                },
            });
        }
        rows
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
        let parts = || {
            let all = Bench::value_variants().iter().flat_map(|bench| bench.parts(&[]));
            all.filter_map(|part| Some((part, self.0.get(&part.name())?)))
        };
        for (_, result) in parts() {
            for figure in &result.measured.figures {
                page.push_str(&row(figure));
            }
        }
        if let (false, Some((_, name))) = (self.rows().is_empty(), CHART.split_once('/')) {
            page.push_str(&format!("\n![Time while recording, against bare]({name})\n"));
        }
        for (part, result) in parts() {
            page.push_str(&section(part, result));
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

fn section(part: Part, result: &Kept) -> String {
    let Kept {
        measured,
        commit,
        date,
        machine,
    } = result;
    let (name, help, command) = (part.name(), part.help(), part.command());
    let mut text = format!("\n## {name}\n\n{help}. `{command}`, {date}, commit {commit}, {machine}.\n\n");
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
    for table in &measured.tables {
        text.push('\n');
        text.push_str(&table.text());
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
    use super::*;

    #[test]
    fn the_page_tells_figures_arms_and_load() {
        let measured = Measured {
            figures: vec![Figure::new("time", Limit::AtMost(1.25), vec![1.0; 6])],
            arms: BTreeMap::from([("cp -a".to_owned(), vec![2.0, 4.0])]),
            loads: vec![0.5],
            dropped: Some(false),
            notes: vec!["a note".to_owned()],
            tables: Vec::new(),
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
