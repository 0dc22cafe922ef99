//! `recorder retention`: its command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use jiff::SignedDuration;

use super::print_result;
use crate::retention::{self, Promises};

/// What can be asked.
#[derive(Subcommand)]
pub(crate) enum RetentionCommand {
    /// Say which media what is promised needs, and which are not needed any more
    Plan(RetentionArgs),
    /// Retire the media that are not needed any more: they are not asked for, and may be labelled anew
    Apply(RetentionArgs),
}

/// What is promised, and where the media are.
#[derive(Args)]
pub(crate) struct RetentionArgs {
    /// Directory where a medium is mounted; all of them, or the newest, whose index tells of the others
    #[arg(long = "medium", required = true, value_name = "DIR")]
    media: Vec<PathBuf>,
    /// Every moment of this time, counted back from the newest record, or from now where that is earlier: 12h, 30d, 8w, 1y
    #[arg(long, value_name = "DURATION", value_parser = retention::parse_duration)]
    keep_within: Option<SignedDuration>,
    /// The last moment of each day (UTC) of this time, counted in the same way
    #[arg(long, value_name = "DURATION", value_parser = retention::parse_duration)]
    keep_within_daily: Option<SignedDuration>,
    /// The mark of this name, for ever; given once for each
    #[arg(long, value_name = "NAME")]
    keep_mark: Vec<String>,
    /// All marks
    #[arg(long)]
    keep_marks: bool,
}

/// Does it and prints the result; returns the exit code.
///
/// # Errors
/// As what is done.
pub(super) fn run(command: RetentionCommand, json: bool) -> Result<u8> {
    let (args, apply) = match command {
        RetentionCommand::Plan(args) => (args, false),
        RetentionCommand::Apply(args) => (args, true),
    };
    let RetentionArgs {
        media,
        keep_within,
        keep_within_daily,
        keep_mark,
        keep_marks,
    } = args;
    let promises = Promises {
        within: keep_within,
        within_daily: keep_within_daily,
        marks: keep_mark,
        all_marks: keep_marks,
    };
    retention::check(&promises)?;
    let answer = retention::run(&media, &promises, apply)?;
    print_result(json, &answer, &retention::as_text(&answer));
    Ok(0)
}
