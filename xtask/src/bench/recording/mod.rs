//! What recording costs: the same work, in one machine and one boot, with and without a recorder, in turns.
//!
//! Owns what is told of it; which work and arms there are is in `work`, the machine in `guest`, where the time goes in `blame`.

mod alternatives;
mod blame;
mod guest;
mod sustained;
mod work;

use anyhow::Result;

pub(super) use self::alternatives::measure as measure_alternatives;
use self::guest::{Boot, Recorder, Told, Turns};
pub(super) use self::sustained::measure as measure_sustained;
use self::work::Arm;
pub(super) use self::work::Work;
use super::Setting;
use super::figure::{Figure, Limit, median, show_interval, shown};
use super::page::{Measured, Table};

const ARMS: [Arm; 3] = [Arm::Bare, Arm::Filtered, Arm::Recorded];

/// One work, bare, beside a recorder, and recorded.
///
/// # Errors
/// When it cannot be measured.
pub(super) fn measure(bench: &Setting, work: Work) -> Result<Measured> {
    let name = work.name();
    let boot = Boot {
        profile: true,
        ..Boot::of(work, &name, &ARMS, bench.scale)
    };
    let turns = guest::run(bench, &boot)?;
    let seconds = |arm| turns.values(arm, |told| told.seconds);
    let bare = seconds(Arm::Bare);
    let what = work.what();
    let ratio = |name: &str, limit, arm| {
        Figure::ratio(
            &format!("time, {name} / bare: {what}"),
            limit,
            &seconds(arm),
            &bare,
        )
    };
    let lost = recorders(&turns, |recorder| recorder.holes + recorder.misses);
    let figures = vec![
        ratio(
            "another file system recorded",
            Limit::AtMost(work::FILTERED_MAX),
            Arm::Filtered,
        ),
        ratio("recorded", work.limit(), Arm::Recorded),
        Figure::new(
            &format!("holes and missed hits: {what}"),
            Limit::AtMost(0.0),
            lost,
        ),
    ];
    let tables = tables(&turns);
    Ok(measured(&turns, &ARMS, figures, notes(bench), tables))
}

/// All that is told of turns in these arms.
fn measured(
    turns: &Turns,
    arms: &[Arm],
    figures: Vec<Figure>,
    notes: Vec<String>,
    tables: Vec<Table>,
) -> Measured {
    let seconds = |arm: &Arm| (arm.name(), turns.values(*arm, |told| told.seconds));
    let arms: Vec<_> = arms.iter().map(seconds).collect();
    Measured::in_machine(figures, &arms, turns.loads.clone(), notes, tables)
}

fn notes(bench: &Setting) -> Vec<String> {
    vec![
        format!(
            "in a machine with Debian's kernel {}, two processors and ext4: the work on the first one in every arm, a recorder on the second; every arm of every \
             turn on a blank file system, spool and medium on disks of their own",
            guest::KERNEL
        ),
        format!(
            "size: {0:.0} % of what stands in `tests/bench/works.py` (`--scale {0:.0}`); the time is that of the work alone, without the sync after it",
            bench.scale * 100.0
        ),
    ]
}

/// What is told of the recorder, and of where the time goes.
fn tables(turns: &Turns) -> Vec<Table> {
    let mut tables = vec![recorder(turns)];
    let seconds = |arm| median(&turns.values(arm, |told| told.seconds));
    if let Some(told) = turns.counted() {
        tables.extend(blame::tables(told, seconds(Arm::Recorded), seconds(Arm::Bare)));
    }
    tables
}

/// A value of each turn in which the work was recorded.
fn recorders(turns: &Turns, value: impl Fn(&Recorder) -> f64) -> Vec<f64> {
    let told = turns.of(Arm::Recorded);
    told.filter_map(|told| told.recorder.as_ref())
        .map(value)
        .collect()
}

/// What is told of the recorder, and of single calls.
fn recorder(turns: &Turns) -> Table {
    let mut table = Table::new(&["of a recorded turn", "median", "95 % interval"]);
    let mut row = |what: &str, values: Vec<f64>| {
        if !values.is_empty() {
            table.row(&[what.to_owned(), shown(median(&values)), show_interval(&values)]);
        }
    };
    for kind in ["write", "fsync"] {
        let of = |arm| turns.values(arm, |told| told.p99_us.get(kind).copied().unwrap_or(0.0));
        let (bare, recorded) = (of(Arm::Bare), of(Arm::Recorded));
        if bare.iter().all(|us| *us > 0.0) {
            let ratio = Figure::ratio("", Limit::None, &recorded, &bare);
            row(&format!("p99 of {kind}, µs, bare"), bare);
            row(&format!("p99 of {kind}, µs, recorded"), recorded);
            row(&format!("p99 of {kind}, recorded / bare"), ratio.values);
        }
    }
    let of = |value: fn(&Recorder) -> f64| recorders(turns, value);
    row("events", of(|recorder| recorder.events));
    row("MiB captured", of(|recorder| recorder.bytes_captured / MIB));
    row(
        "processor seconds of the recorder until all is on the medium",
        of(|recorder| recorder.cpu_s),
    );
    row("of these, during the work", of(|recorder| recorder.cpu_at_end_s));
    row(
        "seconds from the end of the work and its sync until all is on the medium",
        of(|recorder| recorder.caught_up_s),
    );
    row(
        "most memory of the recorder, MiB",
        of(|recorder| recorder.peak_kib / 1024.0),
    );
    let written = |value: fn(&Recorder, f64) -> f64| -> Vec<f64> {
        let ratio = |told: &Told| Some(value(told.recorder.as_ref()?, told.bytes? as f64));
        turns.of(Arm::Recorded).filter_map(ratio).collect()
    };
    row(
        "processor seconds of the recorder for a GiB written",
        written(|recorder, bytes| recorder.cpu_s * GIB / bytes),
    );
    row(
        "bytes of the journal / bytes written",
        written(|recorder, bytes| recorder.bytes_written / bytes),
    );
    row(
        "bytes of the journal / bytes captured",
        of(|recorder| recorder.bytes_written / recorder.bytes_captured),
    );
    table
}

const MIB: f64 = 1048576.0;
const GIB: f64 = 1073741824.0;
