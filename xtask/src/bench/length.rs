//! What a long history costs: a restore of the same tree, written once, and overwritten until twenty times as much was written.

use anyhow::Result;

use super::Setting;
use super::arms::{Arm, Turns, check_room, timed};
use super::blank::Blank;
use super::figure::{Figure, Limit};
use super::made::{Past, remove};
use super::page::Measured;
use crate::setup::say;

/// Once, and so often again.
const OVERWRITES: u64 = 19;
/// What it takes on the disk at once: two journals, two trees.
const ROOM_BYTES: u64 = 18_000_000_000;

pub(super) fn measure(bench: &Setting) -> Result<Measured> {
    let (files, large_bytes) = if bench.small {
        (500, 8 << 20)
    } else {
        (25_000, 1 << 30)
    };
    let work = bench.work_dir()?;
    if !bench.small {
        check_room(work.path(), ROOM_BYTES)?;
    }
    let tree = work.path().join("tree");
    let (mut notes, mut journals) = (Vec::new(), Vec::new());
    for overwrites in [0, OVERWRITES] {
        let past = Past::of(files, large_bytes, overwrites);
        let medium = work.path().join(format!("medium-{overwrites}"));
        let made = past.make(bench, &medium, Some(&tree), false)?;
        say(&made.text());
        let digest = work.path().join(format!("digest-{overwrites}"));
        std::fs::rename(bench.digest(&tree)?, &digest)?;
        remove(&tree)?;
        notes.push(format!("{}: `{}`", made.text(), past.command()));
        journals.push((medium, digest));
    }
    let names = ["once", "twenty times"];
    let mut arms: Vec<Arm<'_>> = names
        .into_iter()
        .zip(&journals)
        .map(|(name, (medium, digest))| Arm {
            name,
            run: Box::new(|_| {
                let blank = Blank::make(work.path())?;
                let target = blank.target();
                let taken = timed(&bench.restore(medium, &target), Some(blank.path()))?;
                bench.compare(&target, digest)?;
                Ok(taken)
            }),
        })
        .collect();
    let turns = Turns::run(&mut arms, bench.pairs)?;
    drop(arms);
    let (once, long) = (turns.seconds("once"), turns.seconds("twenty times"));
    let figure = Figure::ratio(
        "time of a restore from 20 times the history / from a history that wrote everything once",
        Limit::AtMost(1.3),
        &long,
        &once,
    );
    Measured::new(vec![figure], Some(&turns), notes)
}
