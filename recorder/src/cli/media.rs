//! `recorder media`: its command line, and which of it is asked of the running recorder.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use journal::Naming;
use serde_json::Value;

use super::{absolute, print_result};
use crate::control::{Client, Request};
use crate::{daemon, key, media, status};

/// What can be done with media.
#[derive(Subcommand)]
pub(crate) enum MediaCommand {
    /// Make an empty, mounted directory a medium: it is named, and gets what explains it
    Label {
        /// Directory where it is mounted
        dir: PathBuf,
        /// What people call it, and what is asked for; without it, the begin of its uuid
        #[arg(long)]
        name: Option<String>,
        /// The set of media that it belongs to: a journal goes on within one
        #[arg(long, default_value = "")]
        pool: String,
        /// For copies of what was written to other media
        #[arg(long)]
        copies: bool,
        /// Remove the journal on a medium that is retired, and label that anew
        #[arg(long)]
        reuse: bool,
        /// The replayer binary to put on it; without it, the one beside this executable
        #[arg(long)]
        replayer: Option<PathBuf>,
    },
    /// What the catalog of this host knows: media, what lies on each, and what can be rebuilt with them
    List,
    /// Look at mounted media and enter what they hold into the catalog
    Scan {
        /// Directories where they are mounted, in any order
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
    },
    /// Read everything on mounted media and compare it with what was sealed
    Verify {
        /// Directories where they are mounted
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
    },
    /// Copy what lies on mounted media, and is not there yet, to a medium for copies
    Copy {
        /// Directory where a medium is mounted; given once for each
        #[arg(long, required = true, value_name = "DIR")]
        from: Vec<PathBuf>,
        /// Directory where the medium for copies is mounted
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Bring everything up to now onto the medium, and end it: when this returns, it may be taken out, and the journal goes on on the next one
    Eject {
        /// Only the volume that holds this path; without it, every recorded volume
        path: Option<PathBuf>,
        /// The medium for copies that is mounted there instead, for every volume that is copied to it
        #[arg(long, value_name = "DIR", conflicts_with = "path")]
        copies: Option<PathBuf>,
    },
    /// Say that a medium is not needed any more
    Retire {
        /// Its name or uuid
        medium: String,
    },
}

/// Does it and prints the result; returns the exit code.
///
/// # Errors
/// As what is done.
pub(super) fn run(command: MediaCommand, json: bool) -> Result<u8> {
    match command {
        MediaCommand::Label {
            dir,
            name,
            pool,
            copies,
            reuse,
            replayer,
        } => {
            let replayer = daemon::replayer(replayer.as_deref())?;
            if reuse {
                media::erase(&dir)?;
            }
            let naming = Naming {
                name,
                pool,
                copies,
                signer: Some(key::own()?),
            };
            let answer = media::label(&dir, &naming, &replayer)?;
            print_result(json, &answer, &called("labelled", &answer));
        }
        MediaCommand::List => {
            let answer = media::list()?;
            print_result(json, &answer, &media::list_as_text(&answer));
        }
        MediaCommand::Scan { dirs } => {
            let answer = media::scan(&dirs)?;
            print_result(json, &answer, &each(&answer, "scanned"));
        }
        MediaCommand::Verify { dirs } => {
            let answer = media::verify(&dirs)?;
            print_result(json, &answer, &each(&answer, "verified"));
        }
        MediaCommand::Copy { from, to } => {
            let answer = media::copy(&from, &to)?;
            let text = format!(
                "{}: {} objects, {}; {} were there",
                called("copied to", &answer),
                answer["objects"],
                status::bytes(answer["bytes"].as_u64().unwrap_or(0)),
                answer["there"]
            );
            print_result(json, &answer, &text);
        }
        MediaCommand::Eject { path, copies } => {
            let answer = Client::connect()?.ask(&Request::Eject {
                path: absolute(path)?,
                copies: absolute(copies)?,
            })?;
            print_result(json, &answer, &status::eject_as_text(&answer));
        }
        MediaCommand::Retire { medium } => {
            let answer = media::retire(&medium)?;
            print_result(json, &answer, &called("retired", &answer));
        }
    }
    Ok(0)
}

fn called(done: &str, medium: &Value) -> String {
    let word = |name: &str| medium[name].as_str().unwrap_or("?").to_owned();
    let uuid = match medium["uuid"].as_str() {
        Some(uuid) => uuid.to_owned(),
        None => word("to"),
    };
    format!("{done} medium {} ({uuid})", word("name"))
}

fn each(answer: &Value, done: &str) -> String {
    let media = answer["media"].as_array().map_or(&[][..], Vec::as_slice);
    let lines: Vec<String> = media.iter().map(|medium| called(done, medium)).collect();
    lines.join("\n")
}
