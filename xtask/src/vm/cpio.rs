//! Writes cpio archives in the "newc" form: the initramfs, and the disk of files that travel with a job.
//!
//! Owns only the bytes of the archive. Everything in it belongs to root and carries the time 0, so equal input gives
//! equal bytes.

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive being written to `out`.
pub(super) struct Archive<W: Write> {
    out: W,
    written_bytes: u64,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            written_bytes: 0,
            entries: 0,
        }
    }

    /// Adds a directory. Parents are not added by themselves.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        self.header(path, DIRECTORY | 0o755, 0)
    }

    /// Adds a file with the given content.
    pub(super) fn bytes(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.header(path, REGULAR | (mode & 0o7777), content.len() as u64)?;
        self.write(content)?;
        self.pad()
    }

    /// Adds a file, a directory with all that is in it, or a symbolic link, under another name.
    ///
    /// # Errors
    /// When it cannot be read, changes its size meanwhile, or is of another type.
    pub(super) fn tree(&mut self, host: &Path, path: &str) -> Result<()> {
        // The top may be a link, and then means what it points to; links below it are kept.
        let meta = fs::metadata(host).with_context(|| format!("look at {}", host.display()))?;
        self.entry(host, path, &meta)
    }

    fn entry(&mut self, host: &Path, path: &str, meta: &fs::Metadata) -> Result<()> {
        if meta.is_dir() {
            let mut names: Vec<_> = fs::read_dir(host)
                .with_context(|| format!("list {}", host.display()))?
                .map(|entry| entry.map(|e| e.file_name()))
                .collect::<io::Result<_>>()
                .with_context(|| format!("list {}", host.display()))?;
            names.sort();
            self.directory(path)?;
            for name in names {
                let below = host.join(&name);
                let meta =
                    fs::symlink_metadata(&below).with_context(|| format!("look at {}", below.display()))?;
                self.entry(&below, &format!("{path}/{}", name.to_string_lossy()), &meta)?;
            }
            return Ok(());
        }
        if meta.is_symlink() {
            let target = fs::read_link(host).with_context(|| format!("read link {}", host.display()))?;
            let target = target.as_os_str().as_encoded_bytes();
            self.header(path, SYMLINK | 0o777, target.len() as u64)?;
            self.write(target)?;
            return self.pad();
        }
        ensure!(
            meta.is_file(),
            "{} is neither file, directory nor link",
            host.display()
        );
        self.header(path, REGULAR | (meta.permissions().mode() & 0o7777), meta.len())?;
        let file = File::open(host).with_context(|| format!("open {}", host.display()))?;
        let copied = io::copy(&mut file.take(meta.len()), &mut self.out)
            .with_context(|| format!("copy {}", host.display()))?;
        ensure!(
            copied == meta.len(),
            "{} became shorter while it was read",
            host.display()
        );
        self.written_bytes += copied;
        self.pad()
    }

    /// Ends the archive and returns where it was written to.
    pub(super) fn finish(mut self) -> Result<W> {
        self.header("TRAILER!!!", 0, 0)?;
        // Devices are read in whole sectors.
        let rest = (512 - self.written_bytes % 512) % 512;
        self.write(&vec![0; usize::try_from(rest).unwrap_or(0)])?;
        self.out.flush().context("write archive")?;
        Ok(self.out)
    }

    fn header(&mut self, path: &str, mode: u32, size_bytes: u64) -> Result<()> {
        let name = path.trim_start_matches('/');
        let Ok(size) = u32::try_from(size_bytes) else {
            bail!("{path} is too large for the archive: {size_bytes} bytes")
        };
        self.entries += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let name_bytes = u32::try_from(name.len() + 1).context("name too long")?;
        let mut header = String::from("070701");
        for field in [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            0,
            0,
            name_bytes,
            0,
        ] {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(name);
        header.push('\0');
        self.write(header.as_bytes())?;
        self.pad()
    }

    fn pad(&mut self) -> Result<()> {
        let rest = (4 - self.written_bytes % 4) % 4;
        self.write(&[0; 4][..usize::try_from(rest).unwrap_or(0)])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).context("write archive")?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_is_what_the_form_says() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("/d").unwrap();
        archive.bytes("d/f", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        // Header 110 bytes, name "d" and its NUL: 112, which needs no padding.
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[110..112], b"d\0");
        assert_eq!(&bytes[112..118], b"070701");
        assert_eq!(&bytes[112 + 6 + 8..112 + 6 + 16], b"000081ed");
        // Name "d/f" ends at 112 + 114, padded to 228.
        assert_eq!(&bytes[228..233], b"hello");
        assert!(bytes.windows(11).any(|w| w == b"TRAILER!!!\0"));
    }
}
