//! What a pipeline takes from the kernel, as traits: so that tests can feed it without one.
//!
//! Owns the traits and how the capture's types fill them. The ring is generic, not an object: the hot path calls it directly.

use std::time::Duration;

use abi::{Counter, LostSlot};
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::throttle::Brake;
use crate::capture::{Counters, Lost, Ring, Sequence, ThrottleArray};

/// Where events come from; there is one reader.
pub(crate) trait Events: Send + 'static {
    /// Hands events to `take` until none waits or `bytes_max` are taken; returns the bytes taken.
    fn drain(&mut self, bytes_max: usize, take: impl FnMut(&[u8])) -> usize;

    /// Everything handed out so far is kept: it need not be handed out again to whoever comes after a crash.
    fn release(&mut self);

    /// Bytes that wait.
    fn fill_bytes(&self) -> u64;

    /// Returns when an event is there, or after this time.
    ///
    /// # Errors
    /// What the system says.
    fn wait(&self, timeout: Duration) -> Result<()>;
}

/// The numbers, and what became of those whose events found no place.
pub(crate) trait Numbers: Send + Sync {
    /// Takes the next number.
    fn next(&self) -> u64;

    /// The number that will be taken next.
    fn peek(&self) -> u64;

    /// What was lost since `cursor`, which moves on; `None` where that is not known.
    fn read_lost(&self, cursor: &mut u64) -> Option<Vec<LostSlot>>;
}

/// Changes the medium that the store stands for.
pub(crate) trait Changer: Send + Sync {
    /// Somebody wants to take the medium out.
    fn is_ejecting(&self) -> bool;

    /// The medium was taken out, and has no successor yet.
    fn is_over(&self) -> bool;

    /// Everything up to the segment before `next_index` is sealed, and the medium takes nothing more, because it is full or is to be taken out:
    /// what the next one is to carry is prepared.
    fn finish(&self, next_index: u64, is_full: bool);

    /// Puts the next medium in the place of one that is finished, if there is one that is fit; whether it did.
    fn change(&self, next_index: u64) -> bool;

    /// Why there is none.
    fn why_not(&self) -> Option<String>;
}

impl Events for Ring {
    fn drain(&mut self, bytes_max: usize, take: impl FnMut(&[u8])) -> usize {
        Ring::drain(self, bytes_max, take)
    }

    fn release(&mut self) {
        Ring::release(self);
    }

    fn fill_bytes(&self) -> u64 {
        Ring::fill_bytes(self)
    }

    fn wait(&self, timeout: Duration) -> Result<()> {
        let timeout = Timespec::try_from(timeout).context("wait for so long")?;
        match poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("wait for the ring"),
        }
    }
}

impl Brake for ThrottleArray {
    fn ask(&self, ns_per_kib: u64, ring_bytes: u64, lasts: Duration) {
        ThrottleArray::ask(self, ns_per_kib, ring_bytes, lasts);
    }

    fn release(&self) {
        ThrottleArray::release(self);
    }
}

/// The arrays that the programs of a volume share with the recorder.
pub(crate) struct SharedArrays {
    /// The counter of sequence numbers.
    pub(crate) sequence: Sequence,
    /// The programs' counters.
    pub(crate) counters: Counters,
    /// What found no place in the ring.
    pub(crate) lost: Lost,
}

impl Numbers for SharedArrays {
    fn next(&self) -> u64 {
        self.sequence.next()
    }

    fn peek(&self) -> u64 {
        self.sequence.peek()
    }

    fn read_lost(&self, cursor: &mut u64) -> Option<Vec<LostSlot>> {
        let head = self.counters.get(Counter::LostHead);
        if head == *cursor {
            return Some(Vec::new());
        }
        self.lost.read(cursor, head)
    }
}
