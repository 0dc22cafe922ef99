//! From an operation to a record in the ring: the head, and the choice of a size class for data.

use core::ffi::c_void;

use abi::{Actor, DATA_CLASSES, DataBody, EventKind, Head, InodeRef, InodeState, event_flags, lost_flags};
use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_loop, bpf_probe_read_kernel};
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_ktime_get_boot_ns,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

use crate::complain::{Complaint, complain};
use crate::kernel::{Reader, inode_state};
use crate::maps::{EVENTS, count, excluded, lose, next_seq};
use crate::throttle::hold_writer;

/// Bytes of an event that are copied at most at once: the largest class.
const CHUNK_BYTES_MAX: u64 = 65536;
/// Most chunks of one operation: 32 MiB, more than any folio has.
const CHUNKS_MAX: u32 = 512;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

pub(crate) const NONE: InodeRef = InodeRef {
    ino: 0,
    generation: 0,
    pad: 0,
};

/// Fills the actor in place.
#[inline(always)]
fn fill_actor(actor: *mut Actor) {
    let (task, owner) = (bpf_get_current_pid_tgid(), bpf_get_current_uid_gid());
    // SAFETY: the caller gives a place of this size.
    unsafe {
        (*actor).pid = task as u32;
        (*actor).tgid = (task >> 32) as u32;
        (*actor).uid = owner as u32;
        (*actor).gid = (owner >> 32) as u32;
        (*actor).cgroup = bpf_get_current_cgroup_id();
        bpf_get_current_comm((&raw mut (*actor).comm).cast::<c_void>(), 16);
    }
}

/// A record of the ring.
///
/// # Safety
/// It begins with a [`Head`], in C's layout.
pub(crate) unsafe trait Record {}

// SAFETY: it is one.
unsafe impl Record for Head {}

/// Puts a record into the ring and returns its sequence number. `fill` writes what follows the head and says how many bytes of the
/// record are meaningful, and its flags. `lost` writes down what found no place, by its number.
#[inline(always)]
pub(crate) fn emit<R: Record + 'static>(
    kind: EventKind,
    inode: u64,
    lost: impl FnOnce(u64),
    fill: impl FnOnce(*mut R, &mut Reader) -> (u32, u16),
) -> u64 {
    let seq = next_seq();
    let Some(mut entry) = EVENTS.reserve::<R>(0) else {
        lost(seq);
        return seq;
    };
    let record = entry.as_mut_ptr();
    let mut reader = Reader::new();
    let (size, flags) = fill(record, &mut reader);
    let head = record.cast::<Head>();
    // SAFETY: a reserved record, which begins with a head.
    unsafe {
        (*head).size = size;
        (*head).kind = kind as u16;
        (*head).seq = seq;
        (*head).time_ns = bpf_ktime_get_boot_ns();
        fill_actor(&raw mut (*head).actor);
        (*head).state = inode_state(&mut reader, inode);
        (*head).flags = if reader.failed() {
            complain(Complaint::ReadFailed, kind as u64, (*head).state.inode.ino);
            flags | event_flags::READ_FAILED
        } else {
            flags
        };
    }
    entry.submit(0);
    count(abi::Counter::Submitted, 1);
    seq
}

/// The run that a processor is emitting. Not on the stack, which is 512 bytes deep for all callers together. A probe is neither
/// preempted nor interrupted by another one, so there is one at a time.
#[map]
static RUNS: PerCpuArray<Run> = PerCpuArray::with_max_entries(1, 0);

/// A run of bytes on its way into the ring.
#[repr(C)]
struct Run {
    kind: u32,
    flags: u32,
    time_ns: u64,
    offset: u64,
    address: u64,
    left: u64,
    /// Events whose bytes could not be read.
    failed: u64,
    state: InodeState,
    actor: Actor,
}

#[repr(C)]
struct DataRecord<const N: usize> {
    head: Head,
    body: DataBody,
    data: [u8; N],
}

/// Puts the first `length` bytes of the run, at most `N`, into a record of class `N`.
#[inline(always)]
fn put_chunk<const N: usize>(run: &mut Run, length: u64) {
    let seq = next_seq();
    let Some(mut entry) = EVENTS.reserve::<DataRecord<N>>(0) else {
        lose(
            seq,
            run.state.inode,
            NONE,
            NONE,
            lost_flags::CONTENT,
            run.kind,
            N as u64,
        );
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: a reserved record of this size; the length is masked for the verifier.
    unsafe {
        let head = &raw mut (*record).head;
        (*head).kind = run.kind as u16;
        (*head).seq = seq;
        (*head).time_ns = run.time_ns;
        (*head).actor = run.actor;
        (*head).state = run.state;
        let data = (&raw mut (*record).data).cast::<c_void>();
        let from = run.address as *const c_void;
        // The length is read and masked right before the call: 6.1 forgets the bounds of what was put on the stack in between.
        let (part, failed) = if length >= N as u64 {
            (N as u32, bpf_probe_read_kernel(data, N as u32, from))
        } else {
            let part = core::ptr::read_volatile(&raw const run.left) as u32 & (N as u32 - 1);
            let failed = bpf_probe_read_kernel(data, part, from);
            (core::ptr::read_volatile(&raw const run.left) as u32, failed)
        };
        (*record).body = DataBody {
            offset: run.offset,
            length: part,
            pad: 0,
        };
        (*head).size = (core::mem::size_of::<DataRecord<N>>() - N) as u32 + part;
        let trouble = if failed != 0 {
            count(abi::Counter::ReadFailed, 1);
            run.failed += 1;
            event_flags::READ_FAILED
        } else {
            0
        };
        (*head).flags = run.flags as u16 | trouble;
    }
    entry.submit(0);
    count(abi::Counter::Submitted, 1);
}

/// One step of `bpf_loop`: emits the next chunk.
#[inline(never)]
extern "C" fn next_chunk(_index: u32, _context: *mut u64) -> i64 {
    let Some(run) = RUNS.get_ptr_mut(0) else { return 1 };
    // SAFETY: a slot of the map, of this processor.
    let run = unsafe { &mut *run };
    // SAFETY: volatile, so that the verifier sees a bounded value at each use.
    let left = unsafe { core::ptr::read_volatile(&raw const run.left) };
    if left == 0 {
        return 1;
    }
    let length = if left > CHUNK_BYTES_MAX {
        CHUNK_BYTES_MAX
    } else {
        left
    };
    if length <= DATA_CLASSES[0] as u64 {
        put_chunk::<128>(run, length);
    } else if length <= 256 {
        put_chunk::<256>(run, length);
    } else if length <= 512 {
        put_chunk::<512>(run, length);
    } else if length <= 1024 {
        put_chunk::<1024>(run, length);
    } else if length <= 2048 {
        put_chunk::<2048>(run, length);
    } else if length <= 4096 {
        put_chunk::<4096>(run, length);
    } else if length <= 8192 {
        put_chunk::<8192>(run, length);
    } else if length <= 16384 {
        put_chunk::<16384>(run, length);
    } else if length <= 32768 {
        put_chunk::<32768>(run, length);
    } else {
        put_chunk::<65536>(run, length);
    }
    run.offset += length;
    run.address += length;
    run.left = left - length;
    run.flags |= u32::from(event_flags::CONTINUED);
    0
}

/// Emits bytes of a file as they stand at a kernel address.
///
/// A function of its own with nothing but numbers for arguments: the verifier then looks at it once, on its own, and not again
/// within every loop that calls it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn emit_run(kind: u64, inode: u64, offset: u64, address: u64, length: u64) -> u64 {
    let Some(run) = RUNS.get_ptr_mut(0) else { return 0 };
    // SAFETY: a slot of the map, of this processor.
    let run = unsafe { &mut *run };
    let mut reader = Reader::new();
    run.state = inode_state(&mut reader, inode);
    // What is written to other inodes through the page cache (a long link target) is part of their creation.
    if length == 0 || run.state.mode & S_IFMT != S_IFREG || excluded(run.state.inode.ino) {
        return 0;
    }
    run.kind = kind as u32;
    run.flags = if reader.failed() {
        u32::from(event_flags::READ_FAILED)
    } else {
        0
    };
    // SAFETY: no arguments.
    run.time_ns = unsafe { bpf_ktime_get_boot_ns() };
    run.offset = offset;
    run.address = address;
    run.left = length;
    run.failed = 0;
    fill_actor(&raw mut run.actor);
    let mut context = 0u64;
    // SAFETY: callback and context have the signature that bpf_loop wants.
    unsafe {
        bpf_loop(
            CHUNKS_MAX,
            next_chunk as *const () as *mut c_void,
            (&raw mut context).cast::<c_void>(),
            0,
        );
    }
    hold_writer(length);
    // Said only here, where the stack is less deep.
    if run.failed != 0 {
        complain(Complaint::ReadFailed, kind, run.state.inode.ino);
    }
    0
}

#[inline(always)]
pub(crate) fn emit_data(kind: EventKind, inode: u64, offset: u64, address: u64, length: u64) {
    emit_run(kind as u64, inode, offset, address, length);
}
