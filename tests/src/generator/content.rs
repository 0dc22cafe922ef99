//! Operations on the content of one open file: writes of all kinds, and stores through mappings.

use std::io::IoSlice;

use rustix::fs::fstat;
use rustix::io::{Errno, ReadWriteFlags, pwrite as write_at, pwritev, pwritev2, write};
use rustix::mm::MsyncFlags;

use super::kinds::Done;
use super::world::{Class, FAR, Mapping, Step};

/// What direct writes are aligned to.
const SECTOR: u64 = 512;

pub(super) fn pwrite(step: &mut Step<'_>) -> Done {
    let open = step.open_where(|open| !open.direct)?;
    let offset = step.offset(&open);
    let length = step.length();
    write_at(&open.fd, &step.data(length), offset).map(drop)
}

pub(super) fn writev(step: &mut Step<'_>) -> Done {
    let open = step.open_where(|open| !open.direct)?;
    let offset = step.offset(&open);
    let parts: Vec<Vec<u8>> = (0..1 + step.random.below(5))
        .map(|_| {
            let length = step.length();
            step.data(length)
        })
        .collect();
    let parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    pwritev(&open.fd, &parts, offset).map(drop)
}

/// `write` at the file's own offset, or at its end where it was opened with `O_APPEND`.
pub(super) fn append(step: &mut Step<'_>) -> Done {
    let open = step.open_where(|open| !open.direct)?;
    let length = step.length();
    write(&open.fd, &step.data(length)).map(drop)
}

pub(super) fn append_flag(step: &mut Step<'_>) -> Done {
    let open = step.open_where(|open| !open.direct)?;
    let length = step.length();
    let data = step.data(length);
    pwritev2(&open.fd, &[IoSlice::new(&data)], 0, ReadWriteFlags::APPEND).map(drop)
}

pub(super) fn sync_write(step: &mut Step<'_>) -> Done {
    let open = step.open_where(|open| !open.direct)?;
    let offset = step.offset(&open);
    let length = step.length();
    let data = step.data(length);
    let flags = if step.random.chance(50) {
        ReadWriteFlags::SYNC
    } else {
        ReadWriteFlags::DSYNC
    };
    pwritev2(&open.fd, &[IoSlice::new(&data)], offset, flags).map(drop)
}

/// Memory whose address is a whole number of pages, as direct writes want it.
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub(super) fn new(data: &[u8]) -> Self {
        let mut memory = vec![0; data.len() + 4096];
        let start = memory.as_ptr().align_offset(4096);
        memory[start..start + data.len()].copy_from_slice(data);
        Self {
            memory,
            start,
            length: data.len(),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

pub(super) fn direct_write(step: &mut Step<'_>) -> Done {
    let open = step.open_where(|open| open.direct)?;
    let unit = if step.random.chance(70) { 4096 } else { SECTOR };
    let offset = step.offset(&open) / unit * unit;
    let length = step.length().next_multiple_of(unit);
    let data = Aligned::new(&step.data(length));
    write_at(&open.fd, data.bytes(), offset).map(drop)
}

/// The tail does not end at a sector: refused by most, done past or through the page cache by others.
pub(super) fn direct_unaligned(step: &mut Step<'_>) -> Done {
    let open = step.open_where(|open| open.direct)?;
    let offset = step.offset(&open) / 4096 * 4096;
    let length = step.length();
    let data = Aligned::new(&step.data(length));
    write_at(&open.fd, data.bytes(), offset).map(drop)
}

/// A hole of up to a tebibyte before the data.
pub(super) fn far_write(step: &mut Step<'_>) -> Done {
    let open = step.open_where(|open| !open.direct)?;
    let offset = FAR + step.random.below((1 << 40) - FAR);
    step.say(format_args!("at {offset}"));
    write_at(&open.fd, &step.data(5000), offset).map(drop)
}

pub(super) fn map(step: &mut Step<'_>) -> Done {
    let open = step.open_where(|open| open.class == Some(Class::Mapped) && !open.direct)?;
    let size = u64::try_from(fstat(&open.fd)?.st_size).unwrap_or(0);
    if size == 0 {
        return Err(Errno::NXIO);
    }
    let offset = if step.random.chance(70) { 0 } else { 16 * 4096 };
    let mapping = Mapping::new(&open, offset, 64 * 4096)?;
    // A mapping that is made is nearly always stored to; others store to it later, when the file may be shorter.
    let length = 1 + step.random.below(6000);
    let at = step.random.below(size.min(32 * 4096));
    step.say(format_args!("offset {offset}, store at {at} length {length}"));
    let stored = mapping.store(usize::try_from(at).unwrap_or(0), &step.data(length));
    step.keep_mapping(Some(mapping));
    stored
}

pub(super) fn store(step: &mut Step<'_>) -> Done {
    let length = step.length();
    let data = step.data(length);
    step.with_mapping(|step, mapping| {
        let within = if step.random.chance(70) {
            8 * 4096
        } else {
            mapping.length() as u64
        };
        let at = step.random.below(within);
        step.say(format_args!("at {at}"));
        mapping.store(usize::try_from(at).unwrap_or(0), &data)
    })
}

pub(super) fn msync_some(step: &mut Step<'_>) -> Done {
    step.with_mapping(|step, mapping| {
        mapping.sync(if step.random.chance(50) {
            MsyncFlags::SYNC
        } else {
            MsyncFlags::ASYNC
        })
    })
}

pub(super) fn unmap(step: &mut Step<'_>) -> Done {
    step.keep_mapping(None);
    Ok(())
}

pub(super) fn fsync(step: &mut Step<'_>) -> Done {
    let open = step.open()?;
    if step.random.chance(50) {
        rustix::fs::fsync(&open.fd)
    } else {
        rustix::fs::fdatasync(&open.fd)
    }
}
