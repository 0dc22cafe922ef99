//! What a run executes: which operations, of which threads, in which order per thread.
//!
//! An operation is named by (thread, index); what it does depends on the seed and that name alone, so that any subset of
//! a run can be executed again. Nothing is executed here.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::kinds::{KINDS, Kind};
use crate::random::Random;

/// Bounds a run: the counters and the names of the threads are made for this many.
pub const THREADS_MAX: u32 = 64;
/// Operations of one thread; keeps a plan in memory small.
pub const OPERATIONS_MAX: u32 = 1_000_000;

/// The choice of operations.
#[derive(Debug, Default)]
pub struct Choice {
    /// Only these (thread, index); all when `None`.
    pub plan: Option<BTreeSet<(u32, u32)>>,
    /// Only these threads; all when empty.
    pub only_threads: Vec<u32>,
    /// Kinds that are left out.
    pub skip: Vec<String>,
}

impl Choice {
    /// The operation, unless it is left out.
    #[must_use]
    pub fn operation(&self, seed: u64, thread: u32, index: u32) -> Option<(&'static Kind, Random)> {
        let Self {
            plan,
            only_threads,
            skip,
        } = self;
        if !only_threads.is_empty() && !only_threads.contains(&thread)
            || plan.as_ref().is_some_and(|plan| !plan.contains(&(thread, index)))
        {
            return None;
        }
        let (kind, random) = draw(seed, thread, index);
        (!skip.iter().any(|name| name == kind.name)).then_some((kind, random))
    }
}

/// The kind of an operation, and the random numbers that its arguments are drawn from.
fn draw(seed: u64, thread: u32, index: u32) -> (&'static Kind, Random) {
    let mut mixed = Random::new(seed);
    let mut mixed = Random::new(mixed.number() ^ (u64::from(thread) << 32 | u64::from(index)));
    let mut random = Random::new(mixed.number());
    let all: u64 = KINDS.iter().map(|kind| kind.weight).sum();
    let mut at = random.below(all);
    for kind in KINDS {
        if at < kind.weight {
            return (kind, random);
        }
        at -= kind.weight;
    }
    (&KINDS[0], random)
}

/// Reads a plan: a line for each operation, `THREAD INDEX` and anything after it.
///
/// # Errors
/// When the file cannot be read or a line is not of this form.
pub fn read(path: &Path) -> Result<BTreeSet<(u32, u32)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read plan {}", path.display()))?;
    text.lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split_whitespace().map_while(|word| word.parse::<u32>().ok());
            words
                .next()
                .zip(words.next())
                .with_context(|| format!("understand line {line:?} of the plan"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_depends_on_its_name_alone() {
        let all = Choice::default();
        let some = Choice {
            plan: Some(BTreeSet::from([(1, 7)])),
            ..Choice::default()
        };
        let (left, mut left_random) = all.operation(5, 1, 7).expect("no operation");
        let (right, mut right_random) = some.operation(5, 1, 7).expect("no operation");
        assert_eq!(
            (left.name, left_random.number()),
            (right.name, right_random.number())
        );
        assert!(some.operation(5, 1, 8).is_none());
        assert!(some.operation(5, 0, 7).is_none());
    }

    #[test]
    fn every_kind_is_drawn() {
        let drawn: BTreeSet<&str> = (0..10_000).map(|index| draw(1, 0, index).0.name).collect();
        let missing: Vec<&str> = KINDS
            .iter()
            .map(|kind| kind.name)
            .filter(|name| !drawn.contains(name))
            .collect();
        assert_eq!(missing, Vec::<&str>::new());
    }
}
