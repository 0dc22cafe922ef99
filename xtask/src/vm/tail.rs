//! Reading files that a machine is still writing.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// A growing file.
pub(super) struct Tail {
    file: File,
    at_bytes: u64,
}

impl Tail {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { file, at_bytes: 0 })
    }

    /// What has been added since the last call.
    pub(super) fn read(&mut self) -> Result<Vec<u8>> {
        self.file
            .seek(SeekFrom::Start(self.at_bytes))
            .context("seek in output of the guest")?;
        let mut new = Vec::new();
        self.file
            .read_to_end(&mut new)
            .context("read output of the guest")?;
        self.at_bytes += new.len() as u64;
        Ok(new)
    }
}

/// Whole lines of a growing file.
pub(super) struct Lines {
    tail: Tail,
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn new(tail: Tail) -> Self {
        Self {
            tail,
            rest: Vec::new(),
        }
    }

    pub(super) fn read(&mut self) -> Result<Vec<String>> {
        self.rest.extend(self.tail.read()?);
        let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else {
            return Ok(Vec::new());
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        Ok(String::from_utf8_lossy(&whole)
            .lines()
            .map(|l| l.trim_end().to_string())
            .collect())
    }
}
