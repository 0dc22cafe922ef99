//! replayer: reads tapeworm media, rebuilds the recorded file system, checks and lists the journal. Owns the way from the
//! command line to a command and to the exit code; no behaviour.

mod ahead;
mod cli;
mod cloned;
mod damage;
mod drive;
mod dump;
mod exit;
mod export;
mod keygen;
mod media;
mod output;
mod past;
mod plan;
mod points;
mod progress;
mod rehearse;
mod restore;
mod spill;
#[cfg(test)]
mod sweep;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::exit::Exit;
use crate::output::Format;

fn main() -> ExitCode {
    let exit = match Cli::try_parse() {
        Ok(cli) => run(&cli),
        Err(error) => usage(&error),
    };
    ExitCode::from(exit.code())
}

fn run(cli: &Cli) -> Exit {
    let level = EnvFilter::try_from_env("REPLAYER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
    let format = if cli.json { Format::Json } else { Format::Text };
    command(&cli.command, format).unwrap_or_else(|error| format.error(&error))
}

fn command(command: &Command, format: Format) -> Result<Exit> {
    if let Some(memory) = command.memory() {
        spill::begin(memory, format)?;
    }
    match command {
        Command::Restore(args) => restore::run(args, format),
        Command::Plan(args) => plan::run(args, format),
        Command::Verify(args) => verify::run(args, format),
        Command::Points(args) => points::run(args, format),
        Command::Ls(args) => past::ls(args, format),
        Command::Find(args) => past::find(args, format),
        Command::Cat(args) => past::cat(args, format),
        Command::History(args) => past::history(args, format),
        Command::Diff(args) => past::diff(args, format),
        Command::Rehearse(args) => rehearse::run(args, format),
        Command::Mount(args) => past::mount(args, format),
        Command::Dump(args) => dump::run(args, format),
        Command::Export(args) => export::run(args, format),
        Command::Keygen(args) => keygen::run(args, format),
    }
}

/// The command line is wrong, or asks for help. There is no [`Cli`] yet to say whether JSON is wanted.
fn usage(error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // Help or version: to stdout; a reader that has gone away needs none.
        let _reader_gone = error.print();
        return Exit::Ok;
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        Format::Json.error_message(Exit::Usage, error.to_string().trim_end());
    } else {
        let _reader_gone = error.print();
    }
    Exit::Usage
}
