//! Content that compresses to about half: every line of 64 bytes has 25 random ones, and words that come back. Every line is made from
//! file, version and offset alone, so that any part of any version can be made at any time.

use crate::random::Random;

/// Bytes of a line.
pub(super) const LINE_BYTES: u64 = 64;
const WORD_BYTES: usize = 13;
const WORDS: usize = 512;

/// What all files are made of.
pub(super) struct Content {
    seed: u64,
    words: Vec<[u8; WORD_BYTES]>,
}

impl Content {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut word = || {
            let mut word = [b' '; WORD_BYTES];
            let letters = WORD_BYTES - 1;
            word[..letters].fill_with(|| b'a' + u8::try_from(random.below(26)).unwrap_or(0));
            word
        };
        Self {
            seed,
            words: (0..WORDS).map(|_| word()).collect(),
        }
    }

    /// What a version of a file has from `offset` on, a multiple of [`LINE_BYTES`].
    pub(super) fn fill(&self, out: &mut [u8], file: u64, version: u64, offset: u64) {
        // Far apart, so that no two lines begin with the same number.
        let of_version = Random::new(self.seed ^ (file << 24) ^ version).number();
        for (line, number) in out.chunks_mut(LINE_BYTES as usize).zip(offset / LINE_BYTES..) {
            let mut random = Random::new(of_version ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
            let mut made = [0; LINE_BYTES as usize];
            let (noise, words) = made.split_at_mut(LINE_BYTES as usize - 3 * WORD_BYTES);
            for part in noise.chunks_mut(8) {
                part.copy_from_slice(&random.number().to_le_bytes()[..part.len()]);
            }
            let mut which = random.number();
            for part in words.chunks_mut(WORD_BYTES) {
                part.copy_from_slice(&self.words[(which % WORDS as u64) as usize]);
                which /= WORDS as u64;
            }
            line.copy_from_slice(&made[..line.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_same_as_of_the_whole_and_versions_differ() {
        let content = Content::new(7);
        let mut whole = vec![0; 1000];
        content.fill(&mut whole, 3, 1, 0);
        let mut part = vec![0; 200];
        content.fill(&mut part, 3, 1, 640);
        assert_eq!(part, whole[640..840]);
        for (file, version) in [(3, 2), (4, 1)] {
            let mut other = vec![0; 200];
            content.fill(&mut other, file, version, 640);
            assert_ne!(part, other);
        }
    }
}
