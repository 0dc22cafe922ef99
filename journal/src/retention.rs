//! What a moment needs: the segments that a restore of it reads, as the manifests tell. By this it is known which media are not needed any more.

use std::collections::BTreeSet;

use crate::chain::Journal;
use crate::checkpoint::Complete;
use crate::manifest::{Manifest, PointKind};
use crate::record::Continued;

/// A base, as the manifests tell.
struct Base {
    begin_seq: u64,
    /// Index of the segment that it begins in.
    begin_index: u64,
    continues: Option<Continued>,
}

impl Journal {
    /// Indexes of the segments that a restore of a moment reads; `None` where the media given do not tell, or hold no base of it.
    ///
    /// Where checkpoints are, those that [`crate::resolve`] takes: the newest that is not after the moment. Numbers decide, never the clock.
    pub fn needed_for(&self, epoch: u64, seq: u64) -> Option<BTreeSet<u64>> {
        let mut needed = BTreeSet::new();
        let (mut epoch, mut seq) = (epoch, seq);
        loop {
            if let Some(checkpoint) = self.newest_checkpoint(epoch, seq) {
                let of_it = self.segments_of(&checkpoint.span()).ok()?;
                needed.extend(of_it.iter().map(|segment| segment.manifest.index));
                let after = checkpoint.of.seq;
                needed.extend(self.history(epoch, seq, |manifest| manifest.last_seq > after));
                return Some(needed);
            }
            let Some(base) = self.base_at(epoch, seq) else {
                // No base was complete then: an epoch before this one answers.
                let of_history = self.segments().map(|segment| segment.manifest.epoch);
                let of_checkpoints = self.complete_checkpoints().into_iter();
                epoch = of_history
                    .chain(of_checkpoints.map(|checkpoint| checkpoint.epoch))
                    .filter(|before| *before < epoch)
                    .max()?;
                seq = u64::MAX;
                continue;
            };
            // What leads to the base is read to know what is open at the moment.
            needed.extend(self.history(epoch, seq, |_| true));
            if !needed.contains(&base.begin_index) || base.begin_seq > seq {
                return None;
            }
            let Some(continued) = base.continues else {
                return Some(needed);
            };
            if continued.epoch >= epoch {
                return None;
            }
            (epoch, seq) = (continued.epoch, continued.seq);
        }
    }

    fn newest_checkpoint(&self, epoch: u64, seq: u64) -> Option<Complete> {
        let mut found = self.complete_checkpoints();
        found.retain(|checkpoint| checkpoint.epoch == epoch && checkpoint.of.seq <= seq);
        found.pop()
    }

    /// The segments of an epoch up to a number.
    fn history(&self, epoch: u64, seq: u64, is_it: impl Fn(&Manifest) -> bool) -> Vec<u64> {
        self.segments()
            .map(|segment| &segment.manifest)
            .filter(|manifest| manifest.epoch == epoch && manifest.first_seq <= seq && is_it(manifest))
            .map(|manifest| manifest.index)
            .collect()
    }

    /// The last base of an epoch that is complete at a number.
    fn base_at(&self, epoch: u64, seq: u64) -> Option<Base> {
        let (mut begun, mut complete) = (None, None);
        for (of, index, point) in self.points() {
            if of != epoch || point.seq > seq {
                continue;
            }
            match point.kind {
                PointKind::BaseBegin => {
                    begun = Some(Base {
                        begin_seq: point.seq,
                        begin_index: index,
                        continues: point.continues,
                    });
                }
                PointKind::BaseEnd => complete = begun.take().or(complete),
                _ => {}
            }
        }
        complete
    }
}
