//! The log that QEMU's blklogwrites driver keeps of a disk's writes, played onto a blank image.
//!
//! The format is that of Linux' dm-log-writes, version 1, all numbers little-endian: one sector with magic, version,
//! number of entries and size of a sector; then, entry by entry, one sector that says where on the disk, how many
//! sectors, and which kind, followed by as many sectors of data, if it is a write. What lies in the file systems of
//! the disk is not its business.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// Flags of an entry. A flush has no sectors.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
/// There is no data: the disk may hold anything there from now on.
const DISCARD: u64 = 4;
/// Bytes copied in one go.
const CHUNK_BYTES: usize = 1 << 20;

/// What was in a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Replayed {
    pub(super) entries: u64,
    /// Sum of all writes.
    pub(super) bytes: u64,
}

/// Makes all writes of the log to the image, in their order.
///
/// # Errors
/// When the log is torn or of another format, or says something that cannot be on a disk of the image's size.
pub(super) fn replay(log: &Path, image: &Path) -> Result<Replayed> {
    let log = File::open(log).with_context(|| format!("open log {}", log.display()))?;
    let mut image = OpenOptions::new()
        .write(true)
        .open(image)
        .with_context(|| format!("open image {}", image.display()))?;
    let image_bytes = image.metadata().context("look at the image")?.len();
    let mut log = BufReader::with_capacity(CHUNK_BYTES, log);
    let (entries, sector_bytes) = read_head(&mut log)?;
    let mut sector = vec![0; usize::try_from(sector_bytes).context("size of a sector")?];
    let mut bytes = 0;
    for number in 0..entries {
        log.read_exact(&mut sector)
            .with_context(|| format!("read entry {number} of {entries}"))?;
        let [at, sectors, flags] = [0, 1, 2].map(|word| word_at(&sector, word));
        ensure!(
            flags & !(FLUSH | FUA | DISCARD) == 0,
            "entry {number} has unknown flags {flags:#x}"
        );
        let end = at
            .checked_add(sectors)
            .and_then(|end| end.checked_mul(sector_bytes));
        ensure!(
            end.is_some_and(|end| end <= image_bytes),
            "entry {number} writes {sectors} sectors at sector {at}, past the end of the disk"
        );
        if flags & DISCARD != 0 {
            continue;
        }
        image
            .seek(SeekFrom::Start(at * sector_bytes))
            .context("seek in the image")?;
        copy(&mut log, &mut image, sectors * sector_bytes)
            .with_context(|| format!("make the write of entry {number}"))?;
        bytes += sectors * sector_bytes;
    }
    Ok(Replayed { entries, bytes })
}

/// What became of the writes of a disk that lost its power.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CutOff {
    /// Entries up to the last flush: all of them are on the disk.
    pub(super) flushed: usize,
    /// Later writes that had reached the disk all the same, some of them in part.
    pub(super) kept: usize,
    /// Later writes that are lost.
    pub(super) lost: usize,
}

/// An entry of a log that was not ended.
struct Entry {
    data_at: u64,
    at: u64,
    sectors: u64,
    flags: u64,
}

/// Makes those writes of a log to the image that a disk with a volatile cache may have made when its power was cut: all up to the last flush, and
/// of the later ones some. `seed` says which. The log ends where nothing was written yet.
///
/// # Errors
/// As [`replay`].
pub(super) fn replay_cut(log: &Path, image: &Path, seed: u64) -> Result<CutOff> {
    let file = File::open(log).with_context(|| format!("open log {}", log.display()))?;
    let mut log = BufReader::with_capacity(CHUNK_BYTES, file);
    let mut image = OpenOptions::new()
        .write(true)
        .open(image)
        .with_context(|| format!("open image {}", image.display()))?;
    let image_bytes = image.metadata().context("look at the image")?.len();
    let (_, sector_bytes) = read_head(&mut log)?;
    let entries = unended(&mut log, sector_bytes, image_bytes)?;
    let flushed = entries
        .iter()
        .rposition(|entry| entry.flags & FLUSH != 0)
        .map_or(0, |last| last + 1);
    let mut random = Rng::with_seed(seed);
    // From a cache that is nearly on the disk to one that is lost as a whole.
    let kept_percent = match random.u64(..4) {
        0 => 0,
        1 => 50,
        2 => 90,
        _ => 99,
    };
    let (mut kept, mut lost) = (0, 0);
    for (number, entry) in entries.iter().enumerate() {
        let Entry {
            data_at,
            at,
            sectors,
            flags,
        } = *entry;
        if sectors == 0 || flags & DISCARD != 0 {
            continue;
        }
        let mut wanted = sectors;
        if number >= flushed && flags & FUA == 0 {
            if random.u64(..100) >= kept_percent {
                lost += 1;
                continue;
            }
            kept += 1;
            if random.u64(..4) == 0 {
                wanted = random.u64(..=sectors);
            }
        }
        log.seek(SeekFrom::Start(data_at)).context("seek in the log")?;
        image
            .seek(SeekFrom::Start(at * sector_bytes))
            .context("seek in the image")?;
        copy(&mut log, &mut image, wanted * sector_bytes)
            .with_context(|| format!("make the write of entry {number}"))?;
    }
    Ok(CutOff { flushed, kept, lost })
}

/// The entries up to the first that is not there.
fn unended(log: &mut BufReader<File>, sector_bytes: u64, image_bytes: u64) -> Result<Vec<Entry>> {
    let log_bytes = log.get_ref().metadata().context("look at the log")?.len();
    let mut sector = vec![0; usize::try_from(sector_bytes).context("size of a sector")?];
    let (mut entries, mut position) = (Vec::new(), sector_bytes);
    while position + sector_bytes <= log_bytes {
        log.seek(SeekFrom::Start(position)).context("seek in the log")?;
        log.read_exact(&mut sector).context("read an entry")?;
        let [at, sectors, flags] = [0, 1, 2].map(|word| word_at(&sector, word));
        let data = if flags & DISCARD == 0 { sectors } else { 0 };
        let end = at.saturating_add(sectors).saturating_mul(sector_bytes);
        let next = position + sector_bytes + data.saturating_mul(sector_bytes);
        // Entries are written side by side: where one is missing, what comes after it cannot be found.
        let is_there = (sectors > 0 || flags & FLUSH != 0) && flags & !(FLUSH | FUA | DISCARD) == 0;
        if !is_there || end > image_bytes || next > log_bytes {
            break;
        }
        entries.push(Entry {
            data_at: position + sector_bytes,
            at,
            sectors,
            flags,
        });
        position = next;
    }
    Ok(entries)
}

/// Number of entries and size of a sector, bytes; leaves the log at its first entry.
fn read_head(log: &mut BufReader<File>) -> Result<(u64, u64)> {
    let mut head = [0; 28];
    log.read_exact(&mut head).context("read the log's first sector")?;
    let [magic, version, entries] = [0, 1, 2].map(|word| word_at(&head, word));
    ensure!(
        magic == MAGIC,
        "this is no log of writes: it begins with {magic:#x}"
    );
    ensure!(
        version == VERSION,
        "the log has version {version}, known is {VERSION}"
    );
    let sector_bytes = u32::from_le_bytes([head[24], head[25], head[26], head[27]]);
    ensure!(
        sector_bytes.is_power_of_two() && (512..=1 << 16).contains(&sector_bytes),
        "the log has sectors of {sector_bytes} bytes"
    );
    let sector_bytes = u64::from(sector_bytes);
    log.seek(SeekFrom::Start(sector_bytes))
        .context("seek to the first entry")?;
    Ok((entries, sector_bytes))
}

/// The number at the 8-byte word `word` of a sector, which must be long enough.
fn word_at(sector: &[u8], word: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&sector[word * 8..][..8]);
    u64::from_le_bytes(bytes)
}

fn copy(from: &mut impl Read, to: &mut File, bytes: u64) -> Result<()> {
    let copied = std::io::copy(&mut from.take(bytes), to).context("copy data")?;
    ensure!(copied == bytes, "the log ends within the data");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: usize = 512;

    fn sector(words: &[u64]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.resize(SECTOR, 0);
        bytes
    }

    fn log(parts: &[Vec<u8>]) -> (tempfile::TempDir, Result<Replayed>) {
        let dir = tempfile::tempdir().expect("make a directory");
        let (log, image) = (dir.path().join("log"), dir.path().join("image"));
        std::fs::write(&log, parts.concat()).expect("write the log");
        std::fs::write(&image, vec![0; 8 * SECTOR]).expect("write the image");
        let replayed = replay(&log, &image);
        (dir, replayed)
    }

    fn head(entries: u64) -> Vec<u8> {
        sector(&[MAGIC, VERSION, entries, SECTOR as u64])
    }

    #[test]
    fn the_last_write_of_a_sector_wins() {
        let (dir, replayed) = log(&[
            head(4),
            sector(&[0, 8, DISCARD, 0]),
            sector(&[2, 2, 0, 0]),
            vec![1; 2 * SECTOR],
            sector(&[3, 1, FUA, 0]),
            vec![2; SECTOR],
            sector(&[0, 0, FLUSH, 0]),
        ]);
        let image = std::fs::read(dir.path().join("image")).expect("read the image");
        assert_eq!(
            replayed.expect("replay"),
            Replayed {
                entries: 4,
                bytes: 3 * SECTOR as u64
            }
        );
        let firsts: Vec<u8> = image.chunks(SECTOR).map(|s| s[0]).collect();
        assert_eq!(firsts, [0, 0, 1, 2, 0, 0, 0, 0]);
        assert_eq!(image.len(), 8 * SECTOR);
    }

    #[test]
    fn a_disk_that_loses_its_power_keeps_what_was_flushed() {
        let dir = tempfile::tempdir().expect("make a directory");
        let (path, image) = (dir.path().join("log"), dir.path().join("image"));
        let parts = [
            head(0),
            sector(&[0, 1, 0, 0]),
            vec![1; SECTOR],
            sector(&[0, 0, FLUSH, 0]),
            sector(&[1, 1, FUA, 0]),
            vec![2; SECTOR],
            sector(&[2, 2, 0, 0]),
            vec![3; 2 * SECTOR],
            // Nothing more was written when the power went.
            vec![0; 8 * SECTOR],
        ];
        std::fs::write(&path, parts.concat()).expect("write the log");
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..64 {
            std::fs::write(&image, vec![0; 8 * SECTOR]).expect("write the image");
            let cut = replay_cut(&path, &image, seed).expect("replay");
            assert_eq!((cut.flushed, cut.kept + cut.lost), (2, 1));
            let image = std::fs::read(&image).expect("read the image");
            let firsts: Vec<u8> = image.chunks(SECTOR).map(|s| s[0]).collect();
            assert_eq!(firsts[..2], [1, 2], "flushed, or written through");
            outcomes.insert(firsts[2..4].to_vec());
        }
        assert_eq!(
            outcomes.into_iter().collect::<Vec<_>>(),
            [vec![0, 0], vec![3, 0], vec![3, 3]],
            "lost, in part, whole"
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let fails = |parts: &[Vec<u8>]| log(parts).1.expect_err("replay a bad log").to_string();
        assert!(fails(&[sector(&[7, VERSION, 0, 512])]).contains("no log of writes"));
        assert!(fails(&[sector(&[MAGIC, 2, 0, 512])]).contains("version 2"));
        assert!(fails(&[head(1), sector(&[7, 2, 0, 0]), vec![0; 2 * SECTOR]]).contains("past the end"));
        assert!(fails(&[head(1), sector(&[u64::MAX, 2, 0, 0])]).contains("past the end"));
        assert!(fails(&[head(1), sector(&[0, 0, 1 << 9, 0])]).contains("unknown flags"));
        assert!(fails(&[head(1), sector(&[0, 2, 0, 0]), vec![0; SECTOR]]).contains("make the write"));
        assert!(fails(&[head(2), sector(&[0, 0, FLUSH, 0])]).contains("read entry 1"));
    }
}
