//! A restore against `cp -a`, restic and borg: the same tree, from and to the same disk, in the same run.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Setting;
use super::arms::{Arm, Taken, Turns, check_room, timed};
use super::figure::{Figure, Limit};
use super::made::{Made, Past, remove};
use super::others::Others;
use super::page::Measured;
use crate::setup::say;

/// What it takes on the disk at once: journal, tree, two repositories, restored tree.
const ROOM_BYTES: u64 = 30_000_000_000;

pub(super) fn measure(bench: &Setting) -> Result<Measured> {
    let past = if bench.small {
        Past::of(1000, 16 << 20, 2)
    } else {
        Past::of(100_000, 4 << 30, 5)
    };
    let work = bench.work_dir()?;
    if !bench.small {
        check_room(work.path(), ROOM_BYTES)?;
    }
    let dir = |name: &str| work.path().join(name);
    let (medium, tree, target) = (dir("medium"), dir("tree"), dir("target"));
    let (restic, borg) = (dir("restic"), dir("borg"));
    say("making up a journal and its tree");
    let made = past.make(bench, &medium, Some(&tree), false)?;
    say(&made.text());
    let digest = bench.digest(&tree)?;
    let others = Others::ensure(dir("home"))?;
    say("backing the tree up with restic and borg");
    others.back_up(&tree, &restic, &borg)?;

    let check = |turn: u32| first_time(bench, turn, &target, &made);
    let mut arms = [
        Arm {
            name: "replayer restore",
            run: Box::new(|_| {
                remove(&target)?;
                let taken = timed(&bench.restore(&medium, &target), Some(work.path()))?;
                bench.compare(&target, &digest)?;
                Ok(taken)
            }),
        },
        Arm {
            name: "cp -a",
            run: Box::new(|turn| {
                remove(&target)?;
                let mut cmd = Command::new("cp");
                cmd.arg("-a").arg(&tree).arg(&target);
                check(turn)(timed(&cmd, Some(work.path()))?)
            }),
        },
        Arm {
            name: "restic restore",
            run: Box::new(|turn| {
                remove(&target)?;
                let cmd = others.restic_restore(&restic, &target)?;
                check(turn)(timed(&cmd, Some(work.path()))?)
            }),
        },
        Arm {
            name: "borg extract",
            run: Box::new(|turn| {
                remove(&target)?;
                fs::create_dir(&target).context("create the target")?;
                let cmd = others.borg_extract(&borg, &target)?;
                check(turn)(timed(&cmd, Some(work.path()))?)
            }),
        },
    ];
    let turns = Turns::run(&mut arms, bench.pairs)?;
    drop(arms);
    let ours = turns.seconds("replayer restore");
    let to = |name, limit, theirs: &[f64], ours: &[f64]| Figure::ratio(name, limit, ours, theirs);
    let figures = vec![
        to(
            "time of `replayer restore` / `cp -a`",
            Limit::AtMost(1.25),
            &turns.seconds("cp -a"),
            &ours,
        ),
        to(
            "time of `restic restore` / `replayer restore`",
            Limit::AtLeast(3.0),
            &ours,
            &turns.seconds("restic restore"),
        ),
        to(
            "time of `borg extract` / `replayer restore`",
            Limit::AtLeast(3.0),
            &ours,
            &turns.seconds("borg extract"),
        ),
    ];
    let notes = vec![
        made.text(),
        format!("made by `{}`", past.command()),
        format!(
            "{}, as Debian has them; borg's repository is not encrypted",
            others.versions()?
        ),
        "every tree that `replayer` restored was compared with the one it should be, entry by entry"
            .to_owned(),
    ];
    Measured::new(figures, Some(&turns), notes)
}

/// Looks at what another program restored, in the first turn.
fn first_time<'a>(
    bench: &'a Setting,
    turn: u32,
    target: &'a Path,
    made: &'a Made,
) -> impl Fn(Taken) -> Result<Taken> + 'a {
    move |taken| {
        if turn == 0 {
            bench.compare_amounts(target, made)?;
        }
        Ok(taken)
    }
}
