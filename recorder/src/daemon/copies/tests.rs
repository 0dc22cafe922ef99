//! What is copied, to which media, and what is said where that does not work.

mod rig;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use journal::store::faults::{FaultDisk, On, What};
use journal::store::{DirStore, Store};
use journal::{Label, Naming, Reader};
use rustix::io::Errno;

use self::rig::{Free, Rig, catalog_of, segments};
use super::super::shelf::Shelf;
use super::super::shelf::tests::UUID;
use super::*;
use crate::media::catalog::Catalog;

/// What is wrong with the copies on media together.
fn problems(stores: Vec<DirStore>) -> Vec<String> {
    let stores = stores.into_iter().map(|store| Arc::new(store) as Arc<dyn Store>);
    let reader = Reader::open(stores.collect()).unwrap();
    let mut problems = reader.verify_media().unwrap();
    problems.extend(reader.journal(None).unwrap().verify(|_| ()).unwrap().problems);
    problems
}

fn copies_label(store: &DirStore, name: &str, pool: &str) {
    let naming = Naming {
        name: Some(name.to_owned()),
        pool: pool.to_owned(),
        copies: true,
        signer: None,
    };
    Label::ensure_as(store, b"replayer", 0, &naming).unwrap();
}

#[test]
fn each_pool_gets_one_copy_of_everything_and_the_catalog_says_so() {
    let mut rig = Rig::new(&["b", "c"]);
    rig.room.label("b", "near", true);
    rig.room.label("c", "far", true);
    rig.seal(3);
    let status = rig.round();
    rig.seal(1);
    let single = |rig: &Rig| {
        let catalog = rig.catalog();
        let one = catalog.get(&rig.shelf.current().label.medium).unwrap();
        catalog
            .single_copy(one)
            .into_iter()
            .map(|(_, runs)| runs)
            .collect::<Vec<_>>()
    };
    assert_eq!(single(&rig), <[Vec<(u64, u64)>; 0]>::default());
    let names: Vec<&str> = status.pools.iter().map(|pool| pool.pool.as_str()).collect();
    assert_eq!(names, ["far", "near"]);
    assert_eq!(status.places, []);
    for pool in rig.round().pools {
        assert_eq!(
            (pool.segment, pool.seq, pool.segments_behind),
            (4, 4, 0),
            "{pool:?}"
        );
        assert_eq!((pool.bytes_behind, pool.behind_s, pool.waits), (0, 0, None));
    }
    for name in ["b", "c"] {
        assert_eq!(rig.segments(name), [1, 2, 3, 4]);
        assert_eq!(problems(vec![rig.store(name)]), <[&str; 0]>::default());
    }
    assert_eq!(single(&rig), <[Vec<(u64, u64)>; 0]>::default());
    // What is sealed and has no copy yet is told, and so is why.
    rig.seal(2);
    let orders = Free {
        wait: Some("recording goes first".to_owned()),
        ..Free::default()
    };
    rig.copier.round(&orders);
    let pools = orders.status.into_inner().unwrap().pools;
    assert_eq!((pools[0].seq, pools[0].segments_behind), (4, 2));
    assert!(pools[0].bytes_behind > 0);
    assert_eq!(pools[1].waits.as_deref(), Some("recording goes first"));
    assert_eq!(single(&rig), [[(5, 6)]]);
}

#[test]
fn what_is_sealed_now_does_not_wait_for_what_was_sealed_before() {
    let mut rig = Rig::new(&["b"]);
    rig.seal(3);
    assert_eq!(rig.round().pools, [], "no medium is there");
    rig.seal(2);
    let mut sealed = sealed::Sealed::new(UUID, &rig.shelf.current().label.medium);
    let look = |sealed: &mut sealed::Sealed, shelf: &Shelf| sealed.look(shelf.media(), |_| None, |_| true);
    look(&mut sealed, &rig.shelf);
    rig.seal(2);
    look(&mut sealed, &rig.shelf);
    let mut keys: Vec<_> = sealed.segments.keys().collect();
    keys.sort_by_key(|key| sealed.order(key));
    let order: Vec<u64> = keys.into_iter().map(|key| key.index).collect();
    assert_eq!(order, [6, 7, 1, 2, 3, 4, 5]);
    // Where something is sealed all the time, each round makes one copy all the same.
    rig.room.label("b", "near", true);
    let orders = Free {
        is_news: true,
        ..Free::default()
    };
    assert!(!rig.copier.round(&orders));
    assert!(!rig.copier.round(&orders));
    assert_eq!(rig.segments("b").len(), 2);
}

#[test]
fn what_is_no_medium_for_copies_is_said_and_takes_nothing() {
    let mut rig = Rig::new(&["bare", "tape", "own", "away", "retired"]);
    rig.room.label("tape", "near", false);
    rig.room.label("own", "tapes", true);
    let mut retired = catalog::Medium::new(&rig.room.label("retired", "near", true).label);
    retired.retired = Some(1);
    Catalog::change_at(&catalog_of(&rig.room), |catalog| {
        catalog.put(retired);
        Ok(())
    })
    .unwrap();
    fs::remove_dir(rig.room.path("away")).unwrap();
    rig.seal(1);
    let status = rig.round();
    assert_eq!(status.pools, []);
    for (place, why) in [
        ("bare", "no label"),
        ("tape", "is not for copies"),
        (
            "own",
            "is of pool \"tapes\", which the journal itself is written to",
        ),
        ("away", "No such file"),
        ("retired", "is retired"),
    ] {
        let found = status.places.iter().find(|found| found.path.ends_with(place));
        assert!(
            found.is_some_and(|found| found.why.contains(why)),
            "{place}: {status:?}"
        );
    }
    for place in ["bare", "tape", "own", "retired"] {
        assert_eq!(rig.segments(place), <[u64; 0]>::default(), "{place}");
    }
}

#[test]
fn where_one_is_full_its_successor_takes_the_rest_and_nothing_twice() {
    let mut rig = Rig::new(&["b", "c"]);
    let disk = rig.on_faulty("b", "c");
    let b = DirStore::on(Arc::new(disk.clone()), &rig.room.path("b"));
    copies_label(&b, "first", "near");
    rig.seal(2);
    assert_eq!(rig.pool().segments_behind, 0);
    disk.set_room(Some(1));
    rig.seal(2);
    let pool = rig.pool();
    assert_eq!((pool.segment, pool.segments_behind), (2, 2));
    let waits = pool.waits.unwrap();
    for part in ["first", "is full", "--copies --pool near", "/c"] {
        assert!(waits.contains(part), "{part}: {waits}");
    }
    // It is not tried again for ever, and does not keep what is sealed from going on.
    rig.seal(1);
    assert_eq!(rig.pool().segments_behind, 3);
    rig.room.label("c", "near", true);
    let pool = rig.pool();
    assert_eq!((pool.segment, pool.segments_behind, pool.waits), (5, 0, None));
    assert_eq!((segments(&b), rig.segments("c")), (vec![1, 2], vec![3, 4, 5]));
    assert_eq!(problems(vec![b, rig.store("c")]), <[&str; 0]>::default());
}

#[test]
fn what_the_catalog_knows_of_a_medium_that_is_not_there_is_not_copied_again() {
    let mut rig = Rig::new(&["b"]);
    rig.room.label("b", "near", true);
    rig.seal(2);
    assert_eq!(rig.pool().segments_behind, 0);
    let (b, away) = (rig.room.path("b"), rig.room.dir.path().join("away"));
    fs::rename(&b, &away).unwrap();
    fs::create_dir(&b).unwrap();
    rig.seal(1);
    let pool = rig.pool();
    assert_eq!((pool.segment, pool.segments_behind, pool.there.len()), (2, 1, 0));
    assert!(pool.waits.unwrap().contains("no medium of pool near"));
    assert_eq!(
        fs::read_dir(&b).unwrap().count(),
        0,
        "a bare mount point takes nothing"
    );
    // A recorder that comes later knows it too.
    rig.copier = rig.copier_to(vec![b.clone()], Box::new(|path| Ok(DirStore::open(path)?)));
    assert_eq!(rig.pool().segments_behind, 1);
    copies_label(&rig.store("b"), "second", "near");
    assert_eq!(rig.pool().segments_behind, 0);
    assert_eq!(rig.segments("b"), [3]);
    // The first one comes back.
    fs::rename(&b, rig.room.dir.path().join("second")).unwrap();
    fs::rename(&away, &b).unwrap();
    rig.seal(1);
    assert_eq!(rig.pool().segments_behind, 0);
    assert_eq!(rig.segments("b"), [1, 2, 4]);
}

/// Whatever operation on a medium for copies fails, the source loses nothing, the next round makes up for it, and no copy is half.
#[test]
fn whichever_call_to_a_medium_fails_the_next_round_makes_up_for_it() {
    for what in [What::Error(Errno::IO, 1), What::Error(Errno::ROFS, 3), What::Gone] {
        for after in 0.. {
            let disk = FaultDisk::new(Path::new("/nowhere"), after);
            let mut rig = Rig::new(&["b"]);
            let disk = disk.beside(&rig.room.path("b"), after);
            let on_disk = disk.clone();
            rig.copier = rig.copier_to(
                vec![rig.room.path("b")],
                Box::new(move |path| Ok(DirStore::on(Arc::new(on_disk.clone()), path))),
            );
            let b = DirStore::on(Arc::new(disk.clone()), &rig.room.path("b"));
            copies_label(&b, "b", "near");
            rig.seal(2);
            disk.plan(On::Any, after, what);
            let _failed = rig.round();
            rig.seal(1);
            let is_met = disk.operations(On::Any) > after;
            match what {
                What::Gone => disk.power_on(),
                _ => disk.repair(),
            }
            let pool = rig.pool();
            assert_eq!(
                (pool.segment, pool.segments_behind),
                (3, 0),
                "{what:?} after {after}: {pool:?}"
            );
            assert_eq!(
                problems(vec![b]),
                <[&str; 0]>::default(),
                "{what:?} after {after}"
            );
            if !is_met {
                break;
            }
        }
    }
}

#[test]
fn a_medium_that_fails_time_and_again_is_left_alone_for_a_while() {
    let mut rig = Rig::new(&["b", "c"]);
    let disk = rig.on_faulty("b", "c");
    let b = DirStore::on(Arc::new(disk.clone()), &rig.room.path("b"));
    copies_label(&b, "b", "near");
    rig.room.label("c", "far", true);
    rig.seal(6);
    disk.plan(On::Change, 0, What::Error(Errno::IO, u64::MAX));
    let status = rig.round();
    let after = disk.operations(On::Change);
    let [far, near] = &status.pools[..] else {
        panic!("{status:?}")
    };
    assert_eq!((far.segments_behind, near.segments_behind), (0, 6));
    assert!(near.waits.as_ref().unwrap().contains("os error 5"), "{near:?}");
    let status = rig.round();
    assert!(status.pools[1].waits.as_ref().unwrap().contains("os error 5"));
    assert_eq!(disk.operations(On::Change), after, "it is not written to again");
}

#[test]
fn what_is_damaged_is_said_and_the_rest_is_copied() {
    let mut rig = Rig::new(&["b"]);
    rig.room.label("b", "near", true);
    rig.seal(3);
    let segment = rig.room.path("one").join(UUID).join("0000000002.parquet");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    fs::remove_file(&segment).unwrap();
    fs::write(&segment, bytes).unwrap();
    let pool = rig.pool();
    assert_eq!((pool.segment, pool.segments_behind), (1, 1));
    assert!(pool.waits.unwrap().contains("is not what was sealed"));
    assert_eq!(rig.segments("b"), [1, 3]);
    let names: Vec<String> = rig
        .store("b")
        .list()
        .unwrap()
        .into_iter()
        .map(|object| object.name)
        .collect();
    assert!(!names.iter().any(|name| name.contains("0000000002")), "{names:?}");
}

#[test]
fn a_medium_that_holds_another_chain_is_not_mixed_up() {
    let mut rig = Rig::new(&["b", "c"]);
    let mut other = Rig::new(&[]);
    other.seal(2);
    rig.room.label("b", "near", true);
    let b = rig.store("b");
    journal::copy_segment((UUID, 1), &other.store("one"), &b, &|| true).unwrap();
    rig.seal(2);
    let pool = rig.pool();
    assert!(pool.waits.unwrap().contains("a chain of its own"));
    assert_eq!(rig.segments("b"), [1]);
    rig.room.label("c", "near", true);
    assert_eq!(rig.pool().segments_behind, 0);
    assert_eq!(rig.segments("c"), [1, 2]);
}

#[test]
fn a_place_that_is_let_go_is_left_until_something_else_is_there() {
    let mut rig = Rig::new(&["b"]);
    rig.room.label("b", "near", true);
    rig.seal(1);
    assert_eq!(rig.pool().segments_behind, 0);
    let (b, away) = (rig.room.path("b"), rig.room.dir.path().join("away"));
    rig.copier.leave(&b);
    rig.seal(1);
    let status = rig.round();
    assert!(status.places[0].why.contains("was ejected"), "{status:?}");
    assert_eq!(rig.segments("b"), [1]);
    fs::rename(&b, &away).unwrap();
    fs::create_dir(&b).unwrap();
    assert!(rig.round().places[0].why.contains("no label"));
    fs::remove_dir(&b).unwrap();
    fs::rename(&away, &b).unwrap();
    assert_eq!(rig.pool().segments_behind, 0);
    assert_eq!(rig.segments("b"), [1, 2]);
    // The medium that is read can be let go, too: what of it was not seen is not waited for, and what was seen is.
    let one = rig.room.path("one");
    rig.seal(1);
    rig.copier.leave(&one);
    assert_eq!(rig.pool().segments_behind, 0, "it was not seen");
    assert_eq!(rig.segments("b"), [1, 2]);
}

#[test]
fn what_waits_for_two_things_says_what_keeps_all_of_it_back() {
    let mut rig = Rig::new(&["b"]);
    rig.room.label("b", "near", true);
    rig.seal(1);
    assert_eq!(rig.pool().segments_behind, 0);
    let (b, away) = (rig.room.path("b"), rig.room.dir.path().join("away"));
    fs::rename(&b, &away).unwrap();
    fs::create_dir(&b).unwrap();
    rig.seal(1);
    assert_eq!(rig.pool().segments_behind, 1);
    rig.copier.leave(&rig.room.path("one"));
    assert!(rig.pool().waits.unwrap().contains("no medium of pool near"));
    fs::remove_dir(&b).unwrap();
    fs::rename(&away, &b).unwrap();
    let waits = rig.pool().waits.unwrap();
    assert!(
        waits.contains("which cannot be read: its medium was ejected"),
        "{waits}"
    );
    assert_eq!(rig.segments("b"), [1]);
}

#[test]
fn the_thread_is_told_that_something_is_new_waited_for_and_ended() {
    let mut rig = Rig::new(&["b"]);
    rig.room.label("b", "near", true);
    let copies = Copies::to(&[rig.room.path("b")]).unwrap();
    let (count, is_held) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let fresh = rig.copier_to(copies.places.clone(), Box::new(|path| Ok(DirStore::open(path)?)));
    let copier = std::mem::replace(&mut rig.copier, fresh);
    let thread = {
        let (copies, count, is_held) = (Arc::clone(&copies), Arc::clone(&count), Arc::clone(&is_held));
        std::thread::spawn(move || {
            let wait = || is_held.load(Ordering::Relaxed).then(|| "held".to_owned());
            copies.run(copier, &|| count.load(Ordering::Relaxed), &wait);
        })
    };
    let minute = Duration::from_secs(60);
    copies.settle(minute);
    rig.seal(2);
    count.store(2, Ordering::Relaxed);
    let begin = Instant::now();
    while copies.status().pools[0].segment < 2 {
        assert!(
            begin.elapsed() < IDLE_INTERVAL / 2,
            "it hears of what is sealed: {:?}",
            copies.status()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    rig.seal(1);
    copies.settle(minute);
    assert_eq!(copies.status().pools[0].segment, 3);
    // A medium that takes nothing holds nobody up.
    is_held.store(true, Ordering::Relaxed);
    rig.seal(1);
    copies.settle(minute);
    assert_eq!(copies.status().pools[0].waits.as_deref(), Some("held"));
    is_held.store(false, Ordering::Relaxed);
    copies.leave(&rig.room.path("b")).unwrap();
    rig.seal(1);
    copies.settle(minute);
    let before = rig.segments("b");
    assert!(before.len() < 5, "{before:?}");
    copies.end(minute);
    thread.join().unwrap();
    let begin = Instant::now();
    copies.settle(minute);
    assert!(begin.elapsed() < minute / 2, "nobody is left to be waited for");
}
