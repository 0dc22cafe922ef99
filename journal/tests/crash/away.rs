//! A medium that was away comes back: as it was, with what it had lost, or with what somebody else has put there.

use super::*;

/// A medium with two segments, and the writer that goes on there.
fn begun(seed: u64) -> (FaultDisk, Writer) {
    let disk = disk(seed);
    Label::ensure(&*store(&disk), b"replayer", 0).unwrap();
    let mut writer = Writer::open(store(&disk), volume()).unwrap();
    assert_eq!(write(&mut writer, 1, 4).unwrap(), 4);
    (disk, writer)
}

fn manifest(index: u64) -> std::path::PathBuf {
    Path::new(ROOT).join(format!("{UUID}/{index:010}.manifest.json"))
}

/// What the writer says of a medium that is back.
fn says(writer: &mut Writer) -> String {
    let error = write(writer, 5, 6)
        .expect_err("it is not the medium that was there")
        .1;
    assert_eq!(error.exit_code(), 20, "{error}");
    error.to_string()
}

#[test]
fn whenever_it_is_unplugged_it_is_gone_on_with_as_it_was() {
    for (after, seed) in (0..60).flat_map(|after| (0..SEEDS).map(move |seed| (after, seed))) {
        let (disk, mut writer) = begun(seed);
        disk.plan(On::Change, after, What::Gone);
        let sealed = match write(&mut writer, 5, 10) {
            Ok(sealed) => sealed,
            Err((sealed, error)) => {
                assert!(matches!(error, Error::Io { .. }), "{error}");
                disk.power_on();
                sealed
            }
        };
        if sealed < 10 {
            assert_eq!(write(&mut writer, sealed + 1, 10).unwrap(), 10);
        }
        disk.power_on();
        assert_eq!(
            seqs(&disk),
            (1..=10).collect::<Vec<_>>(),
            "operation {after}, seed {seed}"
        );
    }
}

#[test]
fn a_medium_that_has_lost_what_was_sealed_is_not_written_to() {
    let (disk, mut writer) = begun(0);
    disk.plan(On::Any, 0, What::Error(Errno::IO, 1));
    write(&mut writer, 5, 6).expect_err("it fails once");
    let copy = disk.read(&manifest(2)).unwrap();
    disk.remove(&manifest(2)).unwrap();
    assert!(says(&mut writer).contains("not there any more"));
    let put = |bytes: &[u8]| {
        let file = disk
            .create(&manifest(2), journal::store::disk::Existing::Emptied)
            .unwrap();
        file.write_all_at(bytes, 0).unwrap();
    };
    put(&copy[..copy.len() / 2]);
    assert!(says(&mut writer).contains("bring back the medium"));
    put(&begun(1).0.read(&manifest(2)).unwrap());
    assert!(says(&mut writer).contains("another one is there"));
    put(&copy);
    assert_eq!(write(&mut writer, 5, 6).unwrap(), 6);
    assert_eq!(seqs(&disk), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_medium_that_somebody_else_has_written_to_is_not_gone_on_with() {
    let (disk, mut writer) = begun(0);
    disk.plan(On::Any, 0, What::Error(Errno::IO, 1));
    write(&mut writer, 5, 6).expect_err("it fails once");
    let mut other = Writer::open(store(&disk), volume()).unwrap();
    assert_eq!(write(&mut other, 1, 2).unwrap(), 2);
    assert!(says(&mut writer).contains("somebody else has written segment 3"));
    assert_eq!(seqs(&disk), [1, 2, 3, 4, 1, 2], "nothing of that is void");
}
