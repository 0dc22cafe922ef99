//! What the processes of a run share: the barrier where they meet, and the counters of what became of the operations.
//!
//! It lies in anonymous shared memory, made before the first fork.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use super::kinds::KINDS;

/// Error numbers that are told apart; the kernel's own end well below.
const ERRORS: usize = 160;
/// Room for the kinds of operations.
const KINDS_MAX: usize = 128;
/// How often a waiting thread looks.
const POLL: Duration = Duration::from_micros(300);

/// The shared memory. All its bytes may be zero, which is how it starts.
#[repr(C)]
pub(super) struct Shared {
    arrived: AtomicU32,
    round: AtomicU32,
    /// By kind, then by error number; 0 is success.
    outcomes: [[AtomicU32; ERRORS]; KINDS_MAX],
}

impl Shared {
    /// Makes the memory; it is there until the last process of the run has ended.
    pub(super) fn create() -> Result<&'static Self> {
        const { assert!(size_of::<Shared>() < 1 << 20) };
        anyhow::ensure!(KINDS.len() <= KINDS_MAX, "too many kinds of operations");
        // SAFETY: a new anonymous mapping at an address that the kernel chooses; nobody unmaps it.
        let memory = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                size_of::<Self>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }
        .context("map shared memory")?;
        // SAFETY: the mapping is page-aligned, large enough, zeroed, never unmapped; all fields are atomics, valid as zero.
        Ok(unsafe { &*memory.cast::<Self>() })
    }

    /// A thread has done its part of `round` (from 0), and waits until all may go on.
    pub(super) fn arrive(&self, round: u32) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        while self.round.load(Ordering::Acquire) <= round {
            std::thread::sleep(POLL);
        }
    }

    /// Whether all `threads` have done `round`.
    pub(super) fn all_arrived(&self, threads: u32, round: u32) -> bool {
        self.arrived.load(Ordering::Acquire) >= threads * (round + 1)
    }

    /// Lets the threads go on after `round`.
    pub(super) fn release(&self, round: u32) {
        self.round.store(round + 1, Ordering::Release);
    }

    /// Counts an operation of the kind with this index; `error` is 0 where it succeeded.
    pub(super) fn count(&self, kind: usize, error: i32) {
        let error = usize::try_from(error).unwrap_or(ERRORS - 1).min(ERRORS - 1);
        self.outcomes[kind][error].fetch_add(1, Ordering::Relaxed);
    }

    /// What became of the operations of a kind: (error number, how many), success first.
    pub(super) fn outcomes(&self, kind: usize) -> Vec<(i32, u32)> {
        (0..)
            .zip(&self.outcomes[kind])
            .map(|(error, count)| (error, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}
