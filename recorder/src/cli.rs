//! The command line: its shape, and which function answers each command.
//!
//! Owns parsing and the printing of results; what the commands do lives in the daemon, the control client and the doctor.

pub(crate) mod exit;
mod media;
mod retention;
mod say;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::check::Patience;
use crate::control::{Client, Request};
use crate::pipeline::OnFull;
use crate::{config, daemon, doctor, status};

/// Where the service looks for its configuration.
const CONFIG_DEFAULT: &str = "/etc/tapeworm/recorder.toml";

/// Seconds that something may stay behind before it is stale: a segment is sealed every ten, on a medium that is there.
const STALE_S_DEFAULT: u64 = 300;

/// Seconds that a pool for copies may be kept elsewhere before it is stale: a day, and the time that people are late.
const POOL_AWAY_S_DEFAULT: u64 = 26 * 60 * 60;

#[derive(Parser)]
#[command(
    name = "recorder",
    version,
    about = "Records every change of a file system into a journal on a medium"
)]
pub(crate) struct Cli {
    /// One JSON document on standard output instead of text, errors included
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Record the file systems that hold these paths, in the foreground, until interrupted or detached
    Attach(AttachArgs),
    /// Record what the configuration file names, as a service
    Run {
        /// Configuration file (TOML)
        #[arg(long, default_value = CONFIG_DEFAULT)]
        config: PathBuf,
    },
    /// What the running recorder has captured and what is safe on the medium
    Status,
    /// Is everything durable, since when not, and what must be done? Also without a recorder, or with one that does not answer
    ///
    /// Exit codes: 0 all is well, 1 recording does not go on as it should, 10 no recorder runs, 20 a medium is needed, 21 the medium is full,
    /// 31 holes are open, 32 something is not durable for too long.
    Check {
        /// One line as monitoring plugins say it, with their exit codes 0 to 3
        #[arg(long, conflicts_with = "json")]
        nagios: bool,
        /// Seconds that something may stay behind before it is stale
        #[arg(long, default_value_t = STALE_S_DEFAULT, value_parser = clap::value_parser!(u64).range(1..))]
        stale_s: u64,
        /// Seconds that a pool for copies may stay behind while no medium of it is there
        #[arg(long, default_value_t = POOL_AWAY_S_DEFAULT, value_parser = clap::value_parser!(u64).range(1..))]
        pool_away_s: u64,
    },
    /// The state in the text format of Prometheus
    Metrics {
        /// Replace this file with it in one step, for node_exporter's textfile collector
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Name this moment, so that it can be restored
    Mark {
        /// 1 to 255 printable bytes
        name: String,
        /// Only the volume that holds this path; without it, every recorded volume
        #[arg(long)]
        volume: Option<PathBuf>,
    },
    /// Bring everything up to now onto the medium
    Flush {
        /// Return only when it is there and synced
        #[arg(long)]
        wait: bool,
    },
    /// Write the whole state into the journal, made from what is on the media: a restore of a later moment needs nothing from before
    Checkpoint {
        /// Read the volume again first, all of it: then the media before need not be there, and twice the volume's content is written
        #[arg(long)]
        live: bool,
        /// Only the volume that holds this path; without it, every recorded volume
        path: Option<PathBuf>,
    },
    /// The public key of this host, which its media are signed with: keep it elsewhere, for `replayer --trust-key`
    Key,
    /// Label, list, look at, copy and eject media
    Media {
        #[command(subcommand)]
        command: media::MediaCommand,
    },
    /// Which media are needed for what is promised, and which may be used again
    Retention {
        #[command(subcommand)]
        command: retention::RetentionCommand,
    },
    /// Stop recording: flush to the medium, remove the programs from the kernel
    Detach {
        /// Only the volume that holds this path; without it, every recorded volume
        path: Option<PathBuf>,
    },
    /// What this host can record; with a path, prove every hook on its file system
    Doctor {
        /// Attach to the file system that holds this path for a moment and prove every hook there
        path: Option<PathBuf>,
    },
}

/// What to record, whereto.
#[derive(Args, Clone)]
pub(crate) struct AttachArgs {
    /// Paths on the file systems to record
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Directory where a medium is mounted that the journal is written to; given several times, the next one is taken where one is full or ejected
    #[arg(long, required = true, value_name = "DIR")]
    pub(crate) medium: Vec<PathBuf>,
    /// Directory where a medium for copies may be mounted (`media label --copies --pool`); each pool that is found gets a copy of everything that is sealed
    #[arg(long, value_name = "DIR")]
    pub(crate) copies: Vec<PathBuf>,
    /// Directory for the spool; a directory per volume is made in it
    #[arg(long, default_value = config::SPOOL_DEFAULT)]
    pub(crate) spool: PathBuf,
    /// Ring buffer between kernel and recorder, in MiB; a power of two
    #[arg(long, default_value_t = config::RING_MIB_DEFAULT, value_parser = config::parse_ring_mib)]
    pub(crate) ring_mib: u32,
    /// Largest spool of one volume, in MiB
    #[arg(long, default_value_t = config::SPOOL_MIB_DEFAULT, value_parser = clap::value_parser!(u32).range(i64::from(config::SPOOL_MIB_MIN)..))]
    pub(crate) spool_mib: u32,
    /// Time between two barriers, in seconds: each syncs the volume, and after a power cut what was written since the last one is read again
    #[arg(long, default_value_t = config::BARRIER_S_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) barrier_s: u32,
    /// What to do before ring and spool are full
    #[arg(long, value_enum, default_value_t)]
    pub(crate) on_full: OnFull,
    /// Make a checkpoint after so many GiB of journal
    #[arg(long, value_name = "GIB")]
    pub(crate) checkpoint_gib: Option<u32>,
    /// Make a checkpoint after so many hours in which something was written
    #[arg(long, value_name = "HOURS")]
    pub(crate) checkpoint_hours: Option<u32>,
    /// Make a checkpoint before a restore of the newest moment needs more media than this
    #[arg(long, value_name = "N")]
    pub(crate) media_max: Option<u32>,
    /// Make these checkpoints from the live file system: the media before need not be there, and twice the volume's content is written
    #[arg(long)]
    pub(crate) checkpoint_live: bool,
    /// Encrypt the journal to this age recipient (age1..., as age-keygen prints it); given once for each, and this host becomes one, too
    #[arg(long, value_name = "RECIPIENT")]
    pub(crate) recipient: Vec<String>,
    /// Keep nothing on this host that reads what was encrypted: the next recording begins with a whole base, and no checkpoints are made
    #[arg(long, requires = "recipient")]
    pub(crate) write_only: bool,
    /// The replayer binary to put on the medium; without it, the one beside this executable
    #[arg(long)]
    pub(crate) replayer: Option<PathBuf>,
}

/// Parses the command line, does what it says, prints the result, returns the exit code.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli.command, cli.json) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if cli.json {
                print_line(&exit::as_json(&error).to_string());
            }
            eprintln!("recorder: {error:#}");
            ExitCode::from(exit::code_of(&error))
        }
    }
}

/// Prints what clap has to say. Help and version are results; everything else is an error, also as JSON where asked for.
fn usage(error: &clap::Error) -> ExitCode {
    let is_error = error.use_stderr();
    if is_error && std::env::args_os().any(|argument| argument == "--json") {
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default();
        print_line(&exit::as_json(&exit::coded(exit::USAGE, first)).to_string());
    }
    // A closed terminal is no reason to fail differently.
    let _closed = error.print();
    // To whoever reads it as a plugin, 2 is something else.
    let is_plugin = std::env::args_os().any(|argument| argument == "--nagios");
    ExitCode::from(match (is_error, is_plugin) {
        (false, _) => 0,
        (true, false) => exit::USAGE,
        (true, true) => say::UNKNOWN,
    })
}

fn patience(stale_s: u64, pool_away_s: u64) -> Patience {
    Patience {
        stale: Duration::from_secs(stale_s),
        pool_away: Duration::from_secs(pool_away_s),
    }
}

fn run(command: Command, json: bool) -> Result<u8> {
    match command {
        Command::Attach(args) => daemon::run(config::from_arguments(&args)?, daemon::Form::Attach, json),
        Command::Run { config } => daemon::run(config::read(&config)?, daemon::Form::Service, json),
        Command::Status => say::status(json),
        Command::Check {
            nagios,
            stale_s,
            pool_away_s,
        } => say::check(json, nagios, patience(stale_s, pool_away_s)),
        Command::Metrics { out } => say::metrics(json, out.as_deref()),
        Command::Mark { name, volume } => {
            config::check_mark_name(&name)?;
            let answer = Client::connect()?.ask(&Request::Mark {
                name,
                path: absolute(volume)?,
            })?;
            print_result(json, &answer, &status::marks_as_text(&answer));
            Ok(say_holes(&answer))
        }
        Command::Flush { wait } => {
            let answer = Client::connect()?.ask(&Request::Flush { wait })?;
            print_result(json, &answer, &status::flush_as_text(&answer));
            Ok(if wait { say_holes(&answer) } else { 0 })
        }
        Command::Checkpoint { live, path } => {
            let answer = Client::connect()?.ask(&Request::Checkpoint {
                path: absolute(path)?,
                live,
            })?;
            print_result(json, &answer, &status::checkpoint_as_text(&answer));
            Ok(0)
        }
        Command::Retention { command } => retention::run(command, json),
        Command::Key => {
            let key = crate::key::existing()?.public_key();
            let answer =
                serde_json::json!({ "public_key": key.to_string(), "fingerprint": key.fingerprint() });
            print_result(
                json,
                &answer,
                &format!("{key}\nfingerprint {}", key.fingerprint()),
            );
            Ok(0)
        }
        Command::Media { command } => media::run(command, json),
        Command::Detach { path } => {
            let path = absolute(path)?;
            let answer = match Client::connect() {
                Ok(client) => client.ask(&Request::Detach { path })?,
                Err(nobody) => daemon::take_out(path.as_deref(), nobody)?,
            };
            print_result(json, &answer, &status::detach_as_text(&answer));
            Ok(say_holes(&answer))
        }
        Command::Doctor { path } => {
            let report = doctor::examine(path.as_deref());
            print_result(
                json,
                &serde_json::to_value(&report).context("encode report")?,
                &report.as_text(),
            );
            Ok(if report.able { 0 } else { exit::FAILED })
        }
    }
}

/// Says whether the moment of an answer lies within open holes; returns the exit code.
pub(crate) fn say_holes(answer: &Value) -> u8 {
    match status::holes_as_text(answer) {
        Some(text) => {
            eprintln!("{text}");
            exit::HOLE
        }
        None => 0,
    }
}

/// The daemon has another working directory.
fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>> {
    path.map(|path| std::fs::canonicalize(&path).with_context(|| format!("find {}", path.display())))
        .transpose()
}

fn print_result(json: bool, value: &Value, text: &str) {
    if json {
        print_line(&value.to_string());
    } else {
        print_line(text.trim_end());
    }
}

/// One line of result; a reader that went away is no failure of ours.
pub(crate) fn print_line(line: &str) {
    let mut out = std::io::stdout().lock();
    let _closed = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn unknown_options_are_refused() {
        assert!(Cli::try_parse_from(["recorder", "status", "--verbose-please"]).is_err());
        assert!(
            Cli::try_parse_from(["recorder", "attach", "/x"]).is_err(),
            "a medium is needed"
        );
        assert!(
            Cli::try_parse_from(["recorder", "attach", "/x", "--medium", "/m", "--ring-mib", "3"]).is_err()
        );
        assert!(Cli::try_parse_from(["recorder", "check", "--nagios", "--stale-s", "60"]).is_ok());
        assert!(
            Cli::try_parse_from(["recorder", "check", "--nagios", "--json"]).is_err(),
            "one or the other"
        );
        assert!(Cli::try_parse_from(["recorder", "attach", "/x", "/y", "--medium", "/m", "--json"]).is_ok());
    }
}
