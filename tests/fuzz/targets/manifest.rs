//! Manifests: as they come, and sealed by somebody who knows how.

#![no_main]

mod medium;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for manifest in [bytes.to_vec(), medium::reseal(bytes)] {
        let store = medium::labelled();
        store.tamper(&medium::name("manifest.json"), Some(manifest));
        for suffix in ["parquet", "parquet.encrypted"] {
            store.tamper(&medium::name(suffix), Some(b"PAR1".to_vec()));
        }
        medium::read(&store);
    }
});
