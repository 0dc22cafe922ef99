//! `replayer cat`: what was in a file.

use std::io::{self, Write};

use anyhow::{Context, Result};

use super::content::Content;
use super::tree::{Names, Tree};
use crate::cli::CatArgs;
use crate::exit::{Exit, failure};
use crate::media::Media;
use crate::output::{Format, escape};
use crate::restore::plan::Kind;

/// Bytes that are gathered before they are written: rows of one file may lie anywhere in the journal.
const RUN_BYTES: u64 = 32 << 20;

/// Runs `replayer cat`. The content goes to stdout as it is, whatever the format of errors.
pub(crate) fn run(args: &CatArgs, format: Format) -> Result<Exit> {
    crate::media::parse_at(args.at.as_deref())?;
    if format == Format::Json {
        return Err(failure(
            Exit::Usage,
            "cat writes content as it is: --json has no meaning for it",
        ));
    }
    let path = Names::of(&args.path)?;
    let media = Media::open(&args.past.media.media)?;
    let (point, tree) = Tree::at(&media, &args.past, args.at.as_deref())?;
    let node = tree.lookup(&path)?;
    let Some(content) = Content::of(&point, &tree, node) else {
        let what = match &tree.plan().node(node).kind {
            Kind::Symlink { target } => format!("a symbolic link to {}", escape(target)),
            Kind::Directory => "a directory".to_owned(),
            _ => "no regular file".to_owned(),
        };
        return Err(failure(
            Exit::Failed,
            format!("{} was {what} at that moment", path.text()),
        ));
    };
    let mut stdout = io::stdout().lock();
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < content.size {
        let length = RUN_BYTES.min(content.size - at);
        buffer.resize(usize::try_from(length).context("a run of the file")?, 0);
        let read = content.read(at, &mut buffer);
        read.map_err(|error| {
            crate::damage::explain(
                error,
                media.journals_of(args.past.volume.as_deref()).unwrap_or_default(),
            )
        })?;
        stdout.write_all(&buffer).context("write the content")?;
        at += length;
    }
    stdout.flush().context("write the content")?;
    Ok(tree.exit())
}
