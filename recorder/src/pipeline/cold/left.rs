//! What the cold thread does for a recorder that was killed before it, and for one that may come after it.

use anyhow::Result;
use journal::record::{InodeKey, Op, SnapshotScope};

use super::Cold;
use crate::doubt::Request;
use crate::pipeline::ledger::Ledger;
use crate::pipeline::resume::Keeper;
use crate::pipeline::shared::lock;
use crate::snapshot::own_record;

impl Cold {
    /// Numbers that a killed recorder took for records that never came to be.
    pub(super) fn pass_void(&mut self, last_seq: u64) -> Result<()> {
        let (first_seq, last_seq) = self.window.give_up(last_seq);
        tracing::debug!(
            "numbers {first_seq} to {last_seq} were taken for nothing by a recorder that was killed"
        );
        for seq in first_seq..=last_seq {
            self.record(own_record(seq, InodeKey::default(), true, Op::SetAttr))?;
        }
        Ok(())
    }

    /// Everything of a killed recorder has passed: what it left undone is asked for.
    pub(super) fn ask_again(&mut self) {
        let requests = std::mem::take(&mut self.unfinished.requests);
        let abandoned = self.windows.abandoned(self.unfinished.resume_seq);
        tracing::info!(
            "{} requests and {} snapshots were left undone by a recorder that was killed",
            requests.len(),
            abandoned.len()
        );
        self.wanted.extend(requests);
        let whole = |inode| Request::Snapshot {
            inode,
            scope: SnapshotScope::Whole,
            only_if_unmet: false,
            closes: None,
        };
        self.wanted.extend(abandoned.into_iter().map(whole));
    }

    /// What is known now, for whoever takes this place after a kill: before the seal, so that it is there whenever that is.
    /// Where that cannot be written, only resuming is lost: none that is there fits what is sealed then.
    pub(super) fn keep_ledger(&mut self, last_seq: u64) {
        let mut requests = self.requests.unanswered();
        requests.extend(&self.unfinished.requests);
        // Not held while the disk is written to: the status looks at them.
        let holes = lock(&self.shared.holes).clone();
        let Keeper { ledgers, identity } = &mut self.keeper;
        let written = ledgers.write(&Ledger {
            head: self.output.head_at(last_seq),
            identity: identity.clone(),
            has_base: self.has_base,
            doubt: self.doubt.clone(),
            requests,
            holes,
            windows: self.windows.clone(),
        });
        if let Err(error) = written {
            tracing::warn!("a recorder that takes the place of this one could not go on: {error:#}");
        }
    }
}
