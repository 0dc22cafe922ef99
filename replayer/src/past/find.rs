//! `replayer find`: paths of a moment, by name and type.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use globset::{GlobBuilder, GlobMatcher};
use serde_json::json;

use super::list::{entry, letter};
use super::tree::{Names, Tree};
use crate::cli::{FileType, FindArgs, MomentArgs};
use crate::exit::{Exit, failure};
use crate::media::Media;
use crate::output::{Format, escape};
use crate::spill;

/// Runs `replayer find`.
pub(crate) fn run(args: &FindArgs, format: Format) -> Result<Exit> {
    let MomentArgs { past, at } = &args.moment;
    crate::media::parse_at(at.as_deref())?;
    let path = Names::of(&args.path)?;
    let name = args.name.as_deref().map(matcher).transpose()?;
    let media = Media::open(&past.media)?;
    let tree = Tree::at(&media, past, at.as_deref())?;
    let from = tree.lookup(&path)?;
    let mut text = String::new();
    let document = spill::within(|| {
        let mut entries = Vec::new();
        tree.walk(from, &path, |path, node| {
            let node = tree.plan().node(node);
            let own = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let fits = name
                .as_ref()
                .is_none_or(|name| name.is_match(OsStr::from_bytes(own)))
                && args
                    .file_type
                    .is_none_or(|wanted| wanted.letter() == letter(&node.kind));
            if fits {
                match format {
                    Format::Text => {
                        text.push_str(&escape(path));
                        text.push('\n');
                    }
                    Format::Json => entries.push(entry(path, node)),
                }
            }
        });
        json!({ "point": tree.moment.point.json(), "entries": entries })
    });
    spill::check()?;
    format.result(&text, &document)?;
    Ok(tree.moment.exit())
}

fn matcher(pattern: &str) -> Result<GlobMatcher> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).build();
    glob.map(|glob| glob.compile_matcher())
        .map_err(|error| failure(Exit::Usage, format!("--name: {error}")))
}

impl FileType {
    /// The letter that `ls -l` has for it.
    fn letter(self) -> char {
        match self {
            Self::F => '-',
            Self::D => 'd',
            Self::L => 'l',
            Self::P => 'p',
            Self::S => 's',
            Self::C => 'c',
            Self::B => 'b',
        }
    }
}
