//! Work on small files and on names, for `cargo xtask bench --only record`: as little beside the system calls as can be, so that what
//! recording adds to them is not hidden behind an interpreter.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};

/// Files of one directory, as in a tree of sources or mails.
const FILES_OF_DIR: u32 = 200;

/// Works on small files and on names
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What to do
    what: What,
    /// Where; made if missing
    #[arg(long)]
    dir: PathBuf,
    /// Number of files
    #[arg(long)]
    count: u32,
    /// Size of each file
    #[arg(long, default_value_t = 4096)]
    bytes: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Create and write files, then remove all of them
    SmallFiles,
    /// Only create and write them
    Fill,
    /// Change the mode of each file that `fill` made, and rename it, twice
    Storm,
}

fn main() -> Result<()> {
    let Arguments {
        what,
        dir,
        count,
        bytes,
    } = Arguments::parse();
    match what {
        What::Fill => fill(&dir, count, bytes),
        What::SmallFiles => {
            fill(&dir, count, bytes)?;
            empty(&dir, count)
        }
        What::Storm => storm(&dir, count),
    }
}

fn dir_of(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("d{}", number / FILES_OF_DIR))
}

fn file_of(dir: &Path, number: u32) -> PathBuf {
    dir_of(dir, number).join(format!("file-{number}"))
}

fn fill(dir: &Path, count: u32, bytes: usize) -> Result<()> {
    if bytes < size_of::<u32>() {
        bail!("a file needs room for its number");
    }
    // Of one kind in all files, but no two the same: compression finds something, yet not everything.
    let mut content: Vec<u8> = (0..bytes).map(|at| (at * at / 7 % 251) as u8).collect();
    for number in 0..count {
        if number % FILES_OF_DIR == 0 {
            let dir = dir_of(dir, number);
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        content[..size_of::<u32>()].copy_from_slice(&number.to_le_bytes());
        let path = file_of(dir, number);
        File::create_new(&path)
            .and_then(|mut file| file.write_all(&content))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn empty(dir: &Path, count: u32) -> Result<()> {
    for number in 0..count {
        let path = file_of(dir, number);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

fn storm(dir: &Path, count: u32) -> Result<()> {
    for number in 0..count {
        let (path, other) = (
            file_of(dir, number),
            dir_of(dir, number).join(format!("moved-{number}")),
        );
        for (from, to, mode) in [(&path, &other, 0o600), (&other, &path, 0o644)] {
            fs::set_permissions(from, Permissions::from_mode(mode))
                .and_then(|()| fs::rename(from, to))
                .with_context(|| format!("rename {}", from.display()))?;
        }
    }
    Ok(())
}
