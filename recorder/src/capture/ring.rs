//! The reader of the ring buffer.
//!
//! Owns the layout of a BPF ring as the kernel maps it. What is read is let go in a step of its own: until then the kernel keeps it, so
//! that a recorder that dies between reading and keeping leaves it to the next one. (aya's reader lets go of each record as it is read.)

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, ensure};
use rustix::mm::ProtFlags;

use super::shared::{Mapping, PAGE_BYTES};

/// A record begins with its length and these two bits (`BPF_RINGBUF_BUSY_BIT`, `BPF_RINGBUF_DISCARD_BIT`), and four bytes for the kernel.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const HEADER_BYTES: usize = 8;

/// The one reader of a volume's ring.
pub(crate) struct Ring {
    fd: OwnedFd,
    /// The page with the position up to which the kernel may write again.
    consumer: Mapping,
    /// The page with the position up to which records were begun, then the data twice, so that no record is cut.
    producer: Mapping,
    data_bytes: usize,
    /// Up to here records were handed out.
    position: u64,
}

impl Ring {
    /// The ring of a map with data of so many bytes, from where the last reader let go.
    ///
    /// # Errors
    /// When the map cannot be mapped.
    pub(super) fn open(fd: OwnedFd, data_bytes: u32) -> Result<Self> {
        let data_bytes = data_bytes as usize;
        ensure!(
            data_bytes.is_power_of_two() && data_bytes >= PAGE_BYTES,
            "a ring of {data_bytes} bytes"
        );
        let consumer = Mapping::new(fd.as_fd(), PAGE_BYTES, ProtFlags::READ | ProtFlags::WRITE, 0)
            .context("open the ring")?;
        let producer = Mapping::new(
            fd.as_fd(),
            PAGE_BYTES + 2 * data_bytes,
            ProtFlags::READ,
            PAGE_BYTES as u64,
        )
        .context("open the ring")?;
        let position = consumer.slot(0).load(Ordering::Acquire);
        Ok(Self {
            fd,
            consumer,
            producer,
            data_bytes,
            position,
        })
    }

    /// Hands records to `take` until the ring is empty or `bytes_max` are taken; returns the bytes taken.
    pub(crate) fn drain(&mut self, bytes_max: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut bytes = 0;
        let mut end = self.producer.slot(0).load(Ordering::Acquire);
        while bytes < bytes_max {
            if self.position == end {
                end = self.producer.slot(0).load(Ordering::Acquire);
                if self.position == end {
                    break;
                }
            }
            // Within the data: the mask keeps it there.
            let at = usize::try_from(self.position & (self.data_bytes as u64 - 1)).unwrap_or(0);
            let header = self.producer.word(PAGE_BYTES + at).load(Ordering::Acquire);
            if header & BUSY != 0 {
                break;
            }
            let length = (header & !DISCARDED) as usize;
            if header & DISCARDED == 0 {
                take(self.producer.bytes_at(PAGE_BYTES + at + HEADER_BYTES, length));
                bytes += length;
            }
            self.position += (HEADER_BYTES + length).next_multiple_of(8) as u64;
        }
        bytes
    }

    /// Lets the kernel write again where everything lies that was handed out so far: it is kept elsewhere now.
    pub(crate) fn release(&mut self) {
        self.consumer.slot(0).store(self.position, Ordering::Release);
    }

    /// Bytes that the ring holds at most.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.data_bytes as u64
    }

    /// Bytes in the ring that were not let go.
    pub(crate) fn fill_bytes(&self) -> u64 {
        self.producer
            .slot(0)
            .load(Ordering::Acquire)
            .saturating_sub(self.consumer.slot(0).load(Ordering::Relaxed))
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
