//! Content: buffered writes, write-back of mapped pages, O_DIRECT.

use core::ffi::c_void;

use abi::{EventKind, Head, RangeBody, lost_flags};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::bpf_loop;

use crate::attributes::emit_bare;
use crate::emit::{NONE, emit_data};
use crate::kernel::{
    Reader, file_inode, folio_bytes, folio_inode, folio_is_uptodate, folio_position, inode_ref, offset,
    page_address, page_folio, recorded,
};
use crate::maps::{Mark, count, is_mapped, lose, mark_mapped, next_seq};
use crate::ranges::emit_range;

const PAGE_BYTES: u64 = 4096;
/// `IOMAP_ZERO` in the flags of an iteration.
const IOMAP_ZERO: u32 = 1 << 1;
/// `IOMAP_DIO_WRITE`.
const DIO_WRITE: u32 = 1 << 30;
/// `REQ_OP_WRITE` in the low byte of `bi_opf`.
const REQ_OP_WRITE: u32 = 1;

/// The end of a buffered write to one folio: inode and folio are locked, the bytes are copied.
#[inline(always)]
pub(crate) fn write_end(position: u64, length: u64, copied: u64, page: u64) {
    let folio = page_folio(page);
    let inode = folio_inode(folio);
    if !recorded(inode) {
        return;
    }
    let (length, copied) = (length & 0xffff_ffff, copied & 0xffff_ffff);
    // The kernel throws a short copy into an invalid folio away.
    if copied == 0 || (copied < length && !folio_is_uptodate(folio)) {
        return;
    }
    buffered(inode, folio, position, copied);
}

#[inline(always)]
pub(crate) fn iomap_write_end(iter: u64, length: u64, copied: u64, folio: u64) {
    let position: u64 = Reader::new().get(iter + offset!(iter_pos));
    iomap_write_end_at(iter, position, length, copied, folio);
}

/// As above, where the position is an argument.
#[inline(always)]
pub(crate) fn iomap_write_end_at(iter: u64, position: u64, length: u64, copied: u64, folio: u64) {
    let mut reader = Reader::new();
    let flags: u32 = reader.get(iter + offset!(iter_flags));
    if flags & IOMAP_ZERO == 0 {
        write_end(position, length, copied, folio);
        return;
    }
    // Zeros beyond the end of the file (a block's rest) are no content, and which end that is may be changing: none of them makes a
    // file longer.
    let inode: u64 = reader.get(iter + offset!(iter_inode));
    let size: u64 = reader.get(inode + offset!(inode_size));
    if position < size && recorded(inode) {
        let body = RangeBody {
            offset: position,
            length: length & 0xffff_ffff,
            ..RangeBody::default()
        };
        emit_range(EventKind::Zero, inode, body);
    }
}

#[inline(always)]
fn buffered(inode: u64, folio: u64, position: u64, length: u64) {
    let start = folio_position(folio);
    if position >= start {
        emit_data(
            EventKind::Write,
            inode,
            position,
            page_address(folio) + (position - start),
            length,
        );
    }
}

#[inline(always)]
pub(crate) fn btrfs_dirty_folio(folio: u64, position: u64, length: u64) {
    let inode = folio_inode(folio);
    if recorded(inode) {
        buffered(inode, folio, position, length);
    }
}

/// A write to several pages on its way.
#[repr(C)]
struct Pages {
    inode: u64,
    pages: u64,
    position: u64,
    left: u64,
}

#[inline(never)]
extern "C" fn next_page(index: u32, pages: *mut Pages) -> i64 {
    // SAFETY: a local of the caller of bpf_loop.
    let pages = unsafe { &mut *pages };
    if pages.left == 0 {
        return 1;
    }
    let page: u64 = Reader::new().get(pages.pages + 8 * u64::from(index));
    let within = pages.position & (PAGE_BYTES - 1);
    let room = PAGE_BYTES - within;
    let length = if pages.left < room { pages.left } else { room };
    emit_data(
        EventKind::Write,
        pages.inode,
        pages.position,
        page_address(page) + within,
        length,
    );
    pages.position += length;
    pages.left -= length;
    0
}

/// btrfs before folios: an array of pages, all locked.
#[inline(always)]
pub(crate) fn btrfs_dirty_pages(pages: u64, position: u64, length: u64) {
    let first: u64 = Reader::new().get(pages);
    let inode = folio_inode(first);
    if !recorded(inode) {
        return;
    }
    let mut run = Pages {
        inode,
        pages,
        position,
        left: length,
    };
    // SAFETY: callback and context have the signature that bpf_loop wants.
    unsafe {
        bpf_loop(
            1024,
            next_page as *const () as *mut c_void,
            (&raw mut run).cast::<c_void>(),
            0,
        );
    }
}

/// A page becomes writable through a shared mapping. What is stored there is seen at write-back; that something is, is told now: after a
/// power cut it may be on the disk although the write-back was never heard of.
#[inline(always)]
pub(crate) fn fault_dirty(fault: u64) {
    let mut reader = Reader::new();
    let area: u64 = reader.get(fault + offset!(fault_vma));
    let file: u64 = reader.get(area + offset!(vma_file));
    if file == 0 {
        return;
    }
    let inode = file_inode(file);
    if recorded(inode) {
        let key = inode_ref(&mut reader, inode);
        // SAFETY: a helper without arguments.
        let mark = mark_mapped(&key, unsafe { bpf_ktime_get_boot_ns() });
        if mark == Mark::Tell {
            emit_bare(EventKind::Changed, 0, inode);
        }
        if mark == Mark::Full {
            let bytes = core::mem::size_of::<Head>() as u64;
            lose(
                next_seq(),
                key,
                NONE,
                NONE,
                lost_flags::CONTENT,
                EventKind::MapWrite as u32,
                bytes,
            );
        }
    }
}

/// A folio goes to disk: the last moment at which stores through a mapping can be seen. The folio is locked.
#[inline(always)]
pub(crate) fn start_writeback(folio: u64) {
    let inode = folio_inode(folio);
    if !recorded(inode) {
        return;
    }
    let mut reader = Reader::new();
    let key = inode_ref(&mut reader, inode);
    if !is_mapped(&key) {
        return;
    }
    count(abi::Counter::MapWriteBack, 1);
    let size: u64 = reader.get(inode + offset!(inode_size));
    let (position, bytes) = (folio_position(folio), folio_bytes(folio));
    if position >= size {
        return;
    }
    let within = size - position;
    let length = if bytes < within { bytes } else { within };
    emit_data(EventKind::MapWrite, inode, position, page_address(folio), length);
}

#[repr(C)]
#[derive(Clone, Copy)]
struct BioVec {
    page: u64,
    length: u32,
    offset: u32,
}

/// The pages of an O_DIRECT request on their way.
#[repr(C)]
struct Vectors {
    inode: u64,
    vector: u64,
    position: u64,
    left: u64,
    skip: u64,
}

#[inline(never)]
extern "C" fn next_vector(index: u32, vectors: *mut Vectors) -> i64 {
    // SAFETY: a local of the caller of bpf_loop.
    let vectors = unsafe { &mut *vectors };
    if vectors.left == 0 {
        return 1;
    }
    let vector: BioVec = Reader::new().get(vectors.vector + 16 * u64::from(index));
    let skip = if index == 0 { vectors.skip } else { 0 };
    let whole = u64::from(vector.length) - skip;
    let length = if vectors.left < whole { vectors.left } else { whole };
    let address = page_address(vector.page) + u64::from(vector.offset) + skip;
    emit_data(
        EventKind::DirectWrite,
        vectors.inode,
        vectors.position,
        address,
        length,
    );
    vectors.position += length;
    vectors.left -= length;
    0
}

/// An O_DIRECT request goes to the device; the user's pages are pinned.
#[inline(always)]
pub(crate) fn dio_submit(iter: u64, bio: u64, position: u64) {
    let mut reader = Reader::new();
    let inode: u64 = reader.get(iter + offset!(iter_inode));
    if !recorded(inode) {
        return;
    }
    let operation: u32 = reader.get(bio + offset!(bio_opf));
    if operation & 0xff != REQ_OP_WRITE {
        return;
    }
    // Padding with zeros around an unaligned extension lies outside of what is written.
    let start: u64 = reader.get(iter + offset!(iter_pos));
    let length: u64 = reader.get(iter + offset!(iter_len));
    if position < start || position >= start + length {
        return;
    }
    let at = bio + offset!(bio_iter);
    let vectors: u64 = reader.get(bio + offset!(bio_io_vec));
    let index: u32 = reader.get(at + offset!(bvec_iter_idx));
    let left: u32 = reader.get(at + offset!(bvec_iter_size));
    let skip: u32 = reader.get(at + offset!(bvec_iter_done));
    let mut run = Vectors {
        inode,
        vector: vectors + 16 * u64::from(index),
        position,
        left: u64::from(left),
        skip: u64::from(skip),
    };
    // SAFETY: callback and context have the signature that bpf_loop wants.
    unsafe {
        bpf_loop(
            512,
            next_vector as *const () as *mut c_void,
            (&raw mut run).cast::<c_void>(),
            0,
        );
    }
}

/// All of an O_DIRECT request is on the device, or has failed.
#[inline(always)]
pub(crate) fn dio_complete(dio: u64) {
    let mut reader = Reader::new();
    let flags: u32 = reader.get(dio + offset!(dio_flags));
    if flags & DIO_WRITE == 0 {
        return;
    }
    let error: i32 = reader.get(dio + offset!(dio_error));
    dio_write_end(
        reader.get(dio + offset!(dio_iocb)),
        reader.get(dio + offset!(dio_size)),
        error as u64,
    );
}

/// As above, in the function of a file system that ends only writes. Reads end in interrupts, where a probe is skipped, and counted as
/// missed, if it finds another at work.
#[inline(always)]
pub(crate) fn dio_write_end(iocb: u64, size: u64, error: u64) {
    let mut reader = Reader::new();
    let file: u64 = reader.get(iocb + offset!(kiocb_file));
    let inode = file_inode(file);
    if !recorded(inode) {
        return;
    }
    // An `int` leaves the upper half of its register undefined.
    let error = error as i32;
    let result = if error != 0 { i64::from(error) } else { size as i64 };
    emit_range(
        EventKind::DirectEnd,
        inode,
        RangeBody {
            offset: reader.get(iocb + offset!(kiocb_pos)),
            length: size,
            result,
            ..RangeBody::default()
        },
    );
}

const _: () = assert!(core::mem::size_of::<BioVec>() == 16 && core::mem::size_of::<Head>() == 160);
