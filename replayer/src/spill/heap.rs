//! The allocator: the system's, and the arena for what is folded beyond the bound. Owns the count of what is allocated and the choice between the
//! two; whence memory comes is told by its address.
//!
//! Below the bound an allocation costs what the system's does, and an addition to a number of the thread's own: what all threads have together is
//! brought up to date by each of them in steps of [`STEP_BYTES`].

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::IS_FOLDING;
use super::arena::{Arena, Refused};

/// Bytes that a thread allocates or gives back until all know of it.
const STEP_BYTES: i64 = 64 << 10;
/// Bytes that are taken from the system at most, once the file cannot grow, until [`SpillingHeap::news`] is asked.
const SLACK_BYTES: i64 = 16 << 20;

const BEGAN: u8 = 1;
const UNABLE: u8 = 2;
const FULL: u8 = 4;

thread_local! {
    /// Bytes that this thread has allocated, less those it gave back, and nobody else knows of.
    static UNTOLD: Cell<i64> = const { Cell::new(0) };
}

/// What happened and is to be told.
#[derive(Debug)]
pub(super) struct News {
    /// The first of the file is used.
    pub(super) began: bool,
    /// The bound is reached, and there is no file.
    pub(super) unable: bool,
    /// The file cannot grow, and why. This is told again and again.
    pub(super) full: Option<io::Error>,
}

/// The allocator.
pub(super) struct SpillingHeap {
    bound_bytes: AtomicI64,
    /// Bytes that are allocated from the system, by all threads, but for what each has not told.
    heap_bytes: AtomicI64,
    /// Addresses of the arena: from where on, and how many.
    start: AtomicUsize,
    reserved_bytes: AtomicUsize,
    arena: Mutex<Arena>,
    news: AtomicU8,
    /// It is told, or to be told, that there is no file.
    is_unable: AtomicBool,
    /// Why the file cannot grow, once that was so.
    full: AtomicI32,
    /// Bytes that may yet be taken from the system then.
    slack_bytes: AtomicI64,
}

impl SpillingHeap {
    /// The system's allocator, until there is a bound.
    pub(super) const fn new() -> Self {
        Self {
            bound_bytes: AtomicI64::new(i64::MAX),
            heap_bytes: AtomicI64::new(0),
            start: AtomicUsize::new(0),
            reserved_bytes: AtomicUsize::new(0),
            arena: Mutex::new(Arena::new()),
            news: AtomicU8::new(0),
            is_unable: AtomicBool::new(false),
            full: AtomicI32::new(0),
            slack_bytes: AtomicI64::new(SLACK_BYTES),
        }
    }

    /// Sets the bound.
    pub(super) fn set_bound(&self, bound_bytes: u64) {
        let bound_bytes = i64::try_from(bound_bytes).unwrap_or(i64::MAX);
        self.bound_bytes.store(bound_bytes, Relaxed);
    }

    /// Takes the file for what is beyond the bound. To be called once.
    ///
    /// # Errors
    /// There is no address space for it.
    pub(super) fn set_file(&self, file: File, chunk_bytes: usize) -> io::Result<()> {
        let addresses = self.arena().begin(file, chunk_bytes)?;
        self.start.store(addresses.start, Relaxed);
        self.reserved_bytes.store(addresses.len(), Relaxed);
        Ok(())
    }

    /// What is to be told.
    pub(super) fn news(&self) -> Option<News> {
        if self.news.load(Relaxed) == 0 {
            return None;
        }
        let news = self.news.fetch_and(FULL, Relaxed);
        Some(News {
            began: news & BEGAN != 0,
            unable: news & UNABLE != 0,
            full: (news & FULL != 0).then(|| io::Error::from_raw_os_error(self.full.load(Relaxed))),
        })
    }

    /// Whether an address lies in the arena.
    #[inline]
    pub(super) fn is_in_arena(&self, address: usize) -> bool {
        address.wrapping_sub(self.start.load(Relaxed)) < self.reserved_bytes.load(Relaxed)
    }

    fn arena(&self) -> MutexGuard<'_, Arena> {
        // Nothing in it panics, and a panic would not find any memory either.
        self.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many bytes more of a fold do not belong into the heap.
    #[inline]
    fn is_beyond(&self, bytes: usize) -> bool {
        IS_FOLDING.get() && {
            let more = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.heap_bytes.load(Relaxed).saturating_add(more) > self.bound_bytes.load(Relaxed)
        }
    }

    /// Memory in the file; null where it is to be taken from the system all the same.
    ///
    /// # Safety
    /// The size of the layout is not 0.
    #[inline(never)]
    unsafe fn spill(&self, layout: Layout) -> *mut u8 {
        let mut arena = self.arena();
        let before = arena.mapped_bytes();
        // SAFETY: the caller's promise is the same.
        let error = match unsafe { arena.allocate(layout) } {
            Ok(memory) => {
                if before == 0 {
                    self.news.fetch_or(BEGAN, Relaxed);
                }
                return memory.as_ptr();
            }
            Err(Refused::NoPlace) => {
                drop(arena);
                if !self.is_unable.load(Relaxed) {
                    self.is_unable.store(true, Relaxed);
                    self.news.fetch_or(UNABLE, Relaxed);
                }
                return ptr::null_mut();
            }
            Err(Refused::Full(error)) => error.raw_os_error(),
        };
        drop(arena);
        self.full.store(error, Relaxed);
        self.news.fetch_or(FULL, Relaxed);
        let wanted = i64::try_from(layout.size()).unwrap_or(i64::MAX);
        if self.slack_bytes.load(Relaxed) < wanted {
            super::give_up(&io::Error::from_raw_os_error(error));
        }
        self.slack_bytes.fetch_sub(wanted, Relaxed);
        ptr::null_mut()
    }

    #[inline]
    fn count(&self, bytes: i64) {
        let untold = UNTOLD.get() + bytes;
        if untold.abs() < STEP_BYTES {
            UNTOLD.set(untold);
        } else {
            UNTOLD.set(0);
            self.heap_bytes.fetch_add(untold, Relaxed);
        }
    }

    /// Allocates by `from_system`, or from the arena, of which it says so.
    ///
    /// # Safety
    /// The size of the layout is not 0.
    #[inline]
    unsafe fn allocate(&self, layout: Layout, from_system: impl FnOnce() -> *mut u8) -> (*mut u8, bool) {
        if self.is_beyond(layout.size()) {
            // SAFETY: the caller's promise is the same.
            let memory = unsafe { self.spill(layout) };
            if !memory.is_null() {
                return (memory, true);
            }
        }
        let memory = from_system();
        if memory.is_null() && IS_FOLDING.get() {
            // Another limit than ours was reached.
            // SAFETY: the caller's promise is the same.
            let memory = unsafe { self.spill(layout) };
            return (memory, true);
        }
        if memory.is_null() {
            return (memory, false);
        }
        self.count(weight(layout.size()));
        (memory, false)
    }
}

/// Bytes that an allocation takes of the heap: glibc has 8 of its own with each, and gives multiples of 16.
#[inline]
fn weight(size: usize) -> i64 {
    i64::try_from(size.saturating_add(8).next_multiple_of(16)).unwrap_or(i64::MAX)
}

// SAFETY: memory comes from the system's allocator or from the arena, and goes back, by its address, to where it came from. Neither unwinds.
unsafe impl GlobalAlloc for SpillingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises that the size is not 0.
        unsafe { self.allocate(layout, || System.alloc(layout)).0 }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises that the size is not 0.
        let (memory, is_spilled) = unsafe { self.allocate(layout, || System.alloc_zeroed(layout)) };
        if is_spilled && !memory.is_null() {
            // SAFETY: it was just allocated with that size. It may have been used before.
            unsafe { memory.write_bytes(0, layout.size()) };
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if self.is_in_arena(memory.addr()) {
            // SAFETY: by its address it came from there, with this layout.
            unsafe { self.arena().deallocate(memory, layout) };
        } else {
            self.count(-weight(layout.size()));
            // SAFETY: all other memory came from the system, with this layout.
            unsafe { System.dealloc(memory, layout) };
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let is_in_arena = self.is_in_arena(memory.addr());
        if is_in_arena {
            // SAFETY: by its address it came from there, with this layout; the caller promises that the new size is not 0.
            if unsafe { self.arena().resize(memory, layout, new_size) } {
                return memory;
            }
        } else if !self.is_beyond(new_size.saturating_sub(layout.size())) || new_size <= layout.size() {
            // SAFETY: all other memory came from the system, with this layout.
            let moved = unsafe { System.realloc(memory, layout, new_size) };
            if !moved.is_null() {
                self.count(weight(new_size) - weight(layout.size()));
                return moved;
            }
        }
        // SAFETY: the caller promises that the new size is one that a layout may have, and not 0; both have at least `size` bytes, and do not overlap.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !moved.is_null() {
                ptr::copy_nonoverlapping(memory, moved, layout.size().min(new_size));
                self.dealloc(memory, layout);
            }
            moved
        }
    }
}
