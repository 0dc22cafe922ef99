//! Labels: as they come, and sealed by somebody who knows how.

#![no_main]

mod medium;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for label in [bytes.to_vec(), medium::reseal(bytes)] {
        let store = medium::labelled();
        store.tamper(journal::LABEL_NAME, Some(label));
        store.tamper(&medium::name("parquet"), Some(bytes.to_vec()));
        medium::read(&store);
    }
});
