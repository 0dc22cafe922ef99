//! Barriers: now and then a volume is synced, and the journal says up to which number everything is on the recorded disk.
//!
//! Owns when that may be said. After a power cut only what came later is in doubt; without barriers that would be everything ever written.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use journal::record::Op;

use super::volume::{STATE_RECORDING, STOP_INTERVAL, Session};
use crate::pulse;
use crate::snapshot::Sink as _;

/// How long a barrier waits at a time for what is to be read anew, before it looks whether it is to end.
const SETTLE: Duration = Duration::from_millis(200);

/// What the barriers before said.
#[derive(Default)]
struct Before {
    /// The newest number at the look before: a change acts a little after it has its number, but not a whole interval later.
    looked_seq: Option<u64>,
    /// Number of the newest barrier itself.
    own_seq: u64,
}

impl Before {
    /// Looks at the newest number, and at the newest that says something; up to which one a barrier may speak now, if there is anything new to say.
    fn look(&mut self, captured_seq: u64, said_seq: u64) -> Option<u64> {
        let up_to = self.looked_seq.replace(captured_seq)?;
        // Nothing but the last barrier happened until then, and what came later changed nothing.
        (up_to > self.own_seq && said_seq > self.own_seq).then_some(up_to)
    }
}

impl Session {
    /// Sets barriers until the recording ends.
    pub(super) fn barriers(&self, interval: Duration) {
        let (mut before, mut next) = (Before::default(), Instant::now());
        while !self.sink.stop.load(Ordering::Relaxed) {
            pulse::beat();
            std::thread::sleep(STOP_INTERVAL);
            if self.state.load(Ordering::Relaxed) != STATE_RECORDING || Instant::now() < next {
                continue;
            }
            next = Instant::now() + interval;
            let status = self.sink.handle.status();
            let Some(up_to) = before.look(status.captured_seq, status.said_seq) else {
                continue;
            };
            match self.barrier(up_to, interval) {
                Ok(Some(seq)) => before.own_seq = seq,
                // Only more is in doubt after a power cut.
                Ok(None) => tracing::debug!("{}: no barrier at {up_to}", self.path.display()),
                Err(error) => tracing::warn!("{}: set a barrier: {error:#}", self.path.display()),
            }
        }
    }

    /// Sets one that speaks up to this number; `None` where that cannot be said.
    fn barrier(&self, up_to: u64, patience: Duration) -> Result<Option<u64>> {
        self.check_misses()?;
        let handle = &self.sink.handle;
        let (captured_seq, since) = (handle.status().captured_seq, Instant::now());
        while !handle.settle(captured_seq, SETTLE)? {
            if self.sink.stop.load(Ordering::Relaxed) || since.elapsed() >= patience {
                return Ok(None);
            }
            // It comes back at once where the medium is not there.
            std::thread::sleep(STOP_INTERVAL);
        }
        if handle.status().holes_open > 0 || handle.is_under_way(up_to) {
            return Ok(None);
        }
        self.sync()?;
        self.sink.reserve()?;
        let (seq, _) = self.journal(Op::Barrier { up_to: Some(up_to) })?;
        self.barrier_seq.store(up_to, Ordering::Relaxed);
        Ok(Some(seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_speaks_up_to_the_look_before_and_not_of_barriers_alone() {
        let mut before = Before::default();
        let mut look = |own_seq: Option<u64>, captured_seq, said_seq| {
            before.own_seq = own_seq.unwrap_or(before.own_seq);
            before.look(captured_seq, said_seq)
        };
        assert_eq!(
            look(None, 10, 10),
            None,
            "what has its number may not have acted yet"
        );
        assert_eq!(look(None, 20, 20), Some(10));
        assert_eq!(
            look(Some(21), 21, 21),
            None,
            "it was looked at 20 before, which the barrier at 21 follows"
        );
        assert_eq!(look(None, 21, 21), None, "an idle volume is left alone");
        assert_eq!(look(None, 25, 21), None);
        assert_eq!(look(None, 25, 21), None, "and so is one with canaries only");
        assert_eq!(look(None, 30, 30), Some(25));
        assert_eq!(look(None, 30, 30), Some(30));
    }
}
