//! The generator on the command line: `run` a seed, or show its `plan`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use tests::generator::plan::Choice;
use tests::generator::{self, Settings, plan};

/// Random operations of every kind, by several threads and processes on the same few files
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Execute a run in a new directory, and count what became of its operations
    Run(Run),
    /// Print the operations of a run, `THREAD INDEX KIND` each, without executing any
    Plan(Chosen),
}

#[derive(Args)]
struct Chosen {
    /// What everything is drawn from
    #[arg(long)]
    seed: u64,
    /// Threads in all, two to a process
    #[arg(long, default_value_t = 4)]
    threads: u32,
    /// Operations of each thread
    #[arg(long, default_value_t = 200)]
    ops: u32,
    /// Only the operations that this file names, `THREAD INDEX` on a line
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Only these threads
    #[arg(long, value_delimiter = ',', value_name = "N,N,...")]
    only_threads: Vec<u32>,
    /// Leave out operations of these kinds
    #[arg(long, value_delimiter = ',', value_name = "KIND,KIND,...")]
    skip_ops: Vec<String>,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    chosen: Chosen,
    /// Where the directory of the run is made
    #[arg(long)]
    dir: PathBuf,
    /// Name of that directory, and of the marks (`seed-SEED`, if not given)
    #[arg(long)]
    name: Option<String>,
    /// Let all threads rest after so many operations of each, and call `MARK NAME-NUMBER`
    #[arg(long, value_name = "M")]
    mark_every: Option<u32>,
    /// Write what was done, a file for each thread that is named FILE-THREAD
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

impl Chosen {
    fn choice(self) -> Result<Choice> {
        for skipped in &self.skip_ops {
            ensure!(
                generator::kinds::KINDS.iter().any(|kind| kind.name == skipped),
                "there is no kind of operation {skipped:?}"
            );
        }
        Ok(Choice {
            plan: self.plan.as_deref().map(plan::read).transpose()?,
            only_threads: self.only_threads,
            skip: self.skip_ops,
        })
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run(arguments),
        Command::Plan(chosen) => show(chosen),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("generator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Run) -> Result<()> {
    let Run {
        chosen,
        dir,
        name,
        mark_every,
        trace,
    } = arguments;
    let (seed, threads, operations) = (chosen.seed, chosen.threads, chosen.ops);
    let some = chosen.plan.is_some() || !chosen.only_threads.is_empty() || !chosen.skip_ops.is_empty();
    let name = name.unwrap_or_else(|| format!("seed-{seed}"));
    let tally = generator::run(&Settings {
        seed,
        root: dir.join(&name),
        threads,
        operations,
        marks: mark_every.map(|every| (every, name)),
        choice: chosen.choice()?,
        trace,
    })
    .with_context(|| format!("run seed {seed}"))?;
    for line in tally.lines() {
        println!("{line}");
    }
    let (succeeded, all) = tally.succeeded();
    println!("seed {seed}: {succeeded} of {all} kinds of operations succeeded");
    // A run that was cut down need not have them.
    ensure!(
        some || succeeded * 2 >= all,
        "too few kinds of operations succeeded"
    );
    Ok(())
}

fn show(chosen: Chosen) -> Result<()> {
    let (seed, threads, operations) = (chosen.seed, chosen.threads, chosen.ops);
    let choice = chosen.choice()?;
    for thread in 0..threads {
        for index in 0..operations {
            if let Some((kind, _)) = choice.operation(seed, thread, index) {
                println!("{thread} {index} {}", kind.name);
            }
        }
    }
    Ok(())
}
