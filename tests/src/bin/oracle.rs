//! The oracle on the command line: `digest` a tree, `compare` two digests.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tests::oracle;

/// Does one tree equal another?
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the digest of a tree, one JSON line per entry
    Digest {
        /// Root of the tree
        directory: PathBuf,
        /// File to write
        #[arg(long)]
        out: PathBuf,
        /// Name directly below the root to leave out
        #[arg(long)]
        exclude: Vec<std::ffi::OsString>,
    },
    /// Compare two digests: exit 0 if they are the same, 1 if not
    Compare {
        /// One digest
        left: PathBuf,
        /// The other
        right: PathBuf,
        /// Compare allocated ranges too
        #[arg(long)]
        holes: bool,
        /// The trees lie on these two file systems: compare only the file flags and project ids that both hold
        #[arg(long, value_name = "FS", num_args = 2)]
        held_by: Vec<String>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(same) => ExitCode::from(u8::from(!same)),
        Err(error) => {
            eprintln!("oracle: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<bool> {
    match command {
        Command::Digest {
            directory,
            out,
            exclude,
        } => {
            let mut writer =
                BufWriter::new(File::create(&out).with_context(|| format!("create {}", out.display()))?);
            let excluded: HashSet<Vec<u8>> = exclude.into_iter().map(OsStringExt::into_vec).collect();
            let (entries, bytes) = oracle::digest(&directory, &excluded, &mut writer)?;
            writer
                .flush()
                .with_context(|| format!("write {}", out.display()))?;
            println!("{entries} entries, {bytes} bytes");
            Ok(true)
        }
        Command::Compare {
            left,
            right,
            holes,
            held_by,
            json,
        } => {
            let mut options = oracle::Options {
                holes,
                ..oracle::Options::default()
            };
            if let [left, right] = held_by.as_slice() {
                options = options.held_by_both(left, right)?;
            }
            let result = oracle::compare(open(&left)?, open(&right)?, options)?;
            if json {
                println!("{}", serde_json::to_string(&result).context("encode result")?);
            } else if result.differing == 0 {
                println!("SAME {} {}", result.entries, result.bytes);
            } else {
                println!(
                    "DIFFERENT {} differences in {} entries",
                    result.differing, result.entries
                );
                for difference in &result.differences {
                    let oracle::Difference {
                        path,
                        field,
                        left,
                        right,
                    } = difference;
                    println!("  {path}: {field}: {left} | {right}");
                }
            }
            Ok(result.differing == 0)
        }
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::new(
        File::open(path).with_context(|| format!("open {}", path.display()))?,
    ))
}
