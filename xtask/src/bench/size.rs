//! How large a journal is: segments and manifests, against the written data as one stream through zstd at level 1.

use anyhow::Result;

use super::Setting;
use super::figure::{Figure, Limit};
use super::made::{Past, remove};
use super::page::Measured;
use crate::setup::say;

pub(super) fn measure(bench: &Setting) -> Result<Measured> {
    let work = bench.work_dir()?;
    let medium = work.path().join("medium");
    let (mut figures, mut notes) = (Vec::new(), Vec::new());
    let size = |files, large_bytes| {
        if bench.small {
            Past::of(files / 50, large_bytes >> 5, 1)
        } else {
            Past::of(files, large_bytes, 1)
        }
    };
    for (what, past, limit) in [
        (
            "small files and large ones, as restored above",
            size(6_250, 256 << 20),
            Limit::AtMost(1.05),
        ),
        ("small files only", size(50_000, 0), Limit::None),
        ("large files only", size(0, 256 << 20), Limit::None),
    ] {
        let (mut ratios, mut packed) = (Vec::new(), Vec::new());
        for seed in 1..=u64::from(bench.pairs) {
            let made = Past { seed, ..past }.make(bench, &medium, None, true)?;
            remove(&medium)?;
            say(&format!("{what}, seed {seed}: {}", made.text()));
            ratios.push(made.journal_bytes as f64 / made.zstd_bytes as f64);
            packed.push(made.written_bytes as f64 / made.zstd_bytes as f64);
        }
        figures.push(Figure::new(
            &format!("bytes of the journal / of its data through `zstd -1`: {what}"),
            limit,
            ratios,
        ));
        notes.push(format!(
            "{what}: the data is {:.2} times as large as what zstd makes of it: `{} --zstd`, with seeds from 1 on",
            packed.iter().sum::<f64>() / packed.len() as f64,
            past.command()
        ));
    }
    Measured::new(figures, None, notes)
}
