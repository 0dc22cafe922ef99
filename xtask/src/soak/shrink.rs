//! Cuts a run that differs down to few operations: delta debugging, many candidates to a boot.
//!
//! Runs are concurrent, so a difference need not show every time: a candidate that shows none is only known not to have
//! shown one. What is found differs indeed; that it is the smallest is not promised.

use std::path::Path;

use anyhow::Result;

use super::boot::{self, Cell, Job, Plan, Size, Verdict};
use crate::setup::say;

/// Times that the whole run is repeated to see the difference again.
const REPEATED: usize = 4;
/// Parts that a plan is cut into.
const PARTS: usize = 10;

/// Tries whether runs with these plans differ; the directories of those that do have differences.
trait Try {
    fn differing(&mut self, plans: &[Plan]) -> Result<Vec<Option<Vec<String>>>>;
}

/// Tries plans in a machine.
struct Machine<'a> {
    cell: Cell,
    seed: u64,
    size: &'a Size,
    keep: &'a Path,
}

impl Try for Machine<'_> {
    fn differing(&mut self, plans: &[Plan]) -> Result<Vec<Option<Vec<String>>>> {
        let jobs: Vec<Job> = plans
            .iter()
            .enumerate()
            .map(|(number, plan)| Job {
                name: format!("try-{number}"),
                seed: self.seed,
                plan: Some(plan.clone()),
                mark_every: None,
            })
            .collect();
        let boot = boot::boot(self.cell, &jobs, self.size, self.keep)?;
        let verdicts = boot.verdicts.into_iter();
        Ok(verdicts
            .map(|verdict| match verdict {
                Verdict::Same => None,
                Verdict::Different(differences) => Some(differences),
            })
            .collect())
    }
}

/// What was found.
pub(super) struct Smallest {
    pub(super) plan: Plan,
    pub(super) differences: Vec<String>,
}

/// Cuts a run down in at most `boots` round trips; `None` when it does not differ again.
///
/// # Errors
/// When a round trip fails.
pub(super) fn shrink(
    cell: Cell,
    seed: u64,
    size: &Size,
    boots: usize,
    keep: &Path,
) -> Result<Option<Smallest>> {
    let mut machine = Machine {
        cell,
        seed,
        size,
        keep,
    };
    let whole: Plan = (0..size.threads)
        .flat_map(|thread| (0..size.ops).map(move |index| (thread, index)))
        .collect();
    search(&mut machine, whole, size.threads, boots)
}

fn search(trying: &mut dyn Try, whole: Plan, threads: u32, boots: usize) -> Result<Option<Smallest>> {
    let tried = trying.differing(&vec![whole.clone(); REPEATED])?;
    let Some(differences) = tried.into_iter().flatten().next() else {
        return Ok(None);
    };
    let mut best = Smallest {
        plan: whole,
        differences,
    };
    let mut candidates = by_threads(&best.plan, threads);
    let mut parts = PARTS;
    for boot in 1..boots {
        say(&format!(
            "boot {boot}: {} operations, {} candidates",
            best.plan.len(),
            candidates.len()
        ));
        let tried = trying.differing(&candidates)?;
        let mut found: Vec<(usize, Vec<String>)> = tried
            .into_iter()
            .enumerate()
            .filter_map(|(number, differences)| Some((number, differences?)))
            .collect();
        found.sort_by_key(|(number, _)| candidates[*number].len());
        if let Some((number, differences)) = found.first() {
            let plan = candidates[*number].clone();
            let differences = differences.clone();
            let before = std::mem::replace(&mut best, Smallest { plan, differences });
            let shown = found.iter().map(|(number, _)| &candidates[*number]);
            let more = without_all(&before.plan, shown, &best.plan);
            candidates = cut(&best.plan, parts);
            candidates.extend(more);
        } else if parts >= best.plan.len() {
            break;
        } else {
            parts = (parts * 2).min(24);
            candidates = cut(&best.plan, parts);
        }
        if best.plan.len() < 2 {
            break;
        }
    }
    Ok(Some(best))
}

/// Several parts could each be left out, the difference still came: perhaps all of them can be left out at once.
fn without_all<'a>(before: &Plan, shown: impl Iterator<Item = &'a Plan>, best: &Plan) -> Option<Plan> {
    let large = shown.filter(|plan| plan.len() * 2 > before.len());
    let gone: Vec<(u32, u32)> = large
        .flat_map(|plan| before.iter().filter(|op| !plan.contains(op)).copied())
        .collect();
    let plan: Plan = best.iter().filter(|op| !gone.contains(op)).copied().collect();
    (!plan.is_empty() && plan.len() < best.len()).then_some(plan)
}

/// Each thread alone, each pair, and each thread left out.
fn by_threads(plan: &Plan, threads: u32) -> Vec<Plan> {
    let only = |keep: &dyn Fn(u32) -> bool| -> Plan {
        plan.iter().filter(|(thread, _)| keep(*thread)).copied().collect()
    };
    let alone = (0..threads).map(|one| only(&|thread| thread == one));
    let without = (0..threads).map(|one| only(&|thread| thread != one));
    let mut pairs: Vec<Plan> = Vec::new();
    for left in 0..threads {
        for right in left + 1..threads {
            pairs.push(only(&|thread| thread == left || thread == right));
        }
    }
    let mut all: Vec<Plan> = alone.chain(pairs).chain(without).collect();
    all.retain(|candidate| !candidate.is_empty());
    all.truncate(PARTS * 3);
    all
}

/// The plan in parts by index (all threads go forward together): each part alone, and each left out.
fn cut(plan: &Plan, parts: usize) -> Vec<Plan> {
    let mut ordered = plan.clone();
    ordered.sort_by_key(|(thread, index)| (*index, *thread));
    let length = ordered.len().div_ceil(parts.max(1)).max(1);
    let pieces: Vec<&[(u32, u32)]> = ordered.chunks(length).collect();
    if pieces.len() < 2 {
        return Vec::new();
    }
    let alone = pieces.iter().map(|piece| piece.to_vec());
    let without = (0..pieces.len()).map(|gone| {
        let kept = pieces.iter().enumerate().filter(|(number, _)| *number != gone);
        kept.flat_map(|(_, piece)| piece.iter().copied()).collect()
    });
    alone.chain(without).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Differs when all of some operations are there.
    struct Culprits(Vec<(u32, u32)>);

    impl Try for Culprits {
        fn differing(&mut self, plans: &[Plan]) -> Result<Vec<Option<Vec<String>>>> {
            let all = |plan: &Plan| self.0.iter().all(|op| plan.contains(op));
            Ok(plans
                .iter()
                .map(|plan| all(plan).then(|| vec!["f: content".to_owned()]))
                .collect())
        }
    }

    fn whole() -> Plan {
        (0..4).flat_map(|t| (0..200).map(move |i| (t, i))).collect()
    }

    #[test]
    fn few_operations_are_left() {
        let mut culprits = Culprits(vec![(1, 20), (3, 150)]);
        let found = search(&mut culprits, whole(), 4, 20).unwrap().unwrap();
        let mut plan = found.plan;
        plan.sort_unstable();
        assert_eq!(plan, [(1, 20), (3, 150)]);
        assert_eq!(found.differences, ["f: content"]);
    }

    #[test]
    fn a_difference_that_does_not_come_again_is_none() {
        let mut nothing = Culprits(vec![(9, 9)]);
        assert!(search(&mut nothing, whole(), 4, 20).unwrap().is_none());
    }

    #[test]
    fn boots_are_bounded() {
        struct Counting(Culprits, usize);
        impl Try for Counting {
            fn differing(&mut self, plans: &[Plan]) -> Result<Vec<Option<Vec<String>>>> {
                self.1 += 1;
                assert!(plans.len() <= 60, "{} candidates in one boot", plans.len());
                self.0.differing(plans)
            }
        }
        let mut counting = Counting(Culprits(vec![(1, 20), (3, 150)]), 0);
        let found = search(&mut counting, whole(), 4, 3).unwrap().unwrap();
        assert_eq!(counting.1, 3);
        assert!(found.plan.len() < 400);
    }
}
