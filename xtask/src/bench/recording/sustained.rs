//! Whether recording keeps up: more is written than a spool holds, and the time goes on until all of it is on the medium.

use anyhow::Result;

use super::super::Setting;
use super::super::figure::{Figure, Limit};
use super::super::page::Measured;
use super::guest::{self, Boot};
use super::work::{Arm, Work};

const ARMS: [Arm; 2] = [Arm::Bare, Arm::Recorded];
/// Part of the bare throughput.
const THROUGHPUT_MIN: f64 = 0.8;

/// Sequential writing with the smallest spool.
///
/// # Errors
/// When it cannot be measured.
pub(in super::super) fn measure(bench: &Setting) -> Result<Measured> {
    let boot = Boot {
        profile: true,
        ..Boot::of(Work::Sequential, "sustained", &ARMS, bench.scale)
    };
    let turns = guest::run(bench, &boot)?;
    let seconds = |arm| turns.values(arm, |told| told.seconds);
    let figures = vec![
        Figure::ratio(
            "throughput, recorded / bare: sustained sequential write",
            Limit::AtLeast(THROUGHPUT_MIN),
            &seconds(Arm::Bare),
            &seconds(Arm::Recorded),
        ),
        Figure::new(
            "holes and missed hits: sustained sequential write",
            Limit::AtMost(0.0),
            super::recorders(&turns, |recorder| recorder.holes + recorder.misses),
        ),
    ];
    let mut notes = super::notes(bench);
    notes.push(
        "spool of 256 MiB, `--on-full throttle`; here the time is that of the work, of the sync after it, and where it is recorded of the time until all is on the medium"
            .to_owned(),
    );
    let tables = super::tables(&turns);
    Ok(super::measured(&turns, &ARMS, figures, notes, tables))
}
