//! Frames of the spool, in a file as a crash or a bad disk may leave it.

#![no_main]
#![expect(dead_code, reason = "the recorder's own file, of which only the reader is wanted")]

#[path = "../../../recorder/src/spool/mod.rs"]
mod spool;

use std::sync::Arc;

use journal::store::disk::{Disk, SystemDisk};
use libfuzzer_sys::fuzz_target;
use spool::{Position, SpoolReader};

fuzz_target!(|bytes: &[u8]| {
    let dir = std::path::Path::new("/dev/shm").join(format!("tapeworm-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory in memory");
    std::fs::write(dir.join("spool-000000000001"), bytes).expect("written");
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let mut reader = SpoolReader::new(&disk, &dir, 1);
    let end = Position {
        file: 1,
        offset: u64::MAX,
    };
    while let Ok(Some(frame)) = reader.next(end) {
        assert!(frame.payload.len() <= spool::PAYLOAD_BYTES_MAX);
    }
});
