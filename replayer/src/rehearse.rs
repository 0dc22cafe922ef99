//! `replayer rehearse`: restores to a scratch place, reads back what was made and compares it with the journal, removes it, and leaves a result that
//! `recorder status` shows. A back-up that was never restored is a hope.
//!
//! Owns the comparison and the result; restoring is `restore`'s. Flags of files and project ids are left out: the first would keep what was made from
//! being removed, the second need a file system that has them.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use journal::store::disk::{self, SystemDisk};
use rustix::fs::{AtFlags, Dir, getxattr, readlinkat, statat};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::cli::RehearseArgs;
use crate::exit::{Exit, integrity};
use crate::media::{Media, Moment};
use crate::output::{Format, escape, human};
use crate::restore::inspect::{list_xattrs, mismatches, proc_path};
use crate::restore::plan::{Kind, NodeIndex, Plan, RowRef};
use crate::restore::problems::Problems;
use crate::restore::target::{Target, reopen_directory};

/// Bytes that are read of a restored file at once.
const READ_BYTES: usize = 1 << 20;
/// Longest value of an extended attribute.
const XATTR_BYTES_MAX: usize = 65536;
/// Where results are left for `recorder status`.
const RESULTS_DIR: &str = "/var/lib/tapeworm/rehearsed";

/// Runs `replayer rehearse`.
pub(crate) fn run(args: &RehearseArgs, format: Format) -> Result<Exit> {
    crate::media::parse_at(args.moment.at.as_deref())?;
    let media = Media::open(&args.moment.past.media)?;
    let volume = match media.journals_of(args.moment.past.volume.as_deref())?.first() {
        Some(journal) => journal.volume().uuid.clone(),
        None => String::new(),
    };
    let began = Instant::now();
    let outcome = rehearse(args, &media);
    let mut document = match &outcome {
        Ok(found) => found.json(),
        Err(error) => json!({ "same": false, "error": format!("{error:#}") }),
    };
    document["volume"] = volume.as_str().into();
    document["time"] = Timestamp::now().to_string().into();
    document["seconds"] = began.elapsed().as_secs().into();
    let result = match &args.result {
        Some(path) => path.clone(),
        None => Path::new(RESULTS_DIR).join(format!("{volume}.json")),
    };
    if let Err(error) = leave(&result, &document) {
        warn!("recorder status will not tell of this: {error:#}");
    }
    let found = outcome?;
    format.result(&found.text(), &document)?;
    if found.differences.count > 0 {
        return Err(integrity(format!(
            "what was restored is not what the journal says: {} differences, the first: {}",
            found.differences.count,
            found.differences.kept.first().map_or("", String::as_str)
        )));
    }
    Ok(found.exit)
}

/// What a rehearsal showed.
struct Found {
    point: Value,
    point_text: String,
    entries: u64,
    bytes: u64,
    differences: Problems,
    exit: Exit,
}

impl Found {
    fn text(&self) -> String {
        let verdict = match self.differences.count {
            0 => "SAME".to_owned(),
            count => format!("DIFFERENT ({count})"),
        };
        format!(
            "{verdict}: {}, {} names, {} of data",
            self.point_text,
            self.entries,
            human(self.bytes)
        )
    }

    fn json(&self) -> Value {
        json!({
            "same": self.differences.count == 0, "point": self.point, "entries": self.entries, "bytes": self.bytes,
            "difference_count": self.differences.count, "differences": self.differences.kept,
        })
    }
}

/// A directory that is removed with all that is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn make(at: &Path) -> Result<Self> {
        let path = at.join(format!("tapeworm-rehearsal-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            warn!("remove {}: {error}; it is of no use any more", self.0.display());
        }
    }
}

fn rehearse(args: &RehearseArgs, media: &Media) -> Result<Found> {
    media.check_labels()?;
    let mut moment = media.moment(&args.moment.past, args.moment.at.as_deref())?;
    for node in &mut moment.folded.plan.nodes {
        (node.file_flags, node.project) = (None, None);
    }
    let scratch = Scratch::make(&args.scratch)?;
    let Moment {
        point,
        folded,
        problems,
    } = moment;
    let exit = if problems.count == 0 {
        Exit::Ok
    } else {
        Exit::Incomplete
    };
    let plan = folded.plan;
    point.check_media(&plan)?;
    let target = Target::open(&scratch.0)?;
    crate::restore::check_space(&plan, &target, &scratch.0)?;
    let made = crate::restore::execute(&plan, target, Problems::default(), |write| {
        point.read_rows(&plan, write)
    })?;
    info!("restored; comparing");
    let mut comparison = Comparison {
        plan: &plan,
        target: Target::open(&scratch.0)?,
        differences: made,
        covered: HashMap::new(),
        next: 0,
    };
    comparison.names()?;
    point.read_rows(&plan, &mut |row, data| comparison.row(row, data))?;
    comparison.zeros()?;
    Ok(Found {
        point: point.json(),
        point_text: point.text(),
        entries: plan.entries(),
        bytes: plan.data_bytes(),
        differences: comparison.differences,
        exit,
    })
}

/// What was made, against what was to be made.
struct Comparison<'a> {
    plan: &'a Plan,
    target: Target,
    differences: Problems,
    /// Ranges of each file that the journal has data for.
    covered: HashMap<NodeIndex, Vec<(u64, u64)>>,
    /// The first piece that is not compared yet.
    next: usize,
}

impl Comparison<'_> {
    /// Every node: its type, attributes, names.
    fn names(&mut self) -> Result<()> {
        let plan = self.plan;
        let mut entries: HashMap<NodeIndex, HashSet<&[u8]>> = HashMap::new();
        for node in plan.indices() {
            self.node(node)
                .with_context(|| format!("compare {}", plan.path(node)))?;
            for link in &plan.node(node).links {
                entries.entry(link.parent).or_default().insert(&link.name);
            }
        }
        for node in plan.indices().filter(|node| plan.is_directory(*node)) {
            let wanted = entries.remove(&node).unwrap_or_default();
            let directory = self.target.directory(plan, node)?;
            let directory = reopen_directory(directory.as_fd())?;
            for entry in Dir::read_from(&directory).context("read a restored directory")? {
                let entry = entry.context("read a restored directory")?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." && !wanted.contains(name) {
                    self.differences
                        .note(format!("{}: there is also {}", plan.path(node), escape(name)));
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, index: NodeIndex) -> Result<()> {
        let node = self.plan.node(index);
        let handle = self.target.handle(self.plan, index)?;
        let mut found = mismatches(handle.as_fd(), node)?;
        let path = proc_path(handle.as_fd());
        if let Kind::Symlink { target } = &node.kind {
            let there = readlinkat(&*handle, c"", Vec::new()).context("read a link")?;
            if there.to_bytes() != target.as_slice() {
                found.push(format!("it leads to {}", escape(there.to_bytes())));
            }
        }
        let mut value = vec![0; XATTR_BYTES_MAX];
        for (name, wanted) in &node.xattrs {
            let there = getxattr(&path, name.as_slice(), &mut value);
            if there.map(|length| value.get(..length)) != Ok(Some(wanted.as_slice())) {
                found.push(format!("its attribute {} is another", escape(name)));
            }
        }
        for name in list_xattrs(&path)? {
            let is_known = node.xattrs.iter().any(|(known, _)| *known == name);
            // What a host puts on every file is none of the journal's.
            if !is_known && !name.starts_with(b"security.") {
                found.push(format!("it also has the attribute {}", escape(&name)));
            }
        }
        let own = rustix::fs::fstat(&*handle).context("look at a restored file")?;
        for link in node.links.iter().skip(1) {
            let parent = self.target.directory(self.plan, link.parent)?;
            let other = statat(&*parent, link.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
            if other.map(|other| other.st_ino) != Ok(own.st_ino) {
                found.push(format!("its name {} leads elsewhere", escape(&link.name)));
            }
        }
        let path = self.plan.path(index);
        found
            .into_iter()
            .for_each(|what| self.differences.note(format!("{path}: {what}")));
        Ok(())
    }

    /// The pieces of a row.
    fn row(&mut self, row: RowRef, data: &[u8]) -> Result<()> {
        let plan = self.plan;
        while let Some(piece) = plan.pieces.get(self.next).filter(|piece| piece.row == row) {
            self.next += 1;
            self.covered
                .entry(piece.node)
                .or_default()
                .push((piece.offset, piece.length.into()));
            let from = usize::try_from(piece.data_offset).unwrap_or(usize::MAX);
            let length = usize::try_from(piece.length).unwrap_or(usize::MAX);
            let wanted = data
                .get(from..from.saturating_add(length))
                .context("a row holds less data than it says")?;
            let file = File::from(self.target.readable(plan, piece.node)?);
            let mut there = vec![0; length];
            let read = file.read_exact_at(&mut there, piece.offset);
            if read.is_err() || there != wanted {
                self.differences.note(format!(
                    "{}: the content from {} on, {length} bytes",
                    plan.path(piece.node),
                    piece.offset
                ));
            }
        }
        Ok(())
    }

    /// What the journal has no data for reads as zeros.
    fn zeros(&mut self) -> Result<()> {
        let plan = self.plan;
        for node in plan.indices() {
            let Kind::File { size } = plan.node(node).kind else {
                continue;
            };
            let mut covered = self.covered.remove(&node).unwrap_or_default();
            covered.sort_unstable();
            let mut at = 0;
            for (from, length) in covered.into_iter().chain([(size, 0)]) {
                if from > at && !self.is_zero(node, at, from)? {
                    self.differences
                        .note(format!("{}: bytes {at} to {from} are no zeros", plan.path(node)));
                }
                at = at.max(from.saturating_add(length));
            }
        }
        Ok(())
    }

    fn is_zero(&mut self, node: NodeIndex, from: u64, to: u64) -> Result<bool> {
        let file = File::from(self.target.readable(self.plan, node)?);
        let mut buffer = vec![0; READ_BYTES];
        let mut at = from;
        while at < to {
            // Holes are not read.
            match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) if data >= to => return Ok(true),
                Ok(data) => at = at.max(data),
                Err(rustix::io::Errno::NXIO) => return Ok(true),
                Err(_) => {}
            }
            let length = usize::try_from(to - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            let part = &mut buffer[..length];
            if file.read_exact_at(part, at).is_err() || part.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += length as u64;
        }
        Ok(true)
    }
}

/// Leaves the result: whole, or the one before stays.
fn leave(path: &Path, document: &Value) -> Result<()> {
    let context = || format!("write {}", path.display());
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(context)?;
    }
    disk::replace(&SystemDisk, path, document.to_string().as_bytes()).with_context(context)
}
