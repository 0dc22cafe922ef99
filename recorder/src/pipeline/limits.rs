//! The bounds of a pipeline, in bytes and in time. What happens at each of them stands beside it.

use std::time::Duration;

/// How much, and how long. Tests make them small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A missing number is waited for this long, once ring and spool are read to their ends; then it is a hole.
    pub(crate) grace: Duration,
    /// Bytes that may wait behind a missing number. Beyond, one that only the kernel can know of is a hole at once; for one that the
    /// recorder itself owes, the spool is searched and nothing more is kept.
    pub(crate) window_bytes_max: usize,
    /// Records are sealed at the latest this long after the first was pushed.
    pub(crate) seal_after: Duration,
    /// Bytes at which a segment is sealed.
    pub(crate) segment_bytes: u64,
    /// Bytes of records that may be unsealed, for they are kept in memory until they are: what compresses well would never fill a
    /// segment. Beyond, they are sealed.
    pub(crate) unsealed_bytes_max: u64,
    /// Time between two tries to write to a medium that failed.
    pub(crate) retry: Duration,
    /// How long a medium may refuse before a flush, a mark or a detach gives up and says so.
    pub(crate) patience: Duration,
    /// How long a thread may make no step at all while it is waited for at the end: a system call that does not come back.
    pub(crate) stuck: Duration,
    /// How long a thread may make no beat before it is said to have stalled.
    pub(crate) stall: Duration,
    /// Bytes of one spool file; the spool takes and gives back disk in this unit.
    pub(crate) spool_file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(2),
            window_bytes_max: 64 << 20,
            seal_after: Duration::from_secs(10),
            segment_bytes: 64 << 20,
            unsealed_bytes_max: 128 << 20,
            retry: Duration::from_secs(2),
            patience: Duration::from_secs(10),
            stuck: Duration::from_secs(120),
            stall: crate::pulse::STALL,
            spool_file_bytes: crate::spool::FILE_BYTES,
        }
    }
}
