//! `replayer keygen`: an identity that an encrypted journal can be read with, as age's own `age-keygen` makes it, where that is not at hand.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};
use journal::Identities;
use serde_json::json;

use crate::cli::KeygenArgs;
use crate::exit::Exit;
use crate::output::Format;

/// Runs `replayer keygen`: the secret goes into a new file that nobody else can read, the recipient is the result.
///
/// # Errors
/// A file that is there already, or cannot be written.
pub(crate) fn run(args: &KeygenArgs, format: Format) -> Result<Exit> {
    let KeygenArgs { file: path } = args;
    let text = Identities::generate();
    let recipient = Identities::parse(&text)?.recipients().join("\n");
    let context = || format!("write the identity {}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(context)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(context)?;
    format.result(
        &format!("{recipient}\n"),
        &json!({ "recipient": recipient, "file": path }),
    )?;
    Ok(Exit::Ok)
}
