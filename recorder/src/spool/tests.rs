//! Frames written and read back, changed, cut short.

mod crash;

use std::fs;

use journal::store::disk::SystemDisk;

use super::*;

fn disk() -> Arc<dyn Disk> {
    Arc::new(SystemDisk)
}

#[test]
fn frames_come_back_in_order_across_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::create(&disk(), dir.path(), 16 * FILE_BYTES, FILE_BYTES).unwrap();
    let payload = |i: u32| vec![u8::try_from(i % 251).unwrap(); 1_000_000 + i as usize];
    for i in 0..150 {
        spool
            .append(
                if i % 2 == 0 {
                    FrameKind::Event
                } else {
                    FrameKind::Own
                },
                &[&payload(i)[..7], &payload(i)[7..]],
            )
            .unwrap();
    }
    let end = spool.write().unwrap();
    assert!(end.file > 2);
    let mut reader = SpoolReader::new(&disk(), dir.path(), 1);
    for i in 0..150 {
        let frame = reader.next(end).unwrap().unwrap();
        assert_eq!(frame.payload, payload(i));
        assert_eq!(frame.kind == FrameKind::Event, i % 2 == 0);
    }
    assert!(reader.next(end).unwrap().is_none());
    let mut oldest = 1;
    spool.release(&mut oldest, reader.position().file).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_changed_byte_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::create(&disk(), dir.path(), 4 * FILE_BYTES, FILE_BYTES).unwrap();
    spool.append(FrameKind::Event, &[b"some payload"]).unwrap();
    let end = spool.write().unwrap();
    for at in 0..end.offset {
        let path = file_path(dir.path(), 1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[usize::try_from(at).unwrap()] ^= 0x10;
        let copy = tempfile::tempdir().unwrap();
        fs::write(file_path(copy.path(), 1), bytes).unwrap();
        assert!(
            SpoolReader::new(&disk(), copy.path(), 1).next(end).is_err(),
            "byte {at}"
        );
    }
}

/// Bytes of a file where many are read.
const SMALL: u64 = 64 << 10;

/// A spool of some files as a killed recorder leaves it; the payloads, and where each frame of the newest file ends.
fn left(dir: &Path) -> (Vec<Vec<u8>>, Vec<u64>) {
    let mut spool = Spool::create(&disk(), dir, 4 * SMALL, SMALL).unwrap();
    let (mut payloads, mut ends) = (Vec::new(), vec![0]);
    for i in 0..26_u8 {
        let payload = vec![i; if i < 22 { 20_000 } else { 3 + usize::from(i) }];
        let before = spool.position().file;
        spool.append(FrameKind::Event, &[&payload]).unwrap();
        let position = spool.write().unwrap();
        if position.file != before {
            ends = vec![0];
        }
        ends.push(position.offset);
        payloads.push(payload);
    }
    (payloads, ends)
}

#[test]
fn what_was_being_written_is_cut_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (payloads, ends) = left(dir.path());
    let newest = left_files(&SystemDisk, dir.path()).unwrap().last().unwrap().0;
    assert!(newest > 1);
    let whole = fs::read(file_path(dir.path(), newest)).unwrap();
    let last_ends: Vec<u64> = ends[ends.len() - 5..].to_vec();
    let older = payloads.len() - (ends.len() - 1);
    for length in last_ends[0]..=*last_ends.last().unwrap() {
        let file = file_path(dir.path(), newest);
        fs::write(&file, &whole[..usize::try_from(length).unwrap()]).unwrap();
        let mut seen = Vec::new();
        let (mut spool, oldest) = Spool::recover(&disk(), dir.path(), 4 * SMALL, SMALL, |frame| {
            seen.push(frame.payload.clone());
        })
        .unwrap();
        let kept = older + ends.iter().filter(|&&end| end <= length).count() - 1;
        assert_eq!((seen.len(), oldest), (kept, 1), "{length} bytes");
        assert!(seen == payloads[..kept], "{length} bytes");
        // It goes on, and is read over the cut.
        spool.append(FrameKind::Own, &[b"after"]).unwrap();
        let end = spool.write().unwrap();
        let mut reader = SpoolReader::new(&disk(), dir.path(), newest);
        let mut last = None;
        while let Some(frame) = reader.next(end).unwrap() {
            last = Some(frame.payload);
        }
        assert_eq!(last.unwrap(), b"after");
    }
}

#[test]
fn a_damaged_frame_is_no_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    left(dir.path());
    let newest = left_files(&SystemDisk, dir.path()).unwrap().last().unwrap().0;
    let file = file_path(dir.path(), newest);
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() - 40;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(Spool::recover(&disk(), dir.path(), 4 * SMALL, SMALL, |_| ()).is_err());
    fs::remove_file(file).unwrap();
    fs::remove_file(file_path(dir.path(), 2)).unwrap();
    assert!(Spool::recover(&disk(), dir.path(), 4 * SMALL, SMALL, |_| ()).is_err());
}
