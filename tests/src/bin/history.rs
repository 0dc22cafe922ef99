//! Makes up a journal, and the tree that a restore of it has to give: for `cargo xtask bench`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tests::history::{self, Shape};

/// Makes up a volume's past: its journal, and its tree at the end. What was made is told on stdout, as JSON.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Empty directory that becomes the medium
    #[arg(long)]
    medium: PathBuf,
    /// Make the tree here, too
    #[arg(long)]
    tree: Option<PathBuf>,
    /// Small files
    #[arg(long, default_value_t = 100_000)]
    files: u64,
    /// Size of the largest small file; the smallest has a 64th of that
    #[arg(long, default_value_t = 16 << 10, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    small_bytes_max: u64,
    /// Bytes of all large files together
    #[arg(long, default_value_t = 4 << 30)]
    large_bytes: u64,
    /// How often every byte is overwritten
    #[arg(long, default_value_t = 5)]
    overwrites: u64,
    /// Most bytes of one record of a large file, a multiple of 64
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    piece_bytes_max: u64,
    /// In which order files are overwritten
    #[arg(long, value_enum, default_value_t = Order::Rounds)]
    order: Order,
    /// Compress the written data as one stream, too, at level 1, and tell what comes out
    #[arg(long)]
    zstd: bool,
    /// The same seed makes the same past
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// In which order files are overwritten.
#[derive(Clone, Copy, ValueEnum)]
enum Order {
    /// All of them once, then all of them again
    Rounds,
    /// Any version of one among any version of another
    Mixed,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("history: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let &Arguments {
        ref medium,
        ref tree,
        files,
        small_bytes_max,
        large_bytes,
        overwrites,
        piece_bytes_max,
        order,
        zstd,
        seed,
    } = arguments;
    let shape = Shape {
        files,
        small_bytes_max,
        large_bytes,
        overwrites,
        piece_bytes_max: piece_bytes_max - piece_bytes_max % 64,
        order: match order {
            Order::Rounds => history::Order::Rounds,
            Order::Mixed => history::Order::Mixed,
        },
        seed,
    };
    let made = history::make(&shape, medium, tree.as_deref(), zstd)?;
    println!(
        "{}",
        serde_json::to_string(&made).context("encode what was made")?
    );
    Ok(())
}
