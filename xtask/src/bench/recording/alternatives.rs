//! Other ways to keep what happens to a file system, beside recording it: the same work, in the same boot.

use anyhow::Result;

use super::super::Setting;
use super::super::figure::{Figure, Limit, median, show_interval, shown};
use super::super::page::{Measured, Table};
use super::guest::{self, Boot, Turns};
use super::work::{Arm, Work};

const ARMS: [Arm; 6] = [
    Arm::Bare,
    Arm::Recorded,
    Arm::Strace,
    Arm::LogWrites,
    Arm::Nilfs2,
    Arm::Backup,
];
/// Of the size of a work that is not traced: strace writes several times the data, and takes as much longer.
const SCALE: f64 = 0.25;
/// Time that tracing adds, against what recording adds; time while recorded, against a log of all writes below.
const STRACE_MIN: f64 = 3.0;
const LOG_WRITES_MAX: f64 = 1.1;
/// Where recording adds less than this part of the bare time, it counts as this: nothing can be divided by nothing.
const ADDED_MIN: f64 = 0.005;

/// One work in all arms.
///
/// # Errors
/// When it cannot be measured.
pub(in super::super) fn measure(bench: &Setting, work: Work) -> Result<Measured> {
    let (name, what) = (work.name(), work.what());
    let turns = guest::run(bench, &Boot::of(work, &name, &ARMS, bench.scale * SCALE))?;
    let seconds = |arm| turns.values(arm, |told| told.seconds);
    let (bare, recorded, strace) = (seconds(Arm::Bare), seconds(Arm::Recorded), seconds(Arm::Strace));
    let added = |((strace, recorded), bare): ((&f64, &f64), &f64)| {
        (strace - bare) / (recorded - bare).max(bare * ADDED_MIN)
    };
    let figures = vec![
        Figure::new(
            &format!("time that strace adds / that recording adds: {what}"),
            Limit::AtLeast(STRACE_MIN),
            strace.iter().zip(&recorded).zip(&bare).map(added).collect(),
        ),
        Figure::ratio(
            &format!("time, recorded / dm-log-writes below: {what}"),
            Limit::AtMost(LOG_WRITES_MAX),
            &recorded,
            &seconds(Arm::LogWrites),
        ),
    ];
    let mut notes = super::notes(bench);
    notes.push(
        "a quarter of that size is done here. strace: `strace -f -e trace=file,desc,write -e write=all`, its log on the disk of the medium; log-writes: device mapper's target below ext4; nilfs2: in the place of \
         ext4; backup: one `restic backup` and one `borg create` of the whole file system after the work, beside one before it; not in its time"
            .to_owned(),
    );
    let tables = vec![compared(&turns, &bare), backups(&turns), super::recorder(&turns)];
    Ok(super::measured(&turns, &ARMS, figures, notes, tables))
}

/// Each arm against bare.
fn compared(turns: &Turns, bare: &[f64]) -> Table {
    let mut table = Table::new(&["time against bare", "median", "95 % interval"]);
    for arm in ARMS
        .into_iter()
        .filter(|arm| !matches!(arm, Arm::Bare | Arm::Backup))
    {
        let seconds = turns.values(arm, |told| told.seconds);
        let ratios = Figure::ratio("", Limit::None, &seconds, bare).values;
        table.row(&[
            arm.name().to_owned(),
            shown(median(&ratios)),
            show_interval(&ratios),
        ]);
    }
    table
}

/// What a backup takes, against the recorder, which gives every moment.
fn backups(turns: &Turns) -> Table {
    let mut table = Table::new(&["a backup after the work", "median", "95 % interval"]);
    let recorder = super::recorders(turns, |recorder| recorder.cpu_s);
    for name in ["restic", "borg"] {
        let of = |value: fn(&guest::Backup) -> f64| -> Vec<f64> {
            let backups = turns.of(Arm::Backup).filter_map(|told| told.backups.get(name));
            backups.map(value).collect()
        };
        let (seconds, cpu) = (of(|backup| backup.seconds), of(|backup| backup.cpu_s));
        let against = Figure::ratio("", Limit::None, &cpu, &recorder).values;
        for (what, values) in [
            ("seconds", seconds),
            ("seconds of processor time", cpu),
            ("the same / that of the recorder for the whole work", against),
        ] {
            table.row(&[
                format!("{name}: {what}"),
                shown(median(&values)),
                show_interval(&values),
            ]);
        }
    }
    table
}
