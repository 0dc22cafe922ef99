//! What the cold thread does about numbers that do not come: how long they are waited for, and what is journaled then.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;
use journal::record::{InodeKey, SnapshotScope};

use super::{Cold, about};
use crate::doubt::Request;
use crate::pipeline::shared::lock;
use crate::snapshot::hole;

impl Cold {
    /// The first numbers that are missing: while later ones wait; and at the end also those after which none comes.
    pub(super) fn missing(&self, idle: bool, stopping: bool) -> Option<(u64, u64)> {
        let next_seq = self.window.next_seq();
        self.window.gap().or_else(|| {
            let taken_seq = self.shared.numbers.peek();
            (idle && stopping && self.window.len() == 0 && next_seq < taken_seq)
                .then(|| (next_seq, taken_seq - 1))
        })
    }

    /// How much of a gap is lost for certain, or has been waited for long enough.
    pub(super) fn give_up(
        &mut self,
        first_seq: u64,
        last_seq: u64,
        idle: bool,
        stopping: bool,
    ) -> Option<u64> {
        self.losses.read(&*self.shared.numbers, self.window.next_seq());
        if let Some(last_seq) = self.losses.row(first_seq, last_seq) {
            return Some(last_seq);
        }
        let owed = lock(&self.shared.outstanding)
            .range(first_seq..=last_seq)
            .next()
            .copied();
        let until_owed = match owed {
            // Whoever took a number has ended by now, and all that was handed over has been looked through.
            _ if stopping && idle && self.is_over_bound() => first_seq,
            _ if stopping && idle => last_seq,
            // Its owner lives and will submit it.
            Some(owed) if owed == first_seq => return None,
            Some(owed) => owed - 1,
            None => last_seq,
        };
        let (since, drained) = *self
            .waiting_since
            .get_or_insert_with(|| (Instant::now(), self.shared.drained.load(Ordering::SeqCst)));
        // On a busy host, or with a full spool, what is missing may wait in the ring for longer than any time that could be named.
        let ring_is_read = self.drained >= drained + 2;
        let waited = idle && (stopping || (ring_is_read && since.elapsed() > self.shared.limits.grace));
        (waited || self.is_over_bound()).then(|| {
            self.losses
                .first_of(first_seq, until_owed)
                .map_or(until_owed, |seq| seq - 1)
        })
    }

    /// Journals the loss of the numbers up to `last_seq` and asks for their repair.
    pub(super) fn hole(&mut self, last_seq: u64) -> Result<()> {
        let (first_seq, last_seq) = self.window.give_up(last_seq);
        let slot = self.losses.pass(first_seq, last_seq);
        let key = |inode: abi::InodeRef| InodeKey {
            ino: inode.ino,
            generation: inode.generation,
        };
        let inode = slot.map(|slot| key(slot.inode));
        tracing::warn!("sequence numbers {first_seq} to {last_seq} are lost (inode {inode:?}): a hole");
        let scope = SnapshotScope::Whole;
        let closes = Some(first_seq);
        match slot {
            Some(slot) => {
                for directory in [slot.parent, slot.to_parent] {
                    if directory.ino != 0 {
                        let inode = key(directory);
                        self.wanted.push(Request::Snapshot {
                            inode,
                            scope,
                            only_if_unmet: false,
                            closes: None,
                        });
                    }
                }
                let inode = key(slot.inode);
                self.wanted.push(Request::Snapshot {
                    inode,
                    scope,
                    only_if_unmet: false,
                    closes,
                });
            }
            None => self.wanted.push(Request::Everything { closes }),
        }
        self.record(about(first_seq, last_seq, hole(last_seq, inode)))
    }
}
