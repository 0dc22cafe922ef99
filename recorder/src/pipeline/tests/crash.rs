//! The whole path from ring to medium, on disks that fail: every operation is the last one once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use journal::record::{InodeKey, Op};
use journal::store::disk::Disk;
use journal::store::faults::{FaultDisk, On, What};

use super::medium::MOUNT_POINT;
use super::rig::{Medium, Remains, Rig, UUID, holes, last, limits, records};
use crate::pipeline::find_dead;

/// Crashes that are tried at once: they wait more than they work.
const AT_ONCE: usize = 6;
const FIRST_INO: u64 = 100;
const EVENTS: u64 = 6;

/// The two disks of a host.
struct Disks {
    spool: FaultDisk,
    medium: FaultDisk,
}

impl Disks {
    fn are_gone(&self) -> bool {
        self.spool.is_gone()
    }
}

fn host(seed: u64) -> (Disks, Remains) {
    let dir = tempfile::tempdir().unwrap();
    let spool = FaultDisk::new(dir.path(), seed);
    let medium = spool.beside(Path::new(MOUNT_POINT), seed + 1000);
    let disks = Disks { spool, medium };
    let medium = Medium::on(&disks.medium);
    let disk: Arc<dyn Disk> = Arc::new(disks.spool.clone());
    (disks, Remains::before(medium, disk, dir))
}

/// Which of the two disks meets the crash.
#[derive(Clone, Copy, Debug)]
enum Of {
    Spool,
    Medium,
}

/// Tries crashes after 0, 1, 2, ... operations, until `crash` says that none was met any more.
fn each_operation(at_least: u64, crash: impl Fn(u64) -> bool + Sync) {
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let after = next.fetch_add(1, Ordering::SeqCst);
                    if after >= end.load(Ordering::SeqCst) {
                        return;
                    }
                    if !crash(after) {
                        end.fetch_min(after, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let met = end.load(Ordering::SeqCst);
    assert!(met >= at_least, "only {met} operations were the last one");
}

fn plan(disks: &Disks, of: Of, after: u64) {
    let disk = match of {
        Of::Spool => &disks.spool,
        Of::Medium => &disks.medium,
    };
    disk.plan(On::Change, after, What::Gone);
}

/// Three times some events, and everything sealed; or as far as it gets. One event of an inode each. The numbers of what is no event.
fn work(rig: &Rig, disks: &Disks) -> Vec<u64> {
    let mut own = Vec::new();
    for round in 0..3 {
        let mut seq = 0;
        for event in 0..EVENTS {
            seq = rig.captured(FIRST_INO + round * EVENTS + event, 3000);
        }
        rig.until("it is spooled", |rig| {
            disks.are_gone() || rig.handle.status().spooled_seq >= seq
        });
        if disks.are_gone() {
            break;
        }
        let seq = rig.handle.take_seq();
        own.push(seq);
        if rig.try_submit(seq, Op::Barrier { up_to: None }).is_err() {
            break;
        }
        rig.handle.flush_soon(seq);
        rig.until("it is sealed", |rig| {
            disks.are_gone() || rig.handle.status().durable_seq >= seq
        });
    }
    own
}

/// Inode of an event, where the number is that of one.
fn inode(seq: u64) -> Option<InodeKey> {
    let (round, event) = ((seq - 1) / (EVENTS + 1), (seq - 1) % (EVENTS + 1));
    (event < EVENTS).then(|| InodeKey {
        ino: FIRST_INO + round * EVENTS + event,
        generation: 1,
    })
}

/// The power goes in an operation of one of the disks; whether it was met.
fn power_cut(of: Of, after: u64, seed: u64) -> bool {
    let what = format!("operation {after} of the {of:?}, seed {seed}");
    let (disks, remains) = host(seed);
    plan(&disks, of, after);
    let (remains, durable_seq, spooled_seq) = match Rig::start(remains, limits(), None, None) {
        Err((_, remains)) => (remains, 0, 0),
        Ok(rig) => {
            work(&rig, &disks);
            let met = disks.are_gone();
            disks.spool.take_away();
            let status = rig.handle.status();
            let remains = rig.kill();
            if !met {
                return false;
            }
            (remains, status.durable_seq, status.spooled_seq)
        }
    };
    disks.spool.take_away();
    disks.spool.power_on();
    disks.medium.power_on();
    let sealed_seq = sealed(&remains, &what);
    assert!(
        sealed_seq >= durable_seq,
        "{what}: {durable_seq} was reported, {sealed_seq} is sealed"
    );
    let dead = find_dead(&remains.medium, UUID, &remains.disk, remains.spool.path());
    let rig = match dead {
        Ok(Some(dead)) => {
            for seq in sealed_seq + 1..=spooled_seq {
                let inode = inode(seq);
                let is_known = inode.is_none_or(|inode| dead.touched.contains(inode));
                assert!(is_known, "{what}: {seq} was spooled, and nothing of it is known");
            }
            remains.from(limits(), &dead)
        }
        Ok(None) => {
            assert_eq!(sealed_seq, 0, "{what}");
            remains.anew(limits())
        }
        Err(why) => panic!("{what}: {why:#}"),
    };
    rig.captured(FIRST_INO, 3000);
    rig.flush();
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    assert!(!records(&medium).is_empty());
    true
}

/// Last number on a medium that may hold nothing yet; all before it are there, and none is a hole.
fn sealed(remains: &Remains, what: &str) -> u64 {
    match journal::Head::of(&remains.medium, UUID).unwrap() {
        None => 0,
        Some(head) => {
            let records = records(&remains.medium);
            assert!(holes(&records).is_empty(), "{what}");
            assert_eq!(last(&records), head.last_seq, "{what}");
            head.last_seq
        }
    }
}

#[test]
fn whichever_operation_of_the_medium_the_power_goes_in_what_was_durable_is_there() {
    each_operation(40, |after| power_cut(Of::Medium, after, after % 7));
}

#[test]
fn whichever_operation_of_the_spool_the_power_goes_in_what_was_spooled_is_known() {
    each_operation(20, |after| power_cut(Of::Spool, after, after % 7));
}

/// The recorder is killed in an operation of one of the disks; whether it was met.
fn kill(of: Of, after: u64, seed: u64) -> bool {
    let what = format!("operation {after} of the {of:?}, seed {seed}");
    let (disks, remains) = host(seed);
    let rig = Rig::start(remains, limits(), None, None).ok().unwrap();
    let begin_seq = rig.own(Op::BaseBegin { continues: None });
    rig.own(Op::BaseEnd { begin_seq });
    rig.flush();
    plan(&disks, of, after);
    let own = work(&rig, &disks);
    let met = disks.are_gone();
    disks.spool.take_away();
    let durable_seq = rig.handle.status().durable_seq;
    let remains = rig.kill();
    if !met {
        return false;
    }
    disks.spool.go_on();
    disks.medium.go_on();
    remains.captured(FIRST_INO, 3000);
    assert!(sealed(&remains, &what) >= durable_seq, "{what}");
    let rig = remains.resume();
    assert_eq!(rig.handle.epoch(), 1, "{what}");
    rig.flush();
    let newest = rig.handle.status().captured_seq;
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    let records = records(&medium);
    let holes = holes(&records);
    // A number that was just being taken is explained by nobody: `Taken::take`.
    let is_own = |(first, last): &(u64, u64)| first == last && own.contains(first);
    assert!(
        holes.len() <= 1 && holes.iter().all(is_own),
        "{what}: {holes:?}, own {own:?}"
    );
    assert!(last(&records) >= newest, "{what}");
    true
}

#[test]
fn whichever_operation_of_the_medium_the_kill_comes_in_nothing_is_lost() {
    each_operation(40, |after| kill(Of::Medium, after, after % 7));
}

#[test]
fn whichever_operation_of_the_spool_the_kill_comes_in_nothing_is_lost() {
    each_operation(20, |after| kill(Of::Spool, after, after % 7));
}
