//! The reader of the ring buffer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{MapData, RingBuf};

use super::shared::RingPositions;

/// The one reader of a volume's ring.
pub(crate) struct Ring {
    ring: RingBuf<MapData>,
    positions: RingPositions,
}

impl Ring {
    pub(super) fn new(ring: RingBuf<MapData>, positions: RingPositions) -> Self {
        Self { ring, positions }
    }

    /// Hands records to `take` until the ring is empty or `bytes_max` are taken; returns the bytes taken.
    pub(crate) fn drain(&mut self, bytes_max: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(item) = self.ring.next() else { break };
            take(&item);
            bytes += item.len();
        }
        bytes
    }

    /// Bytes that wait in the ring.
    pub(crate) fn fill_bytes(&self) -> u64 {
        self.positions.fill_bytes()
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the map lives as long as the ring.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}
