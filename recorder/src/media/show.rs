//! What the catalog knows, for people and programs: media, what lies on each, and what can be rebuilt with those that are known.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use journal::PointKind;
use serde_json::{Value, json};

use super::catalog::{Catalog, Holding, Known, Medium, holds, joined, show_runs};
use crate::status::{bytes, rfc3339};

/// Milliseconds of nanoseconds.
const NS_PER_MS: i64 = 1_000_000;

/// All media of the catalog, and what of each chain can be rebuilt with those in use.
///
/// # Errors
/// A catalog that cannot be read.
pub(crate) fn list() -> Result<Value> {
    let catalog = Catalog::read()?;
    let media: Vec<Value> = catalog
        .media
        .iter()
        .map(|medium| {
            let mut value = serde_json::to_value(medium).context("encode the catalog")?;
            let single = catalog.single_copy(medium);
            value["single_copy"] = single
                .iter()
                .map(|(holding, runs)| json!({ "volume": holding.volume, "chain": holding.chain, "segments": runs }))
                .collect();
            Ok(value)
        })
        .collect::<Result<_>>()?;
    Ok(json!({ "media": media, "chains": chains(&catalog) }))
}

/// By volume and chain: what is known where, what is missing, and which times can be restored.
pub(super) fn chains(catalog: &Catalog) -> Vec<Value> {
    let mut by_chain: BTreeMap<(&str, &str), Vec<(&Medium, &Holding)>> = BTreeMap::new();
    for medium in catalog.in_use() {
        for holding in &medium.holds {
            by_chain
                .entry((&holding.volume, &holding.chain))
                .or_default()
                .push((medium, holding));
        }
    }
    by_chain
        .into_iter()
        .map(|((volume, chain), held)| {
            let mut indexes: Vec<(u64, u64)> = held
                .iter()
                .flat_map(|(_, holding)| holding.segments.iter().copied())
                .collect();
            indexes.sort_unstable();
            let runs = joined(&indexes);
            let missing = missing(&runs);
            let missing: Vec<Value> = missing
                .into_iter()
                .map(|run| json!({ "segments": run, "medium": told(&held, run) }))
                .collect();
            json!({
                "volume": volume, "chain": chain, "named": held.last().map(|(_, holding)| &holding.named),
                "segments": runs, "missing": missing, "rebuilds": rebuilds(&held, &runs),
            })
        })
        .collect()
}

/// What lies before and between runs.
fn missing(runs: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut next = 1;
    let mut missing = Vec::new();
    for (first, last) in runs {
        if *first > next {
            missing.push((next, first - 1));
        }
        next = last + 1;
    }
    missing
}

/// The media that an index names for missing segments.
fn told(held: &[(&Medium, &Holding)], (first, last): (u64, u64)) -> Vec<String> {
    let mut names: Vec<String> = held
        .iter()
        .flat_map(|(_, holding)| &holding.before)
        .filter(|(_, runs)| runs.iter().any(|(from, to)| *from <= last && *to >= first))
        .map(|(named, _)| named.clone())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// From when to when any moment can be restored with these runs: from the end of each base whose segments, and those of what it goes on from,
/// are all there.
fn rebuilds(held: &[(&Medium, &Holding)], runs: &[(u64, u64)]) -> Vec<Value> {
    let mut points: Vec<&Known> = held.iter().flat_map(|(_, holding)| &holding.points).collect();
    points.sort_by_key(|known| (known.epoch, known.point.seq, known.index));
    points.dedup();
    let mut found = Vec::new();
    for (at, begin) in points.iter().enumerate() {
        if begin.point.kind != PointKind::BaseBegin || !is_based(begin, &points, runs) {
            continue;
        }
        let end = points[at..]
            .iter()
            .find(|known| known.epoch == begin.epoch && known.point.kind == PointKind::BaseEnd);
        let Some(end) = end.filter(|end| same_run(runs, begin.index, end.index)) else {
            continue;
        };
        let last = runs
            .iter()
            .find(|(first, last)| (*first..=*last).contains(&end.index))
            .map_or(end.index, |(_, last)| *last);
        let until = held
            .iter()
            .filter(|(_, holding)| holding.segments.iter().any(|(first, _)| *first <= last))
            .map(|(_, holding)| holding.times.1)
            .max();
        let marks: Vec<&str> = points
            .iter()
            .filter(|known| known.point.kind == PointKind::Mark)
            .filter(|known| {
                known.epoch == begin.epoch && known.point.seq >= end.point.seq && known.index <= last
            })
            .map(|known| known.point.name.as_str())
            .collect();
        found.push(json!({
            "epoch": begin.epoch, "from": rfc3339(end.point.time_ns / NS_PER_MS),
            "until": rfc3339(until.unwrap_or(end.point.time_ns) / NS_PER_MS), "marks": marks,
        }));
    }
    found
}

/// Whether what a base goes on from is all there.
fn is_based(begin: &Known, points: &[&Known], runs: &[(u64, u64)]) -> bool {
    let Some(continued) = begin.point.continues else {
        return true;
    };
    let earlier = points.iter().rfind(|known| {
        known.epoch == continued.epoch
            && known.epoch < begin.epoch
            && known.point.kind == PointKind::BaseBegin
            && known.point.seq <= continued.seq
    });
    earlier
        .is_some_and(|earlier| same_run(runs, earlier.index, begin.index) && is_based(earlier, points, runs))
}

fn same_run(runs: &[(u64, u64)], a: u64, b: u64) -> bool {
    runs.iter().any(|run| holds(&[*run], a) && holds(&[*run], b))
}

/// The list as text.
pub(crate) fn list_as_text(value: &Value) -> String {
    let mut text = String::new();
    let word = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let runs = |value: &Value| -> String {
        let runs: Vec<(u64, u64)> = serde_json::from_value(value.clone()).unwrap_or_default();
        show_runs(&runs)
    };
    for medium in value["media"].as_array().into_iter().flatten() {
        let mut state = Vec::new();
        if medium["copies"] == true {
            state.push("copies".to_owned());
        }
        if let Some(ns) = medium["verified"].as_i64() {
            state.push(format!("verified {}", rfc3339(ns / NS_PER_MS)));
        }
        if let Some(ns) = medium["retired"].as_i64() {
            state.push(format!("retired {}", rfc3339(ns / NS_PER_MS)));
        }
        let pool = match word(&medium["pool"]) {
            pool if pool.is_empty() => String::new(),
            pool => format!("  pool {pool}"),
        };
        let _infallible = writeln!(
            text,
            "{}  {}{pool}  {}",
            word(&medium["name"]),
            word(&medium["uuid"]),
            state.join(", ")
        );
        for holding in medium["holds"].as_array().into_iter().flatten() {
            let _infallible = writeln!(
                text,
                "    {}: segments {} ({})",
                word(&holding["named"]),
                runs(&holding["segments"]),
                bytes(holding["bytes"].as_u64().unwrap_or(0))
            );
        }
        for single in medium["single_copy"].as_array().into_iter().flatten() {
            let _infallible = writeln!(text, "    only copy of segments {}", runs(&single["segments"]));
        }
    }
    for chain in value["chains"].as_array().into_iter().flatten() {
        let _infallible = writeln!(text, "{} ({})", word(&chain["named"]), word(&chain["volume"]));
        for missing in chain["missing"].as_array().into_iter().flatten() {
            let media: Vec<String> = missing["medium"]
                .as_array()
                .into_iter()
                .flatten()
                .map(word)
                .collect();
            let whose = match media.is_empty() {
                true => "nothing tells where".to_owned(),
                false => format!("on medium {}", media.join(", ")),
            };
            let run: (u64, u64) = serde_json::from_value(missing["segments"].clone()).unwrap_or_default();
            let _infallible = writeln!(
                text,
                "    segments {} are not known here: {whose}",
                show_runs(&[run])
            );
        }
        let rebuilds = chain["rebuilds"].as_array().map_or(&[][..], Vec::as_slice);
        for rebuild in rebuilds {
            let _infallible = writeln!(
                text,
                "    can be rebuilt: {} to {} (epoch {})",
                word(&rebuild["from"]),
                word(&rebuild["until"]),
                rebuild["epoch"]
            );
        }
        if rebuilds.is_empty() {
            let _infallible = writeln!(text, "    nothing of it can be rebuilt with the media known here");
        }
    }
    if text.is_empty() {
        "the catalog knows no medium: recorder media scan DIR".to_owned()
    } else {
        text
    }
}
