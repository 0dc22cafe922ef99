//! Segments that a manifest vouches for: hostile, and hashed by somebody who knows how.

#![no_main]

mod medium;

use libfuzzer_sys::fuzz_target;

// Parquet's reader panics on some of them, which `journal` turns into errors: only what it does not catch ends the run.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| ())), |bytes: &[u8]| {
    let hash = blake3::hash(bytes).to_hex();
    let manifest = format!(
        "{{\"format\": 5, \"chain\": \"c\", \"volume\": {{\"uuid\": \"{}\", \"fs_type\": \"ext4\", \"label\": \"\", \"block_size\": 4096, \
         \"size_bytes\": 1, \"root\": {{\"ino\": 2, \"generation\": 0}}, \"mount_path\": \"\", \"hostname\": \"\"}}, \"epoch\": 1, \
         \"index\": 1, \"first_seq\": 1, \"last_seq\": 1000, \"first_time_ns\": 0, \"last_time_ns\": 1, \"records\": 9, \"bytes\": {}, \
         \"blake3\": \"{hash}\", \"row_groups\": [], \"previous\": null, \"void_indexes\": [], \"points\": [], \"writer\": \"\",",
        medium::UUID,
        bytes.len()
    );
    let store = medium::labelled();
    store.tamper(
        &medium::name("manifest.json"),
        Some(medium::reseal(manifest.as_bytes())),
    );
    store.tamper(&medium::name("parquet"), Some(bytes.to_vec()));
    medium::read(&store);
});
