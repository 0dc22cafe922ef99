//! Runs operations one after the other, each in a process of its own, and writes what came of each.
//!
//! Nothing that an operation does stops the run: an error, a signal and a time-out are results like any other.

use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::declare::{Context, Operation};
use super::{FileSystem, Release, all};

/// Time that one operation may take; the emulated machine is slow.
const OPERATION_TIME_MAX: Duration = Duration::from_secs(240);
/// The set of marks that a run sets is small, so that all can be restored: one a family.
const MARK: &str = "/usr/local/bin/MARK";
/// Exit code by which an operation says that the file system or the kernel lacks it.
const CODE_UNSUPPORTED: u8 = 3;
/// Exit code of an operation that failed.
const CODE_FAILED: u8 = 1;
/// Bytes of an error that are kept.
const ERROR_BYTES_MAX: usize = 800;
/// Inode numbers kept of one operation.
const INODES_MAX: usize = 200_000;

/// Where operations run: a column of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// File system of the working directory.
    pub fs: FileSystem,
    /// The running kernel.
    pub kernel: Release,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All of it was done.
    Done,
    /// The file system or the kernel lacks it, as the table says.
    Unsupported,
    /// It was not done.
    Failed,
}

/// One line of what a run writes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// Name of the operation.
    pub op: String,
    /// Its family, and the name of the mark after it.
    pub family: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Text of the error.
    pub error: String,
    /// How long it took, milliseconds.
    pub ms: u64,
    /// Inode numbers of what is in its directory, and of the directory.
    pub inodes: Vec<u64>,
}

/// Does one operation in the working directory. Returns the exit code of the process that was made for it.
pub fn one(name: &str, cell: Cell) -> u8 {
    let Some((_, operation)) = all().find(|(_, operation)| operation.name == name) else {
        eprintln!("there is no operation {name}");
        return CODE_FAILED;
    };
    // The content differs from operation to operation, and is the same in each run.
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, |seed: u64, byte| {
        (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let context = Context {
        fs: cell.fs,
        kernel: cell.kernel,
        seed,
    };
    let (code, said) = judge((operation.run)(&context), operation, cell);
    eprintln!("{said}");
    code
}

/// The exit code and what is to be said: only what is declared is unsupported, and what is must not work.
fn judge(result: Result<()>, operation: &Operation, cell: Cell) -> (u8, String) {
    let mut limits = operation
        .limits
        .iter()
        .filter(|limit| limit.holds(cell.fs, cell.kernel));
    match result {
        Ok(()) => match limits.find(|limit| limit.certain) {
            Some(limit) => (
                CODE_FAILED,
                format!("worked, though declared unsupported: {}", limit.reason),
            ),
            None => (0, String::new()),
        },
        Err(error) => match errno_of(&error) {
            Some(errno) => match limits.find(|limit| limit.errno.contains(&errno)) {
                Some(limit) => (CODE_UNSUPPORTED, format!("errno {errno}: {}", limit.reason)),
                None => (CODE_FAILED, format!("{error:#}")),
            },
            None => (CODE_FAILED, format!("{error:#}")),
        },
    }
}

fn errno_of(error: &anyhow::Error) -> Option<i32> {
    error.chain().find_map(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::raw_os_error)
            .or_else(|| {
                cause
                    .downcast_ref::<rustix::io::Errno>()
                    .map(|errno| errno.raw_os_error())
            })
    })
}

/// Runs the named operations (none: all) below the working directory and writes a line for each to `out`.
///
/// # Errors
/// When the lines cannot be written or a mark cannot be set; never because of an operation.
pub fn run(cell: Cell, names: &[String], out: &Path) -> Result<()> {
    for name in names {
        ensure!(
            all().any(|(_, operation)| operation.name == name),
            "there is no operation {name}"
        );
    }
    let chosen: Vec<_> = all()
        .filter(|(_, operation)| names.is_empty() || names.iter().any(|name| name == operation.name))
        .collect();
    let mut lines = BufWriter::new(File::create(out).with_context(|| format!("create {}", out.display()))?);
    for (number, (family, operation)) in chosen.iter().enumerate() {
        let line = judged(family, operation, cell);
        eprintln!("{:?} {} {} ms {}", line.outcome, line.op, line.ms, line.error);
        serde_json::to_writer(&mut lines, &line).context("write result")?;
        lines.write_all(b"\n").context("write result")?;
        lines.flush().context("write result")?;
        // After the last family comes the end of the run, which is restored anyway.
        if chosen.get(number + 1).is_some_and(|(next, _)| next != family) {
            mark(family)?;
        }
    }
    Ok(())
}

fn mark(family: &str) -> Result<()> {
    if !Path::new(MARK).exists() {
        return Ok(());
    }
    let status = Command::new(MARK)
        .arg(family)
        .stdin(Stdio::null())
        .status()
        .context("start MARK")?;
    ensure!(status.success(), "MARK {family} ended with {status}");
    Ok(())
}

/// Does an operation and tells how it ended.
fn judged(family: &str, op: &Operation, cell: Cell) -> Line {
    let started = Instant::now();
    let (outcome, error) = match in_process(op, cell) {
        Ok((status, said)) => match status.and_then(|status| status.code()) {
            Some(0) => (Outcome::Done, String::new()),
            Some(code) if code == i32::from(CODE_UNSUPPORTED) => (Outcome::Unsupported, said),
            Some(_) => (Outcome::Failed, said),
            None => (Outcome::Failed, format!("ended by a signal or by time: {said}")),
        },
        Err(error) => (Outcome::Failed, format!("{error:#}")),
    };
    let mut inodes = Vec::new();
    let listed = inodes_below(op.name, &mut inodes);
    let error = match listed {
        Ok(()) => error,
        Err(list) => format!("{error} (cannot list inodes: {list:#})"),
    };
    Line {
        op: op.name.to_string(),
        family: family.to_string(),
        outcome,
        error,
        ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        inodes,
    }
}

/// The exit status (`None`: it took too long) and what was said.
fn in_process(op: &Operation, cell: Cell) -> Result<(Option<ExitStatus>, String)> {
    fs::create_dir(op.name).with_context(|| format!("create directory {}", op.name))?;
    let (mut reader, writer) = std::io::pipe().context("make pipe")?;
    let mut command = Command::new(env::current_exe().context("find this program")?);
    command
        .args(["one", op.name, "--fs", &cell.fs.to_string()])
        .args(["--kernel", &format!("{}.{}", cell.kernel.0, cell.kernel.1)])
        .current_dir(op.name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer);
    let mut child = command.spawn().context("start operation")?;
    // The pipe ends only when this process holds no writer of it.
    drop(command);
    let reading = thread::spawn(move || {
        let mut said = String::new();
        // What was read before an error is still worth telling.
        _ = reader.by_ref().take(1 << 20).read_to_string(&mut said);
        said
    });
    let status = wait(&mut child)?;
    // Something that an operation left running may hold the pipe: what it says is not waited for.
    let until = Instant::now() + Duration::from_secs(2);
    while !reading.is_finished() && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
    let said = if reading.is_finished() {
        reading.join().unwrap_or_default()
    } else {
        "it left a process running".to_string()
    };
    let said: String = said.trim().chars().take(ERROR_BYTES_MAX).collect();
    Ok((status, said))
}

fn wait(child: &mut Child) -> Result<Option<ExitStatus>> {
    let until = Instant::now() + OPERATION_TIME_MAX;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().context("wait for operation")? {
            return Ok(Some(status));
        }
        if Instant::now() > until {
            child.kill().context("end operation")?;
            child.wait().context("wait for operation")?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Inode numbers of a directory and everything below it; paths may be longer than PATH_MAX.
fn inodes_below(name: &str, inodes: &mut Vec<u64>) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, name, flags, Mode::empty()).context("open directory")?;
    let about = rustix::fs::fstat(&root).context("look at directory")?;
    inodes.push(about.st_ino);
    let mut open: Vec<(OwnedFd, Dir)> = vec![(root.try_clone().context("copy descriptor")?, Dir::new(root)?)];
    while let Some((fd, entries)) = open.last_mut() {
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        let entry = entry.context("read directory")?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        if inodes.len() < INODES_MAX {
            inodes.push(entry.ino());
        }
        if entry.file_type() == FileType::Directory {
            let next = rustix::fs::openat(&*fd, entry.file_name(), flags, Mode::empty())
                .context("open directory")?;
            // Another file system that an operation left mounted is none of this one's business.
            if rustix::fs::fstat(&next).context("look at directory")?.st_dev == about.st_dev {
                open.push((next.try_clone().context("copy descriptor")?, Dir::new(next)?));
            }
        }
    }
    inodes.sort_unstable();
    inodes.dedup();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::declare::{Limit, operation};
    use super::*;

    #[test]
    fn only_what_is_declared_is_unsupported() {
        let new = Limit::below(&[FileSystem::Xfs], (6, 10), &[libc::EOPNOTSUPP], "new");
        let limits: &'static [Limit] = Box::leak(Box::new([new]));
        let op = operation("x", "x", |_| Ok(())).limited(limits);
        let refused = |errno| Err(std::io::Error::from_raw_os_error(errno)).context("do it");
        let code = |result, fs, kernel| judge(result, &op, Cell { fs, kernel }).0;
        let (xfs, ext4) = (FileSystem::Xfs, FileSystem::Ext4);
        assert_eq!(code(refused(libc::EOPNOTSUPP), xfs, (6, 1)), CODE_UNSUPPORTED);
        assert_eq!(code(refused(libc::EINVAL), xfs, (6, 1)), CODE_FAILED);
        assert_eq!(code(refused(libc::EOPNOTSUPP), xfs, (6, 12)), CODE_FAILED);
        assert_eq!(code(refused(libc::EOPNOTSUPP), ext4, (6, 1)), CODE_FAILED);
        assert_eq!(code(Ok(()), xfs, (6, 1)), CODE_FAILED);
        assert_eq!(code(Ok(()), xfs, (6, 12)), 0);
    }
}
