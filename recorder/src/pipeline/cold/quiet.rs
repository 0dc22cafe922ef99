//! What the cold thread does with changes that the recorder makes itself, to see that they come back: they say nothing of the volume.

use std::sync::atomic::Ordering;

use anyhow::Result;
use journal::record::{InodeKey, Op, Record};

use super::Cold;
use crate::snapshot::own_record;

impl Cold {
    /// Whether it is such a change.
    pub(super) fn is_canary(&self, record: &Record) -> bool {
        let ino = self.shared.canary_ino.load(Ordering::Relaxed);
        ino != 0 && record.inode.ino == ino && matches!(record.op, Op::SetAttr)
    }

    /// One came back: from the kernel through ring, spool and order to here. Only its number is journaled, and that not at once.
    pub(super) fn canary(&mut self, seq: u64) -> Result<()> {
        self.shared.canary_seq.store(seq, Ordering::SeqCst);
        self.output
            .push_quiet(own_record(seq, InodeKey::default(), true, Op::SetAttr))
    }

    /// Where all that says something is sealed, so is all that has passed, as far as anybody can tell.
    pub(super) fn say_safe(&self) {
        if self.output.is_empty() {
            self.shared
                .safe_seq
                .store(self.window.next_seq() - 1, Ordering::Relaxed);
        }
    }
}
