//! The numbers that the recorder took for records of its own, remembered in a file: whoever takes the place of a recorder that was
//! killed must tell a number whose record never came to be from one that is lost.
//!
//! A file of fixed size on a file system in memory: it need not survive the machine, and is written with no sync.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use journal::store::disk::{Access, Disk, DiskFile, Existing};

/// Begins the file.
const MAGIC: u64 = u64::from_le_bytes(*b"TWNUMBR1");
const MISSES_AT: u64 = 8;
const SLOTS_AT: u64 = 24;
/// Numbers remembered. One that is older, and whose record is still not there, becomes a hole after a kill.
const SLOTS: u64 = 1 << 17;
/// In a slot: a number is about to be taken, and will be at least this.
const INTENT: u64 = 1 << 63;

/// The file.
pub(crate) struct Taken {
    file: Arc<dyn DiskFile>,
    next_slot: u64,
    /// Missed events that were journaled, and up to which number they were looked for.
    misses: (u64, u64),
}

/// What a killed recorder had taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Numbers.
    pub(crate) numbers: BTreeSet<u64>,
    /// Missed events that were journaled, and up to which number they were looked for.
    pub(crate) misses: (u64, u64),
}

impl Taken {
    /// Begins anew.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn create(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let file = disk
            .create(path, Existing::Emptied)
            .with_context(|| format!("create {}", path.display()))?;
        // All of its room is taken now: no write fails later.
        let mut bytes = vec![0; usize::try_from(SLOTS_AT + SLOTS * 8).context("size of a file")?];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        file.write_all_at(&bytes, 0)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Self {
            file,
            next_slot: 0,
            misses: (0, 0),
        })
    }

    /// Goes on after somebody who was killed.
    ///
    /// # Errors
    /// When the file is not there or not whole.
    pub(crate) fn recover(disk: &dyn Disk, path: &Path) -> Result<(Self, Left)> {
        let context = || format!("read {}", path.display());
        let file = disk.open(path, Access::ReadWrite).with_context(context)?;
        let mut bytes = vec![0; usize::try_from(SLOTS_AT + SLOTS * 8).context("size of a file")?];
        file.read_exact_at(&mut bytes, 0).with_context(context)?;
        let words: Vec<u64> = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .collect();
        ensure!(words[0] == MAGIC, "{} is not what it should be", path.display());
        let slots = &words[3..];
        let is_number = |word: u64| word != 0 && word & INTENT == 0;
        let newest = (0..SLOTS)
            .zip(slots)
            .filter(|(_, word)| is_number(**word))
            .max_by_key(|(_, word)| **word);
        let left = Left {
            numbers: slots.iter().copied().filter(|word| is_number(*word)).collect(),
            misses: (words[1], words[2]),
        };
        let next_slot = newest.map_or(0, |(slot, _)| (slot + 1) % SLOTS);
        let taken = Self {
            file,
            next_slot,
            misses: left.misses,
        };
        Ok((taken, left))
    }

    /// Takes a number, which is at least `at_least`, and remembers it.
    pub(super) fn take(&mut self, at_least: u64, next: impl FnOnce() -> u64) -> u64 {
        let at = SLOTS_AT + self.next_slot * 8;
        // In this order: a kill in between leaves a number that nobody explains, which is a hole, and not one that is explained wrongly.
        self.put(at, &[at_least | INTENT]);
        let seq = next();
        self.put(at, &[seq]);
        self.next_slot = (self.next_slot + 1) % SLOTS;
        seq
    }

    /// Remembers that so many missed events are journaled. Looks of several threads may cross: the newest counts.
    pub(super) fn journaled_misses(&mut self, count: u64, looked_seq: u64) {
        if (count, looked_seq) > self.misses {
            self.misses = (count, looked_seq);
            self.put(MISSES_AT, &[count, looked_seq]);
        }
    }

    /// Remembers a look that told of nothing new; not where what an earlier one told of is still to be journaled.
    pub(super) fn looked_for_misses(&mut self, count: u64, looked_seq: u64) {
        if count == self.misses.0 {
            self.journaled_misses(count, looked_seq);
        }
    }

    fn put(&self, at: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        if let Err(error) = self.file.write_all_at(&bytes, at) {
            // Only whoever comes after a kill would miss it, and would say so.
            tracing::warn!("remember the recorder's own numbers: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use journal::store::disk::SystemDisk;
    use journal::store::faults::{FaultDisk, On, What};

    use super::*;

    #[test]
    fn numbers_are_remembered_over_a_kill_and_the_oldest_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers");
        assert!(Taken::recover(&SystemDisk, &path).is_err(), "not there");
        let mut taken = Taken::create(&SystemDisk, &path).unwrap();
        for seq in [5, 7, 8] {
            assert_eq!(taken.take(seq, || seq), seq);
        }
        taken.journaled_misses(3, 7);
        taken.looked_for_misses(3, 8);
        // One that another thread is about to journal.
        taken.looked_for_misses(4, 9);
        drop(taken);
        let (mut taken, left) = Taken::recover(&SystemDisk, &path).unwrap();
        let numbers = BTreeSet::from([5, 7, 8]);
        let misses = (3, 8);
        assert_eq!(left, Left { numbers, misses });
        for seq in 10..10 + SLOTS - 1 {
            taken.take(seq, || seq);
        }
        let (_, left) = Taken::recover(&SystemDisk, &path).unwrap();
        assert_eq!(left.numbers.first(), Some(&8), "the newest are kept");
        assert_eq!(left.numbers.len() as u64, SLOTS);
    }

    #[test]
    fn a_kill_while_a_number_is_taken_explains_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers");
        let mut taken = Taken::create(&SystemDisk, &path).unwrap();
        taken.take(4, || 4);
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            taken.take(5, || panic!("killed"));
        }));
        assert!(killed.is_err());
        let (_, left) = Taken::recover(&SystemDisk, &path).unwrap();
        assert_eq!(left.numbers, BTreeSet::from([4]));
    }

    #[test]
    fn whichever_operation_the_kill_comes_in_only_what_was_taken_is_remembered() {
        let path = Path::new("/run/numbers");
        for (seed, after) in (0..8).flat_map(|seed| (0..3).map(move |after| (seed, after))) {
            let disk = FaultDisk::new(Path::new("/run"), seed);
            let mut taken = Taken::create(&disk, path).unwrap();
            taken.take(4, || 4);
            disk.plan(On::Change, after, What::Gone);
            // The counter gives more than was seen before.
            taken.take(5, || 6);
            disk.go_on();
            let (_, left) = Taken::recover(&disk, path).unwrap();
            let both = left.numbers == BTreeSet::from([4, 6]);
            assert!(
                both || left.numbers == BTreeSet::from([4]),
                "seed {seed}, {after}: {left:?}"
            );
            assert!(both || after < 2);
        }
    }
}
