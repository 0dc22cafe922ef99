//! Slowing writers down where the recorder asks for it, so that what they write finds room.
//!
//! Nothing here can sleep, so a writer is held by going round in a circle. That is bounded twice: one event by `HOLD_NS_MAX`, and all
//! of them by the time that the recorder's wish ends.

use core::ffi::c_void;

use abi::Counter;
use abi::throttle::{HOLD_NS_MAX, NS_PER_KIB, RING_BYTES, SLOTS, UNTIL_NS};
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_RB_AVAIL_DATA};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

use crate::maps::{EVENTS, count};

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

impl Hold {
    #[inline(always)]
    fn is_over(&self, now_ns: u64) -> bool {
        now_ns >= self.end_ns
            || (now_ns >= self.begin_ns && EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) <= self.ring_bytes)
    }
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(never)]
extern "C" fn round(_index: u32, hold: *const Hold) -> i64 {
    // SAFETY: a local of the caller of bpf_loop.
    i64::from(unsafe { &*hold }.is_over(now_ns()))
}

/// Holds the writer of so many bytes, if that is asked for.
#[inline(always)]
pub(crate) fn hold_writer(bytes: u64) {
    let until_ns = wish(UNTIL_NS);
    if until_ns == 0 {
        return;
    }
    let since_ns = now_ns();
    if since_ns >= until_ns {
        return;
    }
    let mut hold = Hold {
        begin_ns: since_ns + (bytes >> 10) * wish(NS_PER_KIB),
        end_ns: since_ns + HOLD_NS_MAX,
        ring_bytes: wish(RING_BYTES),
    };
    if hold.is_over(since_ns) {
        return;
    }
    // SAFETY: callback and context have the signature that bpf_loop wants.
    unsafe {
        bpf_loop(
            ROUNDS_MAX,
            round as *const () as *mut c_void,
            (&raw mut hold).cast::<c_void>(),
            0,
        );
    }
    count(Counter::HeldNs, now_ns() - since_ns);
}
