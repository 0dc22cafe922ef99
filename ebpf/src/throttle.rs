//! Slowing writers down where the recorder asks for it, so that what they write finds room.
//!
//! Nothing here can sleep, so a writer is held by going round in a circle. That is bounded twice: one event by `HOLD_NS_MAX`, and all
//! of them by the time that the recorder's wish ends.

use core::ffi::c_void;

use abi::throttle::{HOLD_NS_MAX, NS_PER_KIB, SLOTS, UNTIL_NS};
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

#[map]
static THROTTLE: Array<u64> = Array::with_max_entries(SLOTS, BPF_F_MMAPABLE);

/// Rounds at most: more than a clock that runs needs for `HOLD_NS_MAX`.
const ROUNDS_MAX: u32 = 1 << 20;

#[inline(always)]
fn wish(slot: u32) -> u64 {
    THROTTLE
        .get_ptr(slot)
        // SAFETY: a slot of the map, aligned; volatile because the recorder writes it.
        .map_or(0, |slot| unsafe { slot.read_volatile() })
}

#[inline(never)]
extern "C" fn round(_index: u32, end_ns: *const u64) -> i64 {
    // SAFETY: a local of the caller of bpf_loop; the helper takes nothing.
    i64::from(unsafe { bpf_ktime_get_ns() >= *end_ns })
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
    let asked_ns = (bytes >> 10) * wish(NS_PER_KIB);
    let hold_ns = if asked_ns < HOLD_NS_MAX { asked_ns } else { HOLD_NS_MAX };
    let mut end_ns = now_ns + hold_ns;
    // SAFETY: callback and context have the signature that bpf_loop wants.
    unsafe {
        bpf_loop(
            ROUNDS_MAX,
            round as *const () as *mut c_void,
            (&raw mut end_ns).cast::<c_void>(),
            0,
        );
    }
}
