//! What is concluded, and how it is said.

use super::*;
use crate::cli::exit::MEDIUM_NEEDED;
use crate::status::{CopiesStatus, MediumThere, PlaceStatus, PoolStatus};

const PATIENCE: Patience = Patience {
    stale: Duration::from_secs(300),
    pool_away: Duration::from_secs(3600),
};

fn volume() -> VolumeStatus {
    VolumeStatus {
        path: "/srv".to_owned(),
        state: "recording".to_owned(),
        captured_seq: 100,
        safe_seq: 100,
        durable_time: "2026-01-02T03:04:05Z".to_owned(),
        spool_bytes_max: 1000,
        ring_bytes: 64,
        is_passing: true,
        ..VolumeStatus::default()
    }
}

fn report(volume: VolumeStatus) -> Report {
    Report {
        time: "2026-01-02T03:05:00Z".to_owned(),
        pid: 7,
        volumes: vec![volume],
        ..Report::default()
    }
}

fn now() -> jiff::Timestamp {
    "2026-01-02T03:05:05Z".parse().unwrap()
}

fn verdict(source: &Source) -> Verdict {
    judge(source, now(), PATIENCE)
}

fn of(change: impl FnOnce(&mut VolumeStatus)) -> Verdict {
    let mut volume = volume();
    change(&mut volume);
    verdict(&Source::Answer(report(volume)))
}

fn stall(place: Place, for_s: u64) -> Stall {
    Stall {
        thread: "cold".to_owned(),
        place,
        for_s,
    }
}

/// A medium that refuses, for so long.
fn refuse(volume: &mut VolumeStatus, exit_code: u8) {
    volume.medium = "/media/usb0".to_owned();
    volume.medium_state = MediumStatus {
        trouble: Some("the medium: gone".to_owned()),
        exit_code,
        trouble_s: 40,
        free_bytes: None,
        uuid: "m-1".to_owned(),
        name: "tape-1".to_owned(),
    };
}

#[test]
fn all_is_well() {
    let verdict = of(|_| {});
    assert_eq!((verdict.level, verdict.code), (Level::Ok, 0));
    assert_eq!(
        verdict.as_text(),
        "/srv: everything is durable\nnothing is to be done"
    );
    assert_eq!(
        verdict.as_plugin(),
        (
            "OK - /srv: everything is durable | '/srv behind'=0s;;300;0 '/srv holes'=0;0;;0 '/srv ring'=0B;;;0;64 \
             '/srv spool'=0B;;;0;1000"
                .to_owned(),
            0
        )
    );
}

#[test]
fn a_little_behind_is_well_too() {
    let verdict = of(|volume| {
        volume.captured_seq = 200;
        volume.behind_s = 300;
    });
    assert_eq!((verdict.level, verdict.code), (Level::Ok, 0));
    assert!(
        verdict
            .as_text()
            .contains("durable is what happened before 2026-01-02T03:04:05Z (60 s ago)"),
        "{}",
        verdict.as_text()
    );
}

/// Each thing that can be wrong, by itself: how bad, the exit code, a word of what and of what to do.
#[test]
fn each_trouble_has_its_code_and_says_what_to_do() {
    type Change = fn(&mut VolumeStatus);
    let cases: [(&str, Change, Level, u8, &str); 13] = [
        (
            "since 2026",
            |v| v.behind_s = 301,
            Level::Critical,
            STALE,
            "faster",
        ),
        (
            "can be restored yet",
            |v| v.state = "base".to_owned(),
            Level::Warning,
            STALE,
            "complete",
        ),
        (
            "3 holes",
            |v| v.holes_open = 3,
            Level::Warning,
            HOLE,
            "read again",
        ),
        (
            "gone, for 40 s",
            |v| refuse(v, MEDIUM_NEEDED),
            Level::Warning,
            MEDIUM_NEEDED,
            "mount the medium tape-1 (m-1) at /media/usb0",
        ),
        (
            "lasts 2 min",
            |v| {
                refuse(v, MEDIUM_FULL);
                v.spool_left_s = Some(130);
            },
            Level::Warning,
            MEDIUM_FULL,
            "make room",
        ),
        (
            "gone",
            |v| {
                refuse(v, MEDIUM_NEEDED);
                v.spool_used_bytes = 750;
            },
            Level::Critical,
            MEDIUM_NEEDED,
            "goes on by itself",
        ),
        (
            "drain: no",
            |v| v.failure = Some("drain: no".to_owned()),
            Level::Critical,
            FAILED,
            "log",
        ),
        (
            "do not see",
            |v| v.blind_since = Some("then".to_owned()),
            Level::Critical,
            FAILED,
            "attach",
        ),
        (
            "passed",
            |v| v.is_passing = false,
            Level::Critical,
            FAILED,
            "anew",
        ),
        (
            "cold has not moved for 21 s",
            |v| v.stalls = vec![stall(Place::Own, 21)],
            Level::Critical,
            FAILED,
            "anew",
        ),
        (
            "medium",
            |v| v.stalls = vec![stall(Place::Medium, 21)],
            Level::Warning,
            MEDIUM_NEEDED,
            "wait",
        ),
        (
            "medium",
            |v| v.stalls = vec![stall(Place::Medium, 120)],
            Level::Critical,
            MEDIUM_NEEDED,
            "kernel's log",
        ),
        (
            "file system",
            |v| v.stalls = vec![stall(Place::Volume, 21)],
            Level::Warning,
            FAILED,
            "frozen",
        ),
    ];
    for (what, change, level, code, todo) in cases {
        let verdict = of(change);
        assert_eq!((verdict.level, verdict.code), (level, code), "{what}");
        let text = verdict.as_text();
        assert!(text.contains(what) && text.contains(todo), "{what}: {text}");
        let (line, plugin) = verdict.as_plugin();
        assert_eq!(plugin, if level == Level::Warning { 1 } else { 2 }, "{line}");
        assert!(line.contains(what), "{line}");
    }
}

#[test]
fn the_most_urgent_gives_the_code() {
    let verdict = of(|volume| {
        volume.holes_open = 1;
        volume.behind_s = 1000;
        refuse(volume, MEDIUM_FULL);
    });
    assert_eq!((verdict.level, verdict.code), (Level::Critical, MEDIUM_FULL));
    let codes: Vec<u8> = verdict.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [MEDIUM_FULL, STALE, HOLE]);
}

#[test]
fn a_recorder_that_does_not_answer_is_judged_by_what_it_left() {
    let mut left = report(VolumeStatus {
        holes_open: 1,
        ..volume()
    });
    left.stalls = vec![Stall {
        thread: "control".to_owned(),
        ..stall(Place::Own, 25)
    }];
    let verdict = verdict(&Source::Silent(Some(left.clone())));
    assert_eq!((verdict.level, verdict.code), (Level::Critical, FAILED));
    let text = verdict.as_text();
    assert!(
        text.contains("process 7") && text.contains("does not answer\n"),
        "{text}"
    );
    assert!(text.contains("control has not moved for 25 s"), "{text}");
    assert!(text.contains("1 holes are open"), "{text}");
    assert!(
        !text.contains("everything is durable"),
        "nobody knows that now: {text}"
    );
    let later = now() + jiff::SignedDuration::from_secs(60);
    let text = judge(&Source::Silent(Some(left)), later, PATIENCE).as_text();
    assert!(
        text.contains("nothing was heard of it since 2026-01-02T03:05:00Z"),
        "{text}"
    );
    let verdict = judge(&Source::Silent(None), later, PATIENCE);
    assert_eq!((verdict.level, verdict.code), (Level::Critical, FAILED));
}

#[test]
fn without_a_recorder_it_says_whether_its_programs_go_on() {
    let verdict_nobody = verdict(&Source::Nobody(Vec::new(), Some(report(volume()))));
    assert_eq!(
        (verdict_nobody.level, verdict_nobody.code),
        (Level::Critical, NOTHING_THERE)
    );
    assert_eq!(
        verdict_nobody.durable,
        <[&str; 0]>::default(),
        "what is over is not told"
    );
    let unread = Unread {
        captured_seq: 4711,
        ring_fill_bytes: 1 << 20,
        ring_bytes: 64 << 20,
        dropped: 3,
    };
    let verdict = verdict(&Source::Nobody(
        vec![("u-1".to_owned(), unread)],
        Some(report(volume())),
    ));
    assert_eq!((verdict.level, verdict.code), (Level::Critical, NOTHING_THERE));
    let text = verdict.as_text();
    for part in [
        "go on (volume u-1)",
        "4711",
        "1.00 MiB of 64.00 MiB",
        "3 events",
        "before 2026",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_plugin_says_one_line_whatever_the_medium_says() {
    let verdict = of(|volume| {
        refuse(volume, MEDIUM_NEEDED);
        volume.medium_state.trouble = Some("a\nb | c".to_owned());
        volume.path = "/it's=here".to_owned();
    });
    let (line, _) = verdict.as_plugin();
    assert_eq!(line.lines().count(), 1, "{line}");
    assert_eq!(line.matches('|').count(), 1, "{line}");
    assert!(line.contains("'/it''s_here holes'=0"), "{line}");
}

/// A pool that is behind, on a medium that is there or not.
fn behind(behind_s: u64, waits: &str, there: Vec<MediumThere>) -> CopiesStatus {
    let pool = PoolStatus {
        pool: "near".to_owned(),
        there,
        segments_behind: 2,
        behind_s,
        waits: Some(waits.to_owned()),
        ..PoolStatus::default()
    };
    CopiesStatus {
        pools: vec![pool],
        ..CopiesStatus::default()
    }
}

#[test]
fn a_copy_that_waits_for_too_long_is_a_warning_and_names_the_pool() {
    let with = |behind_s, without_pool_s, trouble: Option<&str>| {
        of(|volume| {
            volume.copies = Some(CopiesStatus {
                places: vec![PlaceStatus {
                    path: "/media/b".to_owned(),
                    why: "no label".to_owned(),
                }],
                without_pool_s,
                trouble: trouble.map(str::to_owned),
                ..behind(
                    behind_s,
                    "medium near-1 is full: label another",
                    vec![MediumThere::default()],
                )
            });
        })
    };
    assert_eq!(
        (with(300, 300, None).level, with(300, 300, None).code),
        (Level::Ok, 0)
    );
    for (verdict, part) in [
        (with(301, 0, None), "pool near has not all copies"),
        (with(301, 0, None), "near-1 is full: label another"),
        (
            with(0, 301, None),
            "no medium takes copies for 301 s (/media/b: no label)",
        ),
        (with(0, 0, Some("no room")), "copies: no room"),
    ] {
        assert_eq!((verdict.level, verdict.code), (Level::Warning, STALE), "{part}");
        let text = verdict.as_text();
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_pool_that_is_kept_elsewhere_may_stay_behind_for_longer() {
    let with = |behind_s| of(|volume| volume.copies = Some(behind(behind_s, "mount one there", Vec::new())));
    assert_eq!(with(3600).level, Level::Ok);
    let late = with(3601);
    assert_eq!((late.level, late.code), (Level::Warning, STALE));
    assert!(late.as_text().contains("mount one there"), "{}", late.as_text());
}
