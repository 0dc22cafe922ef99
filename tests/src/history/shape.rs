//! Which files a made-up volume has, and in which pieces they are written.

use super::content::LINE_BYTES;
use crate::random::Random;

/// Bytes of a large file; the last one takes the rest.
const LARGE_FILE_BYTES: u64 = 64 << 20;
/// Small files in a directory.
const DIRECTORY_FILES: u64 = 50;
/// The smallest of the small files is so much smaller than the largest.
const SMALL_BYTES_SPREAD: u64 = 64;
/// The smallest piece of a file that is written here and there is so much smaller than one that is written from front to back.
const PIECE_SPREAD: u64 = 256;

/// In which order files are overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All of them once, then all of them again: what is left stands at the end of the journal.
    Rounds,
    /// Any version of one among any version of another: what is left is strewn over the whole journal.
    Mixed,
}

/// What is made up. The same shape always gives the same records and the same tree.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Small files.
    pub files: u64,
    /// Size of the largest of the small files; their sizes are spread evenly over the six powers of two below.
    pub small_bytes_max: u64,
    /// Bytes of all large files together, of 64 MiB each.
    pub large_bytes: u64,
    /// How often every byte is overwritten after it was written.
    pub overwrites: u64,
    /// Most bytes of one record of a large file; the recorder merges adjoining writes up to 1 MiB.
    pub piece_bytes_max: u64,
    /// In which order.
    pub order: Order,
    /// Number that everything comes from.
    pub seed: u64,
}

/// How the versions of a file follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// Over what was there.
    InPlace,
    /// Cut to nothing, then written.
    Truncated,
    /// A new file is renamed over the old one.
    Replaced,
    /// Over what was there, in pieces here and there.
    Scattered,
}

impl Shape {
    /// Numbers of all files: the small ones, then the large ones.
    pub(super) fn all_files(&self) -> u64 {
        self.files + self.large_bytes.div_ceil(LARGE_FILE_BYTES)
    }

    pub(super) fn directories(&self) -> u64 {
        self.files.div_ceil(DIRECTORY_FILES) + 1
    }

    /// The large files have one of their own, the last.
    pub(super) fn directory(&self, file: u64) -> u64 {
        if file < self.files {
            file / DIRECTORY_FILES
        } else {
            self.directories() - 1
        }
    }

    pub(super) fn size(&self, file: u64) -> u64 {
        if file >= self.files {
            let before = (file - self.files) * LARGE_FILE_BYTES;
            return LARGE_FILE_BYTES.min(self.large_bytes - before);
        }
        let mut random = self.random(file, 1);
        let low = (self.small_bytes_max / SMALL_BYTES_SPREAD).max(1);
        let power = low << random.below(u64::from(SMALL_BYTES_SPREAD.ilog2()));
        power + random.below(power)
    }

    pub(super) fn habit(&self, file: u64) -> Habit {
        if file >= self.files {
            return if file.is_multiple_of(2) {
                Habit::InPlace
            } else {
                Habit::Scattered
            };
        }
        match self.random(file, 2).below(4) {
            0 => Habit::Truncated,
            1 => Habit::Replaced,
            _ => Habit::InPlace,
        }
    }

    pub(super) fn permissions(&self, file: u64) -> u32 {
        self.random(file, 3).pick(&[0o644, 0o644, 0o600, 0o755, 0o664])
    }

    /// Offsets and lengths of the records that write a version of a file, in order; together they are all of it.
    pub(super) fn pieces(&self, file: u64, version: u64) -> Vec<(u64, u64)> {
        let size = self.size(file);
        if file < self.files {
            return vec![(0, size)];
        }
        let scattered = version > 0 && self.habit(file) == Habit::Scattered;
        let mut random = self.random(file, 4 + version);
        let page = (self.piece_bytes_max / PIECE_SPREAD).max(LINE_BYTES);
        let (mut pieces, mut offset) = (Vec::new(), 0);
        while offset < size {
            let length = if scattered {
                (page << random.below(5)).min(self.piece_bytes_max)
            } else {
                self.piece_bytes_max
            };
            let length = length.min(size - offset);
            pieces.push((offset, length));
            offset += length;
        }
        if scattered {
            shuffle(&mut pieces, &mut random);
        }
        pieces
    }

    pub(super) fn random(&self, file: u64, what: u64) -> Random {
        Random::new(Random::new(self.seed ^ (file << 20) ^ what).number())
    }
}

/// Any order.
pub(super) fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        let other = usize::try_from(random.below(last as u64 + 1)).unwrap_or(0);
        items.swap(last, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_version_are_the_whole_file_once() {
        let shape = Shape {
            files: 60,
            small_bytes_max: 4096,
            large_bytes: (64 << 20) + 5000,
            overwrites: 1,
            piece_bytes_max: 1 << 20,
            order: Order::Rounds,
            seed: 3,
        };
        assert_eq!((shape.all_files(), shape.directories()), (62, 3));
        let sizes: u64 = (60..62).map(|file| shape.size(file)).sum();
        assert_eq!(sizes, shape.large_bytes);
        for (file, version) in [(0, 1), (60, 1), (61, 0), (61, 1)] {
            let mut pieces = shape.pieces(file, version);
            pieces.sort_unstable();
            let mut end = 0;
            for (offset, length) in pieces {
                assert_eq!(offset, end);
                end += length;
            }
            assert_eq!(end, shape.size(file));
        }
    }
}
