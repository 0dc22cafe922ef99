//! What the kernel says is lost and has not passed yet: at most as much as it can remember.

use std::collections::BTreeMap;

use abi::LostSlot;

use super::Numbers;

/// Lost events, by number.
#[derive(Default)]
pub(super) struct Losses {
    cursor: u64,
    slots: BTreeMap<u64, LostSlot>,
}

impl Losses {
    /// Asks the kernel. What is below `next_seq` has passed.
    pub(super) fn read(&mut self, numbers: &dyn Numbers, next_seq: u64) {
        if let Some(slots) = numbers.read_lost(&mut self.cursor) {
            let new = slots.into_iter().filter(|slot| slot.seq >= next_seq);
            self.slots.extend(new.map(|slot| (slot.seq, slot)));
        }
    }

    /// The end of the row of numbers that begins with `first_seq` and that the same inode lost, if there is one: they are one hole.
    pub(super) fn row(&self, first_seq: u64, last_seq: u64) -> Option<u64> {
        let first = self.slots.get(&first_seq)?;
        let same = |seq: &u64| {
            self.slots.get(seq).is_some_and(|slot| {
                (slot.inode, slot.parent, slot.to_parent) == (first.inode, first.parent, first.to_parent)
            })
        };
        (first_seq..=last_seq).take_while(same).last()
    }

    /// The first lost number between two.
    pub(super) fn first_of(&self, first_seq: u64, last_seq: u64) -> Option<u64> {
        self.slots.range(first_seq..=last_seq).next().map(|(seq, _)| *seq)
    }

    /// Takes out what is lost up to `last_seq`: the slot of `first_seq`, if there is one.
    pub(super) fn pass(&mut self, first_seq: u64, last_seq: u64) -> Option<LostSlot> {
        let slot = self.slots.remove(&first_seq);
        while let Some(passed) = self.slots.first_entry().filter(|first| *first.key() <= last_seq) {
            passed.remove();
        }
        slot
    }
}
