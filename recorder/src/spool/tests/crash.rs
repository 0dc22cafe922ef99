//! Every operation of the spool is the last one once: after a power cut everything that was synced is there, after a kill everything that
//! was written.

use journal::store::faults::{FaultDisk, On, What};

use super::*;

const ROOT: &str = "/spool";
/// Of each crash, what is left to chance is tried so often.
const SEEDS: u64 = 6;
const FRAMES: u32 = 30;

/// How far a session got, in frames.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    appended: u32,
    written: u32,
    synced: u32,
    /// Given back: they need not be there.
    released: u32,
}

fn payload(frame: u32) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(frame % 251).unwrap(); 9000];
    bytes[..4].copy_from_slice(&frame.to_le_bytes());
    bytes
}

/// Frame by frame: appended, now and then written and synced; the oldest file is given back when it has been read.
fn session(disk: &FaultDisk, reached: &mut Reached) -> Result<()> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut spool = Spool::create(&disk, Path::new(ROOT), 4 * SMALL, SMALL)?;
    let (mut synced, mut oldest) = (Position::default(), 1);
    let mut first_of_file = vec![0, 0];
    for frame in 0..FRAMES {
        let file = spool.position().file;
        spool.append(FrameKind::Event, &[&payload(frame)])?;
        if spool.position().file != file {
            first_of_file.push(frame);
            reached.written = frame;
        }
        reached.appended = frame + 1;
        if frame % 2 == 1 {
            spool.write()?;
            reached.written = frame + 1;
        }
        if frame % 4 == 3 {
            spool.unsynced().sync(&mut synced)?;
            reached.synced = frame + 1;
        }
        if frame == FRAMES - 5 {
            reached.released = first_of_file[3];
            spool.release(&mut oldest, 3)?;
        }
    }
    Ok(())
}

/// Frames that are there, up to what is no frame of the newest file.
fn found(disk: &FaultDisk) -> Vec<u32> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let files = left_files(&*disk, Path::new(ROOT)).unwrap();
    let mut frames = Vec::new();
    for &(file, offset) in &files {
        let mut reader = SpoolReader::new(&disk, Path::new(ROOT), file);
        while let Ok(Some(Frame { payload: bytes, .. })) = reader.next(Position { file, offset }) {
            let frame = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            assert!(bytes == payload(frame));
            frames.push(frame);
        }
    }
    frames
}

fn crashes(seed: u64, mut then: impl FnMut(&FaultDisk, Reached, &str)) {
    for after in 0.. {
        let disk = FaultDisk::new(Path::new(ROOT), seed);
        disk.plan(On::Change, after, What::Gone);
        let mut reached = Reached::default();
        let ended = session(&disk, &mut reached);
        assert_eq!(ended.is_err(), disk.is_gone());
        then(
            &disk,
            reached,
            &format!("operation {after}, seed {seed}, {reached:?}"),
        );
        if ended.is_ok() {
            assert!(
                after > 40,
                "{after}: files were created, written, synced, cut and removed"
            );
            return;
        }
    }
}

#[test]
fn whichever_operation_the_power_goes_in_what_was_synced_is_there() {
    for seed in 0..SEEDS {
        crashes(seed, |disk, reached, what| {
            disk.power_on();
            let frames = found(disk);
            for frame in reached.released..reached.synced {
                assert!(frames.contains(&frame), "{what}: {frame} is not in {frames:?}");
            }
        });
    }
}

#[test]
fn whichever_operation_the_kill_comes_in_the_next_one_goes_on_after_it() {
    for seed in 0..SEEDS {
        crashes(seed, |disk, reached, what| {
            disk.go_on();
            let disk: Arc<dyn Disk> = Arc::new(disk.clone());
            let mut frames = Vec::new();
            let recovered = Spool::recover(&disk, Path::new(ROOT), 4 * SMALL, SMALL, |frame| {
                frames.push(u32::from_le_bytes(frame.payload[..4].try_into().unwrap()));
            });
            let (mut spool, oldest) = match recovered {
                Ok(recovered) => recovered,
                // Its first file was not there yet.
                Err(error) => {
                    assert_eq!(reached.appended, 0, "{what}: {error:#}");
                    return;
                }
            };
            let (first, last) = (
                frames.first().copied().unwrap_or(0),
                frames.last().map_or(0, |last| last + 1),
            );
            assert_eq!(
                frames,
                (first..last).collect::<Vec<_>>(),
                "{what}: none is missing between others"
            );
            assert!(
                first <= reached.released && last >= reached.written,
                "{what}: {first} to {last}"
            );
            spool.append(FrameKind::Own, &[&payload(last)]).unwrap();
            let end = spool.write().unwrap();
            let mut reader = SpoolReader::new(&disk, Path::new(ROOT), oldest);
            let mut count = 0;
            while let Some(frame) = reader.next(end).unwrap() {
                assert!(frame.payload == payload(first + count), "{what}");
                count += 1;
            }
            assert_eq!(first + count, last + 1, "{what}: it goes on");
        });
    }
}
