//! A restore against `cp -a`, restic and borg: the same tree, from and to the same disk, in the same run.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Setting;
use super::arms::{Arm, Turns, check_room, timed};
use super::blank::Blank;
use super::figure::{Figure, Limit};
use super::made::Past;
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
    let (medium, tree) = (dir("medium"), dir("tree"));
    let (restic, borg) = (dir("restic"), dir("borg"));
    let others = Others::ensure(dir("home"))?;
    let versions = others.versions()?;
    say("making up a journal and its tree");
    let made = past.make(bench, &medium, Some(&tree), false)?;
    say(&made.text());
    let digest = bench.digest(&tree)?;
    say("backing the tree up with restic and borg");
    others.back_up(&tree, &restic, &borg)?;

    let copy = |target: &Path| {
        let mut cmd = Command::new("cp");
        cmd.arg("-a").arg(&tree).arg(target);
        Ok(cmd)
    };
    let extract = |target: &Path| {
        fs::create_dir(target).context("create the target")?;
        others.borg_extract(&borg, target)
    };
    let by_amounts = |turn, target: &Path| {
        if turn == 0 {
            bench.compare_amounts(target, &made)
        } else {
            Ok(())
        }
    };
    let mut arms = [
        arm(
            "replayer restore",
            work.path(),
            |target| Ok(bench.restore(&medium, target)),
            |_, target| bench.compare(target, &digest),
        ),
        arm("cp -a", work.path(), copy, by_amounts),
        arm(
            "restic restore",
            work.path(),
            |target| others.restic_restore(&restic, target),
            by_amounts,
        ),
        arm("borg extract", work.path(), extract, by_amounts),
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
            versions
        ),
        "every tree that `replayer` restored was compared with the one it should be, entry by entry"
            .to_owned(),
    ];
    Measured::new(figures, Some(&turns), notes)
}

/// An arm that restores onto a blank file system, and looks at what it made there.
fn arm<'a>(
    name: &'static str,
    work: &'a Path,
    command: impl Fn(&Path) -> Result<Command> + 'a,
    check: impl Fn(u32, &Path) -> Result<()> + 'a,
) -> Arm<'a> {
    let run = move |turn| {
        let blank = Blank::make(work)?;
        let target = blank.target();
        let cmd = command(&target)?;
        let taken = timed(&cmd, Some(blank.path()))?;
        check(turn, &target)?;
        Ok(taken)
    };
    Arm {
        name,
        run: Box::new(run),
    }
}
