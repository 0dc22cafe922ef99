//! Results as they are kept: `tests/reliability.json` for programs, `docs/reliability.md`, made from it, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

use super::{Fault, Run};
use crate::setup;
use crate::vm::figures::Figures;

const JSON: &str = "tests/reliability.json";
const PAGE: &str = "docs/reliability.md";
/// Where faults are provoked that need no machine.
const HOST: &str = "host";
/// Bytes of a failure that are kept.
const DETAIL_BYTES_MAX: usize = 400;

/// One run, as it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    /// Faults provoked.
    faults: u64,
    passed: bool,
    /// What it said where it failed.
    detail: String,
    figures: Figures,
    commit: String,
    /// UTC.
    date: String,
}

/// All runs: fault, then where, then seed.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Results {
    runs: BTreeMap<String, BTreeMap<String, BTreeMap<u64, Outcome>>>,
}

impl Results {
    /// Puts a run into the files; the same run of before gives way, others stay.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub(super) fn add(run: &Run, outcome: Result<Figures>) -> Result<()> {
        let root = setup::workspace_root();
        let json = root.join(JSON);
        // Several may be run at the same time.
        fs::create_dir_all(root.join("target")).context("create target")?;
        let lock =
            File::create(root.join("target/reliability.lock")).context("create lock of the results")?;
        lock.lock().context("lock the results")?;
        let mut results: Self = match fs::read(&json) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| format!("parse {JSON}"))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error).with_context(|| format!("read {JSON}")),
        };
        let (commit, date) = setup::stamp(&[JSON, PAGE])?;
        let (passed, detail, figures) = match outcome {
            Ok(figures) => (true, String::new(), figures),
            Err(error) => (
                false,
                format!("{error:#}").chars().take(DETAIL_BYTES_MAX).collect(),
                Figures::new(),
            ),
        };
        let place = run
            .cell
            .map_or_else(|| HOST.to_owned(), |(kernel, fs)| format!("{kernel} {fs}"));
        let result = Outcome {
            faults: run.faults,
            passed,
            detail,
            figures,
            commit,
            date,
        };
        results
            .runs
            .entry(run.fault.name())
            .or_default()
            .entry(place)
            .or_default()
            .insert(run.seed, result);
        setup::keep_results((JSON, &results), (PAGE, &results.page()))
    }

    fn page(&self) -> String {
        let mut page = String::from(
            "# What was provoked, and what came of it\n\n\
             Written by `cargo xtask test --reliability`; do not edit. Every run is repeated by its fault, kernel, file system and seed \
             (`--fault`, `--kernel`, `--fs`, `--run-seed`, `--runs 1`); the scenarios are in `tests/scenarios`. *Same* counts restored trees that \
             equal the recorded one, by content, names, times, attributes. Timings are of emulated machines: only ratios of one run tell anything.\n",
        );
        for fault in Fault::value_variants() {
            let Some(places) = self.runs.get(&fault.name()) else {
                continue;
            };
            let help = fault
                .to_possible_value()
                .and_then(|value| value.get_help().map(ToString::to_string));
            page.push_str(&format!(
                "\n## {}\n\n{}.\n\n",
                fault.name(),
                help.unwrap_or_default()
            ));
            page.push_str("| where | runs | passed | faults | same | seeds | commits |\n|---|---|---|---|---|---|---|\n");
            for (place, runs) in places {
                page.push_str(&row(place, runs));
            }
            page.push_str(&figures(places));
            for (place, runs) in places {
                for (seed, run) in runs.iter().filter(|(_, run)| !run.passed) {
                    page.push_str(&format!(
                        "\n- FAILED on {place}, seed {seed}: `{}`\n",
                        run.detail.replace(['\n', '`'], " ")
                    ));
                }
            }
        }
        page
    }
}

fn row(place: &str, runs: &BTreeMap<u64, Outcome>) -> String {
    let sum = |of: &dyn Fn(&Outcome) -> u64| runs.values().map(of).sum::<u64>();
    let same = sum(&|run| {
        run.figures
            .get("same")
            .and_then(|same| same.parse().ok())
            .unwrap_or(0)
    });
    let seeds: Vec<_> = runs.keys().map(u64::to_string).collect();
    let commits: BTreeSet<_> = runs
        .values()
        .map(|run| format!("{} {}", run.date, run.commit))
        .collect();
    format!(
        "| {place} | {} | {} | {} | {same} | {} | {} |\n",
        runs.len(),
        sum(&|run| u64::from(run.passed)),
        sum(&|run| run.faults),
        seeds.join(" "),
        commits.into_iter().collect::<Vec<_>>().join(", ")
    )
}

/// What runs measured, but for what the table above has.
fn figures(places: &BTreeMap<String, BTreeMap<u64, Outcome>>) -> String {
    let mut lines = String::new();
    for (place, runs) in places {
        for (seed, run) in runs {
            let told: Vec<_> = run
                .figures
                .iter()
                .filter(|(name, _)| *name != "same")
                .map(|(name, value)| format!("{} {value}", name.replace('_', " ")))
                .collect();
            if !told.is_empty() {
                lines.push_str(&format!("- {place}, seed {seed}: {}\n", told.join(", ")));
            }
        }
    }
    if lines.is_empty() {
        lines
    } else {
        format!("\n{lines}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_counts_what_passed_and_names_what_failed() {
        let run = |passed, same: &str| Outcome {
            faults: 5,
            passed,
            detail: if passed {
                String::new()
            } else {
                "a mark differs".to_owned()
            },
            figures: Figures::from([
                ("same".to_owned(), same.to_owned()),
                ("peak_kib".to_owned(), "7".to_owned()),
            ]),
            commit: "abc".to_owned(),
            date: "2026-01-01".to_owned(),
        };
        let mut results = Results::default();
        let places = results.runs.entry("power-cut".to_owned()).or_default();
        places.insert(
            "6.1 xfs".to_owned(),
            BTreeMap::from([(3, run(true, "6")), (4, run(false, "1"))]),
        );
        let page = results.page();
        assert!(
            page.contains("| 6.1 xfs | 2 | 1 | 10 | 7 | 3 4 | 2026-01-01 abc |"),
            "{page}"
        );
        assert!(
            page.contains("FAILED on 6.1 xfs, seed 4: `a mark differs`"),
            "{page}"
        );
        assert!(page.contains("- 6.1 xfs, seed 3: peak kib 7"), "{page}");
    }
}
