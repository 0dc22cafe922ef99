//! Bounds what clones make of few records: each may double the extents of a file, and forty of them would fill any memory.

use anyhow::{Result, bail};
use journal::fold::State;
use journal::record::{Op, Record};

use crate::exit::integrity;

/// Extents that clones may make beside those that were written: some 100 bytes of memory each.
const CLONED_EXTENTS_MAX: usize = 1 << 25;

/// What clones have made so far.
pub(crate) struct Cloned {
    /// [`CLONED_EXTENTS_MAX`], but in tests.
    max: usize,
    /// Extents that were made by writes, and pieces that these cut others into: at most so many.
    written: usize,
    /// Extents that were made by clones, at most.
    cloned: usize,
}

impl Default for Cloned {
    fn default() -> Self {
        Self {
            max: CLONED_EXTENTS_MAX,
            written: 0,
            cloned: 0,
        }
    }
}

impl Cloned {
    /// Looks at a record that is to be applied next.
    ///
    /// # Errors
    /// One clone too many.
    pub(crate) fn check(&mut self, state: &State, record: &Record) -> Result<()> {
        let source = match &record.op {
            Op::Clone { source, .. } => source,
            Op::Write { .. } | Op::Fallocate { .. } => {
                self.written += 2;
                return Ok(());
            }
            _ => return Ok(()),
        };
        let more = state.inode(*source).map_or(0, |inode| inode.extents.len());
        self.cloned = self.cloned.saturating_add(more);
        if self.cloned <= self.max {
            return Ok(());
        }
        // Many of them may be overwritten again: counted anew, which is as much work as making them was.
        let there: usize = state.inodes().map(|(_, inode)| inode.extents.len()).sum();
        self.cloned = there.saturating_sub(self.written).saturating_add(more);
        // Half: so that so much is made at least until they are counted again.
        if self.cloned > self.max / 2 {
            bail!(integrity(format!(
                "the clone at sequence number {} makes more extents than can be planned (bound: {})",
                record.seq, self.max
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use journal::RowRef;
    use journal::record::{Actor, Attributes, InodeKey};

    use super::*;

    const KEY: InodeKey = InodeKey {
        ino: 1,
        generation: 1,
    };

    fn apply(state: &mut State, cloned: &mut Cloned, op: Op) -> Result<()> {
        let record = Record {
            seq: 1,
            last_seq: 1,
            time_ns: 0,
            inode: KEY,
            attributes: Attributes::default(),
            from_snapshot: false,
            actor: Actor::default(),
            op,
        };
        cloned.check(state, &record)?;
        state.apply(RowRef { segment: 1, row: 1 }, &record);
        Ok(())
    }

    fn clone(to: u64) -> Op {
        Op::Clone {
            source: KEY,
            source_offset: 0,
            offset: to,
            length: to,
        }
    }

    #[test]
    fn clones_that_double_are_stopped_and_honest_ones_are_not() {
        let mut state = State::new();
        let mut cloned = Cloned {
            max: 1 << 12,
            ..Cloned::default()
        };
        for offset in 0..100 {
            let op = Op::Write {
                offset: offset * 2,
                data: Vec::new(),
                length: 1,
            };
            apply(&mut state, &mut cloned, op).expect("a write is honest");
        }
        // Again and again to the same place: counted anew, and found to be few.
        for _ in 0..200 {
            apply(&mut state, &mut cloned, clone(200)).expect("as many as before");
        }
        let stopped =
            (1..60).find(|doubling| apply(&mut state, &mut cloned, clone(200 << doubling)).is_err());
        assert!(stopped.is_some_and(|doubling| doubling < 8), "{stopped:?}");
        assert!(
            state
                .inode(KEY)
                .is_some_and(|inode| inode.extents.len() < 1 << 14)
        );
    }
}
