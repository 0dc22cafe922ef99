//! Slowing writers down where the recorder asks for it, so that what they write finds room.
//!
//! Nothing here can sleep, so a writer is held by going round in a circle. That is bounded twice: one event by `HOLD_NS_MAX`, and all
//! of them by the time that the recorder's wish ends.

use core::ffi::c_void;

use abi::throttle::{HOLD_NS_MAX, NS_PER_KIB, RING_BYTES, SLOTS, UNTIL_NS};
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_RB_AVAIL_DATA};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

use crate::maps::EVENTS;

#[map]
static THROTTLE: Array<u64> = Array::with_max_entries(SLOTS, BPF_F_MMAPABLE);

/// Rounds at most: more than a clock that runs needs for `HOLD_NS_MAX`.
const ROUNDS_MAX: u32 = 1 << 20;

/// What a writer is held for.
#[repr(C)]
struct Hold {
    /// At least until then.
    begin_ns: u64,
    /// At most until then.
    end_ns: u64,
    /// In between, while more waits in the ring.
    ring_bytes: u64,
}

#[inline(always)]
fn wish(slot: u32) -> u64 {
    THROTTLE
        .get_ptr(slot)
        // SAFETY: a slot of the map, aligned; volatile because the recorder writes it.
        .map_or(0, |slot| unsafe { slot.read_volatile() })
}

#[inline(never)]
extern "C" fn round(_index: u32, hold: *const Hold) -> i64 {
    // SAFETY: a local of the caller of bpf_loop; the helper takes nothing.
    let (hold, now_ns) = unsafe { (&*hold, bpf_ktime_get_ns()) };
    let is_over = now_ns >= hold.end_ns
        || (now_ns >= hold.begin_ns && EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) <= hold.ring_bytes);
    i64::from(is_over)
}

/// Holds the writer of so many bytes, if that is asked for.
#[inline(always)]
pub(crate) fn hold_writer(bytes: u64) {
    let until_ns = wish(UNTIL_NS);
    if until_ns == 0 {
        return;
    }
    // SAFETY: takes nothing.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if now_ns >= until_ns {
        return;
    }
    let mut hold = Hold {
        begin_ns: now_ns + (bytes >> 10) * wish(NS_PER_KIB),
        end_ns: now_ns + HOLD_NS_MAX,
        ring_bytes: wish(RING_BYTES),
    };
    // SAFETY: callback and context have the signature that bpf_loop wants.
    unsafe {
        bpf_loop(
            ROUNDS_MAX,
            round as *const () as *mut c_void,
            (&raw mut hold).cast::<c_void>(),
            0,
        );
    }
}
