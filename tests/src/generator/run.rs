//! Runs the processes and threads of a run, lets them meet, and has marks set while they are at rest.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};

use super::kinds::KINDS;
use super::plan::{Choice, OPERATIONS_MAX, THREADS_MAX};
use super::shared::Shared;
use super::world::{Step, World};

/// Threads of one process; they share open files and mappings.
const THREADS_PER_PROCESS: u32 = 2;
/// A run that takes longer hangs.
const RUN_MAX: Duration = Duration::from_secs(900);
/// How often the first process looks after the others.
const POLL: Duration = Duration::from_millis(2);

/// What to run.
#[derive(Debug)]
pub struct Settings {
    /// What everything is drawn from.
    pub seed: u64,
    /// The directory that all happens in; it must not exist yet.
    pub root: PathBuf,
    /// Threads in all, two to a process.
    pub threads: u32,
    /// Operations of each thread.
    pub operations: u32,
    /// Operations of each thread between two rests at which `MARK NAME-1`, `NAME-2`, ... is called.
    pub marks: Option<(u32, String)>,
    /// Which of the operations are executed.
    pub choice: Choice,
    /// Writes what was done, a file for each thread: this name, a dash, the number of the thread.
    pub trace: Option<PathBuf>,
}

/// What became of the operations of each kind.
#[derive(Debug)]
pub struct Tally(Vec<(&'static str, Vec<(i32, u32)>)>);

impl Tally {
    /// Kinds of which at least one operation succeeded, and kinds there are.
    #[must_use]
    pub fn succeeded(&self) -> (usize, usize) {
        let good = self.0.iter().filter(|(_, outcomes)| {
            outcomes
                .first()
                .is_some_and(|&(error, count)| error == 0 && count > 0)
        });
        (good.count(), self.0.len())
    }

    /// A line for each kind: how many succeeded, how many failed with which error.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |(name, outcomes): &(&str, Vec<(i32, u32)>)| {
            let mut line = format!("{name:<20}");
            for &(error, count) in outcomes {
                let what = if error == 0 {
                    "ok".into()
                } else {
                    error_name(error)
                };
                line.push_str(&format!(" {what} {count}"));
            }
            line
        };
        self.0.iter().map(line).collect()
    }
}

/// Executes a run in new processes and returns what became of its operations.
///
/// # Errors
/// When a process cannot be made or dies, a mark fails, or the run hangs. The process that calls this must have one thread.
pub fn run(settings: &Settings) -> Result<Tally> {
    let Settings {
        threads, operations, ..
    } = *settings;
    ensure!(
        (1..=THREADS_MAX).contains(&threads),
        "threads: 1 to {THREADS_MAX}"
    );
    ensure!(
        (1..=OPERATIONS_MAX).contains(&operations),
        "operations: 1 to {OPERATIONS_MAX}"
    );
    World::prepare(&settings.root)?;
    let shared = Shared::create()?;
    let mut children = Children(Vec::new());
    for first in (0..threads).step_by(THREADS_PER_PROCESS as usize) {
        let last = threads.min(first + THREADS_PER_PROCESS);
        // SAFETY: this process has one thread, so that the child finds everything in order.
        match unsafe { libc::fork() } {
            0 => {
                let done = process(settings, shared, first..last);
                if let Err(error) = &done {
                    eprintln!("generator: {error:#}");
                }
                // SAFETY: ends the child at once; what it wrote is flushed.
                unsafe { libc::_exit(i32::from(done.is_err())) }
            }
            child => children
                .0
                .push(Pid::from_raw(child).filter(|_| child > 0).context("fork")?),
        }
    }
    let deadline = Instant::now() + RUN_MAX;
    for round in 0..rounds(settings) {
        while !shared.all_arrived(threads, round) {
            children.check()?;
            ensure!(Instant::now() < deadline, "the run hangs in round {round}");
            std::thread::sleep(POLL);
        }
        if let Some((_, name)) = &settings.marks {
            mark(&format!("{name}-{}", round + 1))?;
        }
        shared.release(round);
    }
    children.wait(deadline)?;
    let outcomes = KINDS
        .iter()
        .enumerate()
        .map(|(index, kind)| (kind.name, shared.outcomes(index)))
        .collect();
    Ok(Tally(outcomes))
}

/// Operations between two rests.
fn per_round(settings: &Settings) -> u32 {
    settings
        .marks
        .as_ref()
        .map_or(settings.operations, |(every, _)| *every)
        .max(1)
}

fn rounds(settings: &Settings) -> u32 {
    settings.operations.div_ceil(per_round(settings))
}

fn mark(name: &str) -> Result<()> {
    let status = Command::new("MARK").arg(name).status().context("start MARK")?;
    ensure!(status.success(), "MARK {name} ended with {status}");
    Ok(())
}

/// The child processes; they are killed where the run fails.
struct Children(Vec<Pid>);

impl Children {
    /// Fails when one has ended before its time.
    fn check(&mut self) -> Result<()> {
        for pid in &self.0 {
            if let Some((_, status)) =
                waitpid(Some(*pid), WaitOptions::NOHANG).context("wait for a process")?
            {
                let pid = *pid;
                self.0.retain(|other| *other != pid);
                bail!("a process ended before its time: {status:?}");
            }
        }
        Ok(())
    }

    fn wait(mut self, deadline: Instant) -> Result<()> {
        while let Some(pid) = self.0.last() {
            match waitpid(Some(*pid), WaitOptions::NOHANG).context("wait for a process")? {
                Some((_, status)) => {
                    self.0.pop();
                    ensure!(status.exit_status() == Some(0), "a process ended with {status:?}");
                }
                None => std::thread::sleep(POLL),
            }
            ensure!(Instant::now() < deadline, "the run does not end");
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for pid in &self.0 {
            _ = kill_process(*pid, Signal::KILL);
        }
    }
}

/// One process: its threads, on one world.
fn process(settings: &Settings, shared: &Shared, threads: std::ops::Range<u32>) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to die with the parent")?;
    let world = World::new(&settings.root);
    std::thread::scope(|scope| {
        let running: Vec<_> = threads
            .map(|thread| {
                let world = &world;
                scope.spawn(move || work(settings, shared, world, thread))
            })
            .collect();
        for thread in running {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}

/// One thread, from its first operation to its last.
fn work(settings: &Settings, shared: &Shared, world: &World, thread: u32) -> Result<()> {
    let mut trace = settings
        .trace
        .as_deref()
        .map(|path| open_trace(path, thread))
        .transpose()?;
    let per_round = per_round(settings);
    for index in 0..settings.operations {
        if let Some((kind, random)) = settings.choice.operation(settings.seed, thread, index) {
            let mut step = Step::new(world, random, thread, index);
            let began = now();
            let done = (kind.act)(&mut step);
            let ended = now();
            let error = done.map_or_else(rustix::io::Errno::raw_os_error, |()| 0);
            let number = KINDS.iter().position(|other| other.name == kind.name);
            shared.count(number.unwrap_or(0), error);
            if let Some(trace) = &mut trace {
                let said = &step.said;
                let outcome = if error == 0 {
                    "ok".into()
                } else {
                    error_name(error)
                };
                writeln!(
                    trace,
                    "{thread} {index} {}{said}: {outcome} [{began} {ended}]",
                    kind.name
                )
                .context("write the trace")?;
            }
        }
        if (index + 1) % per_round == 0 || index + 1 == settings.operations {
            if let Some(trace) = &mut trace {
                trace.flush().context("write the trace")?;
            }
            shared.arrive(index / per_round);
        }
    }
    Ok(())
}

fn open_trace(path: &Path, thread: u32) -> Result<BufWriter<File>> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("-{thread}"));
    let file = File::create(&name).with_context(|| format!("create trace {}", Path::new(&name).display()))?;
    Ok(BufWriter::new(file))
}

/// Microseconds on a clock that all processes share.
fn now() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

/// `ENOENT`, as far as this is one of those that are common here.
fn error_name(error: i32) -> String {
    let name = match error {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::ETXTBSY => "ETXTBSY",
        libc::EFBIG => "EFBIG",
        libc::ENOSPC => "ENOSPC",
        libc::ESPIPE => "ESPIPE",
        libc::ERANGE => "ERANGE",
        libc::ELOOP => "ELOOP",
        libc::ENODATA => "ENODATA",
        libc::ENOTEMPTY => "ENOTEMPTY",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::E2BIG => "E2BIG",
        libc::EXDEV => "EXDEV",
        other => return format!("error-{other}"),
    };
    name.into()
}
