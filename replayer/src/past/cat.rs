//! `replayer cat`: what was in a file.

use std::io::{self, Write};

use anyhow::{Context, Result};

use super::content::Content;
use super::tree::{Names, Tree};
use crate::cli::{CatArgs, MomentArgs};
use crate::exit::{Exit, failure};
use crate::media::Media;
use crate::output::{Format, escape};
use crate::restore::plan::Kind;

/// Bytes that are gathered before they are written: rows of one file may lie anywhere in the journal.
const RUN_BYTES: u64 = 32 << 20;

/// Runs `replayer cat`. The content goes to stdout as it is, whatever the format of errors.
pub(crate) fn run(args: &CatArgs, format: Format) -> Result<Exit> {
    let MomentArgs { past, at } = &args.moment;
    crate::media::parse_at(at.as_deref())?;
    if format == Format::Json {
        return Err(failure(
            Exit::Usage,
            "cat writes content as it is: --json has no meaning for it",
        ));
    }
    let path = Names::of(&args.path)?;
    let media = Media::open(&past.media)?;
    let tree = Tree::at(&media, past, at.as_deref())?;
    let node = tree.lookup(&path)?;
    let Some(content) = Content::of(&tree, node) else {
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
    let mut place = 0;
    while place < content.size {
        let length = RUN_BYTES.min(content.size - place);
        buffer.resize(usize::try_from(length).context("a run of the file")?, 0);
        let read = content.read(place, &mut buffer);
        read.map_err(|error| media.explain(past.volume.as_deref(), error))?;
        stdout.write_all(&buffer).context("write the content")?;
        place += length;
    }
    stdout.flush().context("write the content")?;
    Ok(tree.moment.exit())
}
