//! `replayer history`: what a path named, since when, and every change of that. The whole journal is read, metadata only, and told as it is
//! read; memory follows the number of inodes and names.

use std::io::{self, BufWriter, Write};

use anyhow::{Context, Result};
use journal::fold::State;
use journal::record::{Entry, InodeKey, Op, Record, SnapshotScope};
use journal::{Journal, Projection, RowRef};
use serde_json::{Value, json};

use super::tree::Names;
use crate::cli::HistoryArgs;
use crate::exit::{Exit, failure};
use crate::media::Media;
use crate::output::{Format, escape, utc};
use crate::spill;

/// Runs `replayer history`.
pub(crate) fn run(args: &HistoryArgs, format: Format) -> Result<Exit> {
    let path = Names::of(&args.path)?;
    let media = Media::open(&args.media)?;
    let journals = media.journals_of(args.volume.as_deref())?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut events = 0_u64;
    if format == Format::Json {
        out.write_all(b"[")?;
    }
    let mut tell = |event: &Event<'_>| -> Result<()> {
        match format {
            Format::Json => write!(out, "{}{}", if events == 0 { "" } else { ",\n" }, event.json()),
            Format::Text if args.json_lines => writeln!(out, "{}", event.json()),
            Format::Text => writeln!(out, "{}", event.text()),
        }
        .context("write the history")?;
        events += 1;
        Ok(())
    };
    let told = journals.iter().try_for_each(|journal| {
        crate::media::check_chain(journal)?;
        Follower::new(&path).follow(journal, &mut tell)
    });
    told.map_err(|error| crate::damage::explain(error, journals))?;
    if format == Format::Json {
        out.write_all(b"]\n")?;
    }
    out.flush().context("write the history")?;
    if events == 0 {
        let path = path.text();
        return Err(failure(
            Exit::Failed,
            format!("{path}: the journal knows no such name at any moment"),
        ));
    }
    Ok(Exit::Ok)
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// From here the path leads to the inode.
    Names(InodeKey),
    /// From here it leads nowhere.
    NamesNothing,
    /// The inode changed.
    Changes,
}

struct Event<'a> {
    epoch: u64,
    record: &'a Record,
    what: What,
    /// Of the inode afterwards, if there is one.
    size: Option<u64>,
}

impl Event<'_> {
    fn what(&self) -> String {
        match self.what {
            What::Names(key) => format!("names inode {}/{} from here", key.ino, key.generation),
            What::NamesNothing => "names nothing from here".to_owned(),
            What::Changes => match &self.record.op {
                Op::Write { offset, length, .. } => format!("{length} bytes at {offset}"),
                Op::Fallocate { mode, offset, length } => {
                    format!("mode {mode:#x}, {length} bytes at {offset}")
                }
                Op::Clone { offset, length, .. } => format!("{length} bytes at {offset}"),
                Op::SetXattr { name, .. } | Op::RemoveXattr { name } => escape(name),
                Op::Snapshot { .. } => "read again, as found".to_owned(),
                _ => String::new(),
            },
        }
    }

    fn text(&self) -> String {
        let Self {
            epoch, record, size, ..
        } = self;
        let (time, op) = (utc(record.time_ns), journal::op_name(&record.op));
        let size = size.map_or_else(|| "-".to_owned(), |size| size.to_string());
        let actor = &record.actor;
        let who = if record.from_snapshot {
            "(found)".to_owned()
        } else {
            format!("{}[{}] uid {}", escape(&actor.comm), actor.tgid, actor.uid)
        };
        let line = format!(
            "epoch {epoch} seq {:>9} {time:<30} {op:<14} size {size:>10} {who:<28} {}",
            record.seq,
            self.what()
        );
        line.trim_end().to_owned()
    }

    fn json(&self) -> Value {
        let mut row = crate::dump::row_json(self.epoch, self.record, false);
        if let Some(row) = row.as_object_mut() {
            row.insert("size_after".to_owned(), json!(self.size));
            match self.what {
                What::Names(key) => {
                    row.insert(
                        "names".to_owned(),
                        json!(format!("{}/{}", key.ino, key.generation)),
                    );
                }
                What::NamesNothing => {
                    row.insert("names".to_owned(), Value::Null);
                }
                What::Changes => {}
            }
        }
        row
    }
}

/// Follows a path through a journal.
struct Follower<'a> {
    path: &'a Names,
    state: State,
    /// What the path led through when that was last looked at: from the root as far as there are names.
    way: Vec<InodeKey>,
    /// What it leads to.
    target: Option<InodeKey>,
    /// A base is being stated: what is not there may be yet to come.
    is_in_base: bool,
}

impl<'a> Follower<'a> {
    fn new(path: &'a Names) -> Self {
        Self {
            path,
            state: State::without_content(),
            way: Vec::new(),
            target: None,
            is_in_base: false,
        }
    }

    fn follow(mut self, journal: &Journal, tell: &mut impl FnMut(&Event<'_>) -> Result<()>) -> Result<()> {
        for segment in journal.segments() {
            for item in segment.records(Projection::Metadata)? {
                let (row, record) = item?;
                if let Some((what, size)) = self.step(row, &record) {
                    tell(&Event {
                        epoch: segment.manifest.epoch,
                        record: &record,
                        what,
                        size,
                    })?;
                }
                spill::check()?;
            }
        }
        Ok(())
    }

    /// Applies a record, and says what it means for the path.
    fn step(&mut self, row: RowRef, record: &Record) -> Option<(What, Option<u64>)> {
        let touches = self.touches(record);
        spill::within(|| self.state.apply(row, record));
        match record.op {
            Op::BaseBegin { .. } => self.is_in_base = true,
            Op::BaseEnd { .. } => self.is_in_base = false,
            _ => {}
        }
        let before = self.target;
        if let Some(is_settled) = touches {
            let found = self.resolve();
            // While a directory is stated again its names are away, and come back.
            if found.is_some() || (is_settled && !self.is_in_base) {
                self.target = found;
            }
        }
        let size = |key| self.state.inode(key).map(|inode| inode.size);
        match (before, self.target) {
            (before, Some(now)) if before != Some(now) => Some((What::Names(now), size(now))),
            (Some(_), None) => Some((What::NamesNothing, None)),
            (_, Some(now)) if now == record.inode && is_change(record) => Some((What::Changes, size(now))),
            _ => None,
        }
    }

    /// Whether a record may lead the path elsewhere, and whether it is then known where, or is about to be.
    fn touches(&self, record: &Record) -> Option<bool> {
        let is_on_the_way = |entry: &Entry| {
            let mut steps = self.way.iter().zip(self.path.iter());
            steps.any(|(directory, name)| *directory == entry.parent && name == entry.name)
        };
        let settled = |is_it: bool, is_settled| is_it.then_some(is_settled);
        match &record.op {
            Op::Create { entry, .. }
            | Op::Link { entry, .. }
            | Op::Unlink { entry, .. }
            | Op::Rmdir { entry, .. } => settled(is_on_the_way(entry), true),
            Op::Rename { from, to, .. } | Op::Exchange { from, to, .. } => {
                settled(is_on_the_way(from) || is_on_the_way(to), true)
            }
            Op::SnapshotEntry { entry } => settled(is_on_the_way(entry), false),
            Op::Snapshot {
                scope: SnapshotScope::Whole,
                ..
            } => settled(self.way.contains(&record.inode), false),
            Op::SnapshotEnd { .. } => settled(self.way.contains(&record.inode), true),
            Op::BaseBegin { .. } => Some(false),
            Op::BaseEnd { .. } => Some(true),
            Op::Evict => settled(self.way.contains(&record.inode), true),
            _ => None,
        }
    }

    /// What the path leads to now; keeps the way there.
    fn resolve(&mut self) -> Option<InodeKey> {
        self.way.clear();
        let mut at = self.state.root()?;
        self.way.push(at);
        for name in self.path.iter() {
            at = *self.state.inode(at)?.entries.get(name)?;
            self.way.push(at);
        }
        Some(at)
    }
}

/// Whether a record about an inode changes it: what a snapshot states is told by its first record.
fn is_change(record: &Record) -> bool {
    match record.op {
        Op::Snapshot { .. } => true,
        Op::SnapshotEnd { .. } | Op::SnapshotEntry { .. } | Op::BaseBegin { .. } | Op::BaseEnd { .. } => {
            false
        }
        _ => !record.from_snapshot,
    }
}
