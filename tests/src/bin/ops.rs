//! Runs the operations of the matrix on the command line, and compares two digests operation by operation.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tests::ops::{self, Cell, FileSystem, Release};
use tests::oracle;

/// Differences that are attributed; beyond it no operation can be said to be the same.
const DIFFERENCES_MAX: usize = 1_000_000;

/// Every way in which a file can change
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Where {
    /// File system of the working directory
    #[arg(long)]
    fs: FileSystem,
    /// Version of the running kernel, as in 6.12
    #[arg(long, value_parser = parse_release)]
    kernel: Release,
}

#[derive(Subcommand)]
enum Command {
    /// Name all operations: family and name, one a line
    List,
    /// Run operations below the working directory, all if none is named, with a mark after each family
    Run {
        #[command(flatten)]
        cell: Where,
        /// File to write a JSON line per operation to
        #[arg(long)]
        out: PathBuf,
        /// Operations
        names: Vec<String>,
    },
    /// Do one operation in the working directory
    One {
        #[command(flatten)]
        cell: Where,
        /// The operation
        name: String,
    },
    /// Compare two digests; one JSON object: which directories below the root differ, and how
    Differ {
        /// One digest
        left: PathBuf,
        /// The other
        right: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ops: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<u8> {
    match command {
        Command::List => {
            for (family, operation) in ops::all() {
                println!("{family} {}", operation.name);
            }
            Ok(0)
        }
        Command::Run {
            cell: Where { fs, kernel },
            out,
            names,
        } => ops::run(Cell { fs, kernel }, &names, &out).map(|()| 0),
        Command::One {
            cell: Where { fs, kernel },
            name,
        } => Ok(ops::one(&name, Cell { fs, kernel })),
        Command::Differ { left, right } => differ(&left, &right).map(|()| 0),
    }
}

/// `6.12` and the like.
fn parse_release(text: &str) -> Result<Release, String> {
    let mut numbers = text.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(format!("{text} is not the version of a kernel")),
    }
}

/// The key is the first component of the path; `.` is the root itself.
fn differ(left: &Path, right: &Path) -> Result<()> {
    let options = oracle::Options {
        differences_max: DIFFERENCES_MAX,
        ..oracle::Options::default()
    };
    let open = |path: &Path| -> Result<BufReader<File>> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(BufReader::new(file))
    };
    let result = oracle::compare(open(left)?, open(right)?, options)?;
    anyhow::ensure!(
        result.differing <= DIFFERENCES_MAX as u64,
        "{} differences are too many to attribute",
        result.differing
    );
    let mut by_directory: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for difference in result.differences {
        let oracle::Difference {
            path,
            field,
            left,
            right,
        } = difference;
        let first = path.split('/').next().unwrap_or_default().to_string();
        by_directory
            .entry(first)
            .or_default()
            .push(format!("{path}: {field}: {left} | {right}"));
    }
    println!(
        "{}",
        serde_json::to_string(&by_directory).context("write differences")?
    );
    Ok(())
}
