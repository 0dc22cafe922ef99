//! Memory in a file: a shared mapping that grows with it, and what is free in it. Owns the file; free space is kept by `talc`, in the file too.
//!
//! The mapping grows within address space that is reserved at once, so that an address tells whether it lies there. Blocks are allotted before they
//! are mapped: a full disk is an error here, and not a signal later.

use std::alloc::Layout;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::ptr::{NonNull, null_mut};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};
use talc::DefaultBinning;
use talc::base::{CHUNK_UNIT, Talc};
use talc::source::Manual;

/// Address space that is reserved, in bytes: 4 TiB, or less where there is less.
const RESERVED_BYTES: usize = 1 << 42;
/// What free space and alignment may take beside an allocation, in bytes: the heads of all lists once, and both ends of a gap.
const SPARE_BYTES: usize = talc::min_first_heap_size::<DefaultBinning>() + 4 * CHUNK_UNIT;

/// Why there is no memory.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is no file, or no address space for it.
    NoPlace,
    /// The file cannot grow.
    Full(Errno),
}

/// Memory in a file.
pub(super) struct Arena {
    free: Talc<Manual, DefaultBinning>,
    place: Option<Place>,
}

struct Place {
    file: File,
    start: *mut u8,
    reserved_bytes: usize,
    /// Of these, backed by as many bytes of the file.
    mapped_bytes: usize,
    /// Where `free` believes that the mapping ends, once there is one.
    end: Option<NonNull<u8>>,
    chunk_bytes: usize,
}

// SAFETY: the pointers lead into the mapping, which belongs to this arena and to no thread.
unsafe impl Send for Place {}

impl Arena {
    /// Without a file.
    pub(super) const fn new() -> Self {
        Self {
            free: Talc::new(Manual),
            place: None,
        }
    }

    /// Takes an empty file, and reserves address space; gives the addresses. The file grows by multiples of `chunk_bytes`, a multiple of the page size.
    ///
    /// # Errors
    /// There is no address space.
    pub(super) fn begin(&mut self, file: File, chunk_bytes: usize) -> io::Result<Range<usize>> {
        let mut reserved_bytes = RESERVED_BYTES;
        let start = loop {
            // SAFETY: a new mapping, at an address that the kernel chooses, touches no other.
            match unsafe { mmap_anonymous(null_mut(), reserved_bytes, ProtFlags::empty(), MapFlags::PRIVATE) }
            {
                Ok(start) => break start.cast::<u8>(),
                Err(_) if reserved_bytes > chunk_bytes => reserved_bytes /= 2,
                Err(error) => return Err(error.into()),
            }
        };
        self.place = Some(Place {
            file,
            start,
            reserved_bytes,
            mapped_bytes: 0,
            end: None,
            chunk_bytes,
        });
        Ok(start.addr()..start.addr() + reserved_bytes)
    }

    /// Bytes of the file.
    pub(super) fn mapped_bytes(&self) -> usize {
        self.place.as_ref().map_or(0, |place| place.mapped_bytes)
    }

    /// Allocates; the file grows where nothing is free.
    ///
    /// # Errors
    /// There is no file, or it cannot grow.
    ///
    /// # Safety
    /// The size of the layout is not 0.
    pub(super) unsafe fn allocate(&mut self, layout: Layout) -> Result<NonNull<u8>, Refused> {
        // SAFETY: the caller's promise is the same.
        if let Some(found) = unsafe { self.free.try_allocate(layout) } {
            return Ok(found);
        }
        self.grow(layout)?;
        // SAFETY: as above.
        unsafe { self.free.try_allocate(layout) }.ok_or(Refused::Full(Errno::NOMEM))
    }

    /// Gives back.
    ///
    /// # Safety
    /// `memory` was allocated here, with this layout or changed to it.
    pub(super) unsafe fn deallocate(&mut self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.free.deallocate(memory, layout) };
    }

    /// Changes a size where it lies; says whether that was possible. It always is for a smaller one.
    ///
    /// # Safety
    /// As for [`Arena::deallocate`]; and the new size is not 0.
    pub(super) unsafe fn resize(&mut self, memory: *mut u8, layout: Layout, new_size: usize) -> bool {
        // SAFETY: the caller's promises are the same.
        unsafe { self.free.try_realloc_in_place(memory, layout, new_size) }
    }

    fn grow(&mut self, layout: Layout) -> Result<(), Refused> {
        let place = self.place.as_mut().ok_or(Refused::NoPlace)?;
        let wanted = layout.size().checked_add(layout.align() + SPARE_BYTES);
        let bytes = wanted.and_then(|bytes| bytes.checked_next_multiple_of(place.chunk_bytes));
        let left = place.reserved_bytes - place.mapped_bytes;
        let bytes = bytes.filter(|bytes| *bytes <= left).ok_or(Refused::NoPlace)?;
        let new_end = place.extend(bytes).map_err(Refused::Full)?;
        let old_end = place.end;
        // SAFETY: what lies between the old end and the new one was mapped just now, right behind what was there, and is given to nobody else.
        place.end = unsafe {
            match old_end {
                Some(end) => Some(self.free.extend(end, new_end)),
                None => self.free.claim(place.start, place.mapped_bytes),
            }
        };
        Ok(())
    }
}

impl Place {
    /// Allots and maps so many more bytes of the file; gives the new end.
    fn extend(&mut self, bytes: usize) -> Result<*mut u8, Errno> {
        let offset = self.mapped_bytes;
        self.allot(offset, bytes).inspect_err(|_| {
            // Others need the room.
            let _best_effort = self.file.set_len(offset as u64);
        })?;
        let at = self.start.wrapping_add(offset).cast::<c_void>();
        let (writable, shared) = (
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::FIXED,
        );
        // SAFETY: these addresses were reserved by this arena, and nothing was mapped there since: `grow` has looked that they are as many.
        unsafe { mmap(at, bytes, writable, shared, &self.file, offset as u64) }?;
        // A child that did not call exec would write into what its parent uses. A kernel that cannot do this has none that does.
        // SAFETY: the mapping that was just made; how this process sees it does not change.
        let _best_effort = unsafe { madvise(at, bytes, Advice::LinuxDontFork) };
        // Maps and trees lead anywhere: what lies beside a page that is read would only drive others out.
        // SAFETY: as above.
        let _best_effort = unsafe { madvise(at, bytes, Advice::Random) };
        self.mapped_bytes += bytes;
        Ok(self.start.wrapping_add(self.mapped_bytes))
    }

    fn allot(&self, offset: usize, bytes: usize) -> Result<(), Errno> {
        let range = |number: usize| libc::off_t::try_from(number).map_err(|_| Errno::FBIG);
        let (offset, bytes) = (range(offset)?, range(bytes)?);
        loop {
            // Where a file system has no such call, this writes to every block.
            // SAFETY: a call with numbers only.
            match unsafe { libc::posix_fallocate(self.file.as_raw_fd(), offset, bytes) } {
                0 => return Ok(()),
                libc::EINTR => {}
                error => return Err(Errno::from_raw_os_error(error)),
            }
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            // SAFETY: the whole of what was reserved, which nobody may use without the arena.
            let _best_effort = unsafe { rustix::mm::munmap(place.start.cast(), place.reserved_bytes) };
        }
    }
}
