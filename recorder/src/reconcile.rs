//! Reconciling after a break: what the journal says of a volume, against what the volume is now.
//!
//! Owns what is in doubt, what counts as different, and why a journal cannot be gone on with. Nothing is read from the volume here; an inode
//! that is neither in doubt nor different in anything that can be seen without its content is as the journal says: every change up to the last
//! barrier was on the disk, and whatever was changed after it is in doubt.
//!
//! Memory: the fold without content, some 300 bytes for each inode, 60 and its length for each name, and the extended attributes. It reads
//! the metadata columns of the epochs that the state rests on, and no data.

mod touched;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use journal::fold::{Inode, State};
use journal::record::{Attributes, Continued, InodeKey};
use journal::store::Store;
use journal::{Head, Identities, Journal, PointKind, Projection, Reader, Span};
use serde::{Deserialize, Serialize};

pub(crate) use touched::Touched;

/// Inodes that are folded at most: some 5 GiB. Beyond, a whole base is taken.
const INODES_MAX: usize = 16 << 20;
/// The file flags that somebody sets; others the file system itself may set as a file grows (`FS_INDEX_FL`, say).
const FLAGS_SET: u32 = 0x0082_c0ff | 0x2003_0000 | 0x4000_0000;
/// XFS shows its ACLs a second time under these names.
const ACL_SHADOWS: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;

/// What is left of a recording that ended with its machine, or was detached.
pub(crate) struct Dead {
    /// The end of its journal on the medium.
    pub(crate) head: Head,
    /// What its spool names that is not in the journal.
    pub(crate) touched: Touched,
    /// The one whose journal its base was to go on from, in case that was not complete.
    pub(crate) before: Option<Box<Self>>,
}

/// An inode as it is now, but for its content.
pub(crate) struct Live {
    /// As a snapshot would state them.
    pub(crate) attributes: Attributes,
    /// Target of a symbolic link.
    pub(crate) link_target: Option<Vec<u8>>,
    /// Extended attributes, ACLs among them.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Names in a directory.
    pub(crate) entries: BTreeMap<Vec<u8>, InodeKey>,
}

/// What was found; for the log and the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Inodes that were looked at.
    pub(crate) looked_at: u64,
    /// Of these, those that the journal did not know, or knew otherwise.
    pub(crate) differed: u64,
    /// Of these, those that were changed since the last barrier, and are read again whatever they look like.
    pub(crate) in_doubt: u64,
    /// Inodes of the journal that are no more.
    pub(crate) gone: u64,
}

/// What the journal says of the volume.
pub(crate) struct Known {
    continued: Continued,
    /// Inodes are taken out as they are met.
    state: State,
    doubt: Touched,
    /// What was found so far.
    pub(crate) found: Found,
}

/// An entry of a directory that is as the journal says.
pub(crate) struct KnownChild {
    pub(crate) key: InodeKey,
    /// Whether it is known not to be a directory.
    pub(crate) is_leaf: bool,
}

impl Known {
    /// Reads what the journal on a medium says of the volume whose root directory this is.
    ///
    /// # Errors
    /// Why it cannot be gone on with.
    pub(crate) fn read(
        (store, identities): (Arc<dyn Store>, &Identities),
        uuid: &str,
        root: InodeKey,
        dead: Dead,
    ) -> Result<Self> {
        let chain = dead.head.chain.clone();
        let reader = Reader::open_with(vec![store], identities).context("read the journal")?;
        let journal = reader
            .volume(Some(uuid))?
            .into_iter()
            .find(|journal| journal.chain() == chain)
            .context("the journal is not where it was a moment ago")?;
        if let Some(problem) = journal.problems().first() {
            bail!("the journal is not whole: {problem}");
        }
        let Dead { head, touched, .. } = with_base(journal, dead)?;
        let continued = Continued {
            epoch: head.epoch,
            seq: head.last_seq,
        };
        let spans = journal.spans_of(u64::MAX, continued)?;
        let mut known = Self {
            continued,
            state: State::without_content(),
            doubt: Touched::default(),
            found: Found::default(),
        };
        for span in &spans {
            known.fold(journal, *span, span.epoch == head.epoch)?;
        }
        known.doubt.end()?;
        known.doubt.add(touched);
        known.touch_later(journal, head.epoch)?;
        ensure!(
            known.state.root() == Some(root),
            "it has another root directory: the volume was made anew"
        );
        Ok(known)
    }

    fn fold(&mut self, journal: &Journal, span: Span, is_last: bool) -> Result<()> {
        // A checkpoint states what was; when that was changed is for the history to tell.
        let is_last = is_last && span.checkpoint.is_none();
        let of_epoch = journal
            .segments()
            .find(|segment| segment.manifest.epoch == span.epoch);
        let first_segment = match of_epoch {
            // What was recorded before the base began leaves doubts as well.
            Some(segment) if is_last => segment.manifest.index,
            _ => span.first_segment,
        };
        let span = Span {
            first_segment,
            ..span
        };
        for segment in journal.segments_of(&span)? {
            for item in segment.records(Projection::State)? {
                let (row, record) = item?;
                if record.seq >= span.base_seq && record.seq <= span.seq {
                    self.state.apply(row, &record);
                }
                if is_last {
                    self.doubt.see(&record);
                }
            }
            ensure!(
                self.state.inodes().len() <= INODES_MAX,
                "the journal knows more than {INODES_MAX} inodes"
            );
        }
        Ok(())
    }

    /// Whatever stands in epochs whose base was never complete is in doubt.
    fn touch_later(&mut self, journal: &Journal, epoch: u64) -> Result<()> {
        for segment in journal
            .segments()
            .filter(|segment| segment.manifest.epoch > epoch)
        {
            for item in segment.records(Projection::State)? {
                self.doubt.see_unsealed(&item?.1)?;
            }
        }
        Ok(())
    }

    /// The end of the epoch that is gone on from.
    pub(crate) fn continued(&self) -> Continued {
        self.continued
    }

    /// Meets an inode, once. Where it is as the journal says, what is in it, if it is a directory; `None` where it is to be stated anew.
    /// `look` is asked for what it is now, unless that does not matter; what cannot be looked at is different.
    pub(crate) fn meet(
        &mut self,
        key: InodeKey,
        look: impl FnOnce() -> std::io::Result<Live>,
    ) -> Option<Vec<KnownChild>> {
        self.found.looked_at += 1;
        let inode = self.state.take(key);
        if self.doubt.contains(key) {
            self.found.in_doubt += 1;
            return None;
        }
        let difference = match inode.as_ref().map(|inode| (inode, look())) {
            None => Some("existence"),
            Some((_, Err(_))) => Some("readability"),
            Some((inode, Ok(live))) => difference(inode, &live),
        };
        if let Some(difference) = difference {
            tracing::debug!("inode {}: {difference} differs from the journal", key.ino);
            self.found.differed += 1;
            return None;
        }
        let children = inode.map(|inode| inode.entries).unwrap_or_default();
        Some(
            children
                .into_values()
                .map(|key| KnownChild {
                    key,
                    is_leaf: self.state.inode(key).is_some_and(|inode| {
                        inode.attributes.mode.is_some_and(|mode| mode & S_IFMT != S_IFDIR)
                    }),
                })
                .collect(),
        )
    }

    /// The inodes that the journal knows and that were not met.
    pub(crate) fn unmet(&self) -> Vec<InodeKey> {
        self.state.inodes().map(|(key, _)| *key).collect()
    }

    /// One of them is no more.
    pub(crate) fn is_gone(&mut self, key: InodeKey) {
        self.state.take(key);
        self.found.gone += 1;
    }
}

/// The newest recording whose base is complete, with all that those after it have touched.
fn with_base(journal: &Journal, mut dead: Dead) -> Result<Dead> {
    let is_complete = |epoch: u64| {
        let mut points = journal.points();
        points.any(|(of, _, point)| of == epoch && point.kind == PointKind::BaseEnd)
            || journal
                .complete_checkpoints()
                .iter()
                .any(|checkpoint| checkpoint.epoch == epoch)
    };
    while !is_complete(dead.head.epoch) {
        let mut before = dead.before.context("its base was not complete")?;
        before.touched.add(dead.touched);
        dead = *before;
    }
    Ok(dead)
}

/// In what an inode differs from what the journal says, as far as that can be seen without its content. Access times are not compared:
/// reading moves them, and setting them moves the change time.
fn difference(known: &Inode, live: &Live) -> Option<&'static str> {
    let Inode {
        attributes,
        size,
        extents: _,
        entries,
        xattrs,
        link_target,
    } = known;
    let Attributes {
        mode,
        uid,
        gid,
        rdev,
        size: _,
        atime: _,
        mtime,
        ctime,
        file_flags,
        project,
    } = attributes;
    let now = &live.attributes;
    let is_file = now.mode.is_some_and(|mode| mode & S_IFMT == S_IFREG);
    // What the journal does not state the file system had no event for.
    let set = |flags: Option<u32>| flags.map(|flags| flags & FLAGS_SET);
    let differs = |known: Option<u32>, now: Option<u32>| known.is_some() && now.is_some() && known != now;
    let named = |xattrs: &BTreeMap<Vec<u8>, Vec<u8>>| -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut named = xattrs.clone();
        named.retain(|name, _| !ACL_SHADOWS.contains(&name.as_slice()));
        named
    };
    [
        (*mode != now.mode, "mode"),
        ((*uid, *gid) != (now.uid, now.gid), "owner"),
        (now.rdev.is_some() && *rdev != now.rdev, "device number"),
        (is_file && Some(*size) != now.size, "size"),
        (*ctime != now.ctime, "change time"),
        (*mtime != now.mtime, "modification time"),
        (differs(set(*file_flags), set(now.file_flags)), "file flags"),
        (differs(*project, now.project), "project"),
        (*link_target != live.link_target, "link target"),
        (*entries != live.entries, "entries"),
        (named(xattrs) != named(&live.xattrs), "extended attributes"),
    ]
    .into_iter()
    .find_map(|(differs, what)| differs.then_some(what))
}

#[cfg(test)]
mod tests;
