//! Makes up a volume's past for benchmarks: its journal on a medium, as the recorder would have written it, and beside it the tree that a
//! restore has to give. The tree is made from the shape and not from the journal, so that the one checks the other.
//!
//! Owns sizes of segments as the recorder has them; what happened is in `story`, which files there are in `shape`.

mod content;
mod shape;
mod story;
mod tree;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use journal::record::{InodeKey, Op, Record};
use journal::store::DirStore;
use journal::{Label, VolumeInfo, Writer};
use serde::Serialize;

pub use shape::{Order, Shape};

use self::content::Content;
use self::story::{End, Story};

const UUID: &str = "6f0cb0f4-0006-4000-8000-000000000001";
/// A segment is sealed at so many bytes, or when records of so many bytes are in it: as in the recorder (`pipeline/limits.rs`).
const SEGMENT_BYTES: u64 = 64 << 20;
const UNSEALED_BYTES_MAX: u64 = 128 << 20;

/// What was made.
#[derive(Debug, Default, Serialize)]
pub struct Made {
    /// Records in the journal.
    pub records: u64,
    /// Bytes of data in these.
    pub written_bytes: u64,
    /// Bytes of segments and manifests.
    pub journal_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of the written data as one stream through zstd at level 1; 0 if that was not asked for.
    pub zstd_bytes: u64,
    /// Names in the tree.
    pub entries: u64,
    /// Bytes of the files in the tree.
    pub tree_bytes: u64,
}

/// Counts bytes.
#[derive(Default)]
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the journal in the directory `medium`, which must be empty, and the tree in `tree`, which is made, where that is asked for.
/// With `zstd` all written data is compressed as one stream, too, and what comes out is counted.
///
/// # Errors
/// What the system says.
pub fn make(shape: &Shape, medium: &Path, tree: Option<&Path>, zstd: bool) -> Result<Made> {
    let content = Content::new(shape.seed);
    let owner = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let (mut made, end) = make_journal(shape, &content, owner, medium, zstd)?;
    let files = 0..shape.all_files();
    made.tree_bytes = files.map(|file| shape.size(file)).sum();
    made.entries = shape.all_files() + shape.directories();
    if let Some(tree) = tree {
        tree::make(shape, &content, &end, tree).context("make the tree")?;
    }
    Ok(made)
}

fn make_journal(
    shape: &Shape,
    content: &Content,
    owner: (u32, u32),
    medium: &Path,
    zstd: bool,
) -> Result<(Made, End)> {
    let store = Arc::new(DirStore::open(medium).with_context(|| format!("open {}", medium.display()))?);
    Label::ensure(&*store, b"made up by the tests: no program", 0).context("label the medium")?;
    let volume = VolumeInfo {
        uuid: UUID.to_owned(),
        fs_type: "ext4".to_owned(),
        block_size: 4096,
        root: InodeKey {
            ino: 2,
            generation: 0,
        },
        mount_path: "/made/up".to_owned(),
        ..VolumeInfo::default()
    };
    let mut writer = Writer::open(store, volume).context("begin the journal")?;
    let mut made = Made::default();
    let mut unsealed_bytes = 0;
    let mut packed = zstd
        .then(|| zstd::Encoder::new(Counter::default(), 1))
        .transpose()
        .context("begin to compress")?;
    let mut push = |record: Record| {
        made.records += 1;
        if let Op::Write { data, .. } = &record.op {
            made.written_bytes += data.len() as u64;
            unsealed_bytes += data.len() as u64;
            if let Some(packed) = &mut packed {
                packed.write_all(data).context("compress")?;
            }
        }
        writer.push(&record).context("write the journal")?;
        if writer.bytes_pending() >= SEGMENT_BYTES || unsealed_bytes >= UNSEALED_BYTES_MAX {
            unsealed_bytes = 0;
            made.seal(&mut writer)?;
        }
        Ok(())
    };
    let end = Story::new(shape, content, owner, &mut push).tell()?;
    made.seal(&mut writer)?;
    if let Some(packed) = packed {
        made.zstd_bytes = packed.finish().context("compress")?.0;
    }
    for entry in std::fs::read_dir(medium.join(UUID)).context("list the journal")? {
        let about = entry.and_then(|entry| entry.metadata());
        made.journal_bytes += about.context("list the journal")?.len();
    }
    Ok((made, end))
}

impl Made {
    fn seal(&mut self, writer: &mut Writer) -> Result<()> {
        self.segments += u64::from(writer.seal().context("seal a segment")?.is_some());
        Ok(())
    }
}
