//! What many operations share: content, files made of it, shell scripts, a walk.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// Bytes of a page, of a block.
pub(super) const PAGE: usize = 4096;

/// After this the kernel's clock for files says something else.
pub(super) const TICK: Duration = Duration::from_millis(30);

/// Bytes that look random and are the same for the same seed (splitmix64).
pub(super) fn content(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// A new, empty file, open for reading and writing.
pub(super) fn create(name: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(name)
        .with_context(|| format!("create {name}"))
}

/// A new file with so many bytes of the seed's content.
pub(super) fn filled(name: &str, seed: u64, bytes: usize) -> Result<File> {
    let mut file = create(name)?;
    file.write_all(&content(seed, bytes))
        .with_context(|| format!("write {name}"))?;
    Ok(file)
}

/// Opens an existing file for reading and writing, with further flags of open(2).
pub(super) fn reopen(name: &str, flags: i32) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(name)
        .with_context(|| format!("open {name}"))
}

/// Fails unless the file has exactly these bytes at the offset: an operation that did nothing is no scenario.
pub(super) fn expect(file: &File, offset: u64, want: &[u8]) -> Result<()> {
    let mut got = vec![0; want.len()];
    file.read_exact_at(&mut got, offset).context("read back")?;
    ensure!(got == want, "other content than was written at {offset}");
    Ok(())
}

/// Runs a bash script in the working directory; it stops at the first command that fails.
pub(super) fn shell(script: &str) -> Result<()> {
    let out = Command::new("/bin/bash")
        .args(["-e", "-u", "-o", "pipefail", "-c", script])
        .stdin(Stdio::null())
        .output()
        .context("start bash")?;
    let stderr = String::from_utf8_lossy(&out.stderr);
    let last: Vec<&str> = stderr.lines().rev().take(6).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    ensure!(
        out.status.success(),
        "the script ended with {}: {}",
        out.status,
        last.join(" / ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::content;

    #[test]
    fn content_depends_on_the_seed_alone() {
        assert_eq!(content(1, 100), content(1, 100));
        assert_eq!(content(1, 100)[..50], content(1, 50));
        assert_ne!(content(1, 100), content(2, 100));
        assert_eq!(content(1, 13).len(), 13);
    }
}
