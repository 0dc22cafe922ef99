//! The arrays that the programs share with us through mappings: no system call reads or writes them.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use abi::{Counter, LOST_SLOTS, LostSlot, SEQ_SLOT_NEXT, throttle};
use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags};

/// Bytes of a page; the recorder runs where they are so many.
pub(super) const PAGE_BYTES: usize = 4096;

/// A mapping of a BPF map, unmapped at the end.
pub(super) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: memory shared with the kernel, read and written through atomics and volatile reads only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn new(fd: BorrowedFd<'_>, bytes: usize, protection: ProtFlags, offset: u64) -> Result<Self> {
        let bytes = bytes.next_multiple_of(PAGE_BYTES);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                MapFlags::SHARED,
                fd,
                offset,
            )
        }
        .context("map a BPF map")?;
        Ok(Self {
            start: NonNull::new(start.cast()).context("map a BPF map at 0")?,
            bytes,
        })
    }

    /// The u64 at an index.
    pub(super) fn slot(&self, index: usize) -> &AtomicU64 {
        assert!(
            (index + 1) * 8 <= self.bytes,
            "slot {index} is outside of the map"
        );
        // SAFETY: inside the mapping, aligned, shared through atomics.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().cast::<u64>().add(index)) }
    }

    /// The u32 at an offset in bytes.
    pub(super) fn word(&self, at: usize) -> &AtomicU32 {
        assert!(
            at.is_multiple_of(4) && at + 4 <= self.bytes,
            "word {at} is outside of the map"
        );
        // SAFETY: inside the mapping, aligned, shared through atomics.
        unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(at).cast::<u32>()) }
    }

    /// Bytes that the kernel has written and leaves alone.
    pub(super) fn bytes_at(&self, at: usize, length: usize) -> &[u8] {
        let end = at.checked_add(length);
        assert!(
            end.is_some_and(|end| end <= self.bytes),
            "{length} bytes at {at} are outside of the map"
        );
        // SAFETY: inside the mapping; nobody writes there until the caller lets go.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(at), length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used any more. A failure leaves it mapped, which harms nothing.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// The counter of sequence numbers, shared with the programs.
#[derive(Clone)]
pub(crate) struct Sequence(Arc<Mapping>);

impl Sequence {
    pub(super) fn new(fd: BorrowedFd<'_>) -> Result<Self> {
        let sequence = Self(Arc::new(Mapping::new(
            fd,
            8,
            ProtFlags::READ | ProtFlags::WRITE,
            0,
        )?));
        // 0 means "none" in what was lost: numbers begin at 1.
        let _ = sequence
            .cell()
            .compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst);
        Ok(sequence)
    }

    fn cell(&self) -> &AtomicU64 {
        self.0.slot(SEQ_SLOT_NEXT as usize)
    }

    /// Takes the next number.
    pub(crate) fn next(&self) -> u64 {
        self.cell().fetch_add(1, Ordering::SeqCst)
    }

    /// The number that will be taken next.
    pub(crate) fn peek(&self) -> u64 {
        self.cell().load(Ordering::SeqCst)
    }
}

/// What the programs are asked for while something is about to be full.
pub(crate) struct ThrottleArray(Mapping);

impl ThrottleArray {
    pub(super) fn new(fd: BorrowedFd<'_>) -> Result<Self> {
        let bytes = throttle::SLOTS as usize * 8;
        Ok(Self(Mapping::new(
            fd,
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            0,
        )?))
    }

    /// Asks the programs to hold writers for so long for each KiB of content, and while more than this waits in the ring, until `lasts`
    /// has passed.
    pub(crate) fn ask(&self, ns_per_kib: u64, ring_bytes: u64, lasts: Duration) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = Duration::new(
            now.tv_sec.try_into().unwrap_or(0),
            now.tv_nsec.try_into().unwrap_or(0),
        );
        let until_ns = u64::try_from((now + lasts).as_nanos()).unwrap_or(0);
        self.0
            .slot(throttle::NS_PER_KIB as usize)
            .store(ns_per_kib, Ordering::Relaxed);
        self.0
            .slot(throttle::RING_BYTES as usize)
            .store(ring_bytes, Ordering::Relaxed);
        self.0
            .slot(throttle::UNTIL_NS as usize)
            .store(until_ns, Ordering::Release);
    }

    /// Asks for nothing any more.
    pub(crate) fn release(&self) {
        self.0
            .slot(throttle::UNTIL_NS as usize)
            .store(0, Ordering::Release);
    }
}

/// The programs' counters.
#[derive(Clone)]
pub(crate) struct Counters(Arc<Mapping>);

impl Counters {
    pub(super) fn new(fd: BorrowedFd<'_>) -> Result<Self> {
        Ok(Self(Arc::new(Mapping::new(
            fd,
            Counter::Count as usize * 8,
            ProtFlags::READ | ProtFlags::WRITE,
            0,
        )?)))
    }

    /// A counter's value.
    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.0.slot(counter as usize).load(Ordering::Relaxed)
    }
}

/// What found no place in the ring.
#[derive(Clone)]
pub(crate) struct Lost(Arc<Mapping>);

impl Lost {
    pub(super) fn new(fd: BorrowedFd<'_>) -> Result<Self> {
        let bytes = LOST_SLOTS as usize * size_of::<LostSlot>();
        Ok(Self(Arc::new(Mapping::new(
            fd,
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            0,
        )?)))
    }

    /// The slots from `cursor` up to `head` (the value of [`Counter::LostHead`]), which become the new cursor. `None` where more
    /// were lost than the array holds, or one is still being filled.
    pub(crate) fn read(&self, cursor: &mut u64, head: u64) -> Option<Vec<LostSlot>> {
        if head - *cursor > u64::from(LOST_SLOTS) {
            *cursor = head;
            return None;
        }
        let mut slots = Vec::new();
        for at in *cursor..head {
            let index = usize::try_from(at % u64::from(LOST_SLOTS)).unwrap_or(0);
            // SAFETY: inside the mapping, aligned; volatile because a program may be writing it.
            let slot = unsafe {
                self.0
                    .start
                    .as_ptr()
                    .cast::<LostSlot>()
                    .add(index)
                    .read_volatile()
            };
            if slot.seq == 0 {
                return None;
            }
            slots.push(slot);
        }
        *cursor = head;
        Some(slots)
    }
}

/// Times that a program was skipped (`bpf_prog_info.recursion_misses`); 0 where the kernel does not tell.
pub(super) fn recursion_misses(program: BorrowedFd<'_>) -> u64 {
    /// Offset of `recursion_misses` in `struct bpf_prog_info`, as in linux/bpf.h.
    const OFFSET: usize = 208;
    info_word(program, OFFSET).unwrap_or(0)
}

/// A u64 of what the kernel tells about a program or link; `None` where it tells less.
fn info_word(object: BorrowedFd<'_>, offset: usize) -> Option<u64> {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    #[repr(C)]
    struct Attribute {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = [0u8; 256];
    let mut attribute = Attribute {
        bpf_fd: object.as_raw_fd().cast_unsigned(),
        info_len: 256,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the kernel writes at most info_len bytes to info.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attribute,
            size_of::<Attribute>(),
        )
    };
    let bytes: [u8; 8] = info[offset..offset + 8].try_into().unwrap_or_default();
    (result == 0 && attribute.info_len as usize >= offset + 8).then(|| u64::from_ne_bytes(bytes))
}
