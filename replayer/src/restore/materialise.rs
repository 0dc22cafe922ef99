//! Makes the planned tree in the target: names first, then files and their data in the order of the journal, then further names of files, then
//! attributes. A file is made when its first data comes, and given its attributes with its last, so that most are opened once.
//!
//! Order matters: data and ownership clear set-id bits and capabilities, so those come after; a directory's times come after
//! everything in it; append-only and immutable flags come last of all. Opens nothing itself: [`Target`] does.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, FileType, Mode, ftruncate, linkat, mkdirat, mknodat, removexattr, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::attributes;
use super::flags::{self, FLAGS_WHEN_EMPTY};
use super::inspect::list_xattrs;
use super::plan::{Kind, Link, Node, NodeIndex, Piece, Plan};
use super::problems::Problems;
use super::target::Target;

/// How far a node has come.
#[derive(Clone, Copy, Default)]
struct Stage {
    /// Pieces of data that are still to come.
    pieces_left: u32,
    is_made: bool,
    /// It could not be made; what belongs to it is left out.
    is_absent: bool,
    has_attributes: bool,
}

/// Makes one planned tree.
pub(crate) struct Materialiser<'a> {
    plan: &'a Plan,
    target: Target,
    /// By node.
    stages: Vec<Stage>,
    /// The `lost+found` that the target came with, where the journal has one too.
    reused: Option<NodeIndex>,
    /// What could not be restored.
    pub(crate) problems: Problems,
}

impl<'a> Materialiser<'a> {
    /// A materialiser for an empty target.
    pub(crate) fn new(plan: &'a Plan, target: Target, problems: Problems) -> Self {
        let mut stages = vec![Stage::default(); plan.nodes.len()];
        for piece in &plan.pieces {
            stages[piece.node as usize].pieces_left += 1;
        }
        Self {
            plan,
            target,
            stages,
            reused: None,
            problems,
        }
    }

    /// Makes every name but those of files that data comes for. `step` is called for each node.
    pub(crate) fn make_tree(&mut self, mut step: impl FnMut()) -> Result<()> {
        self.clear_root()?;
        for node in self.plan.indices().skip(1) {
            step();
            if self.reused == Some(node) {
                continue;
            }
            if self.stage(self.plan.parent(node)).is_absent {
                self.stage(node).is_absent = true;
            } else if matches!(self.plan.node(node).kind, Kind::File { .. }) {
                if self.stage(node).pieces_left == 0
                    && let Some(file) = self.make_file(node, true)?
                {
                    self.complete(node, &file)?;
                }
            } else {
                let directory = self.target.parent(self.plan, node)?;
                if let Err(error) = self.make(&directory, node) {
                    self.refused(error, node)?;
                }
            }
        }
        Ok(())
    }

    fn stage(&mut self, node: NodeIndex) -> &mut Stage {
        &mut self.stages[node as usize]
    }

    /// A node that the target cannot hold is left out; any other error ends the restore.
    fn refused(&mut self, error: Errno, node: NodeIndex) -> Result<()> {
        self.stage(node).is_absent = true;
        self.note_or_fail(error, || format!("make {}", self.plan.path(node)))
    }

    /// Takes from the target's root what a fresh file system or a careful operator left there: default ACLs and inheritable
    /// flags would colour everything made below, and `lost+found` is not ours unless the journal has it.
    fn clear_root(&mut self) -> Result<()> {
        let root = super::inspect::proc_path(self.target.root());
        for name in list_xattrs(&root).context("read extended attributes of the target directory")? {
            let planned = &self.plan.node(Plan::ROOT).xattrs;
            let ours = name.starts_with(b"user.")
                || name.starts_with(b"trusted.")
                || name.starts_with(b"system.posix_acl_");
            if ours && !planned.iter().any(|(planned, _)| *planned == name)
                || name == b"system.posix_acl_default"
            {
                removexattr(root.as_str(), name.as_slice())
                    .context("clear attributes of the target directory")?;
            }
        }
        let readable = self.target.readable(self.plan, Plan::ROOT)?;
        if flags::flags(&readable).is_ok_and(|flags| flags != 0) {
            flags::set_flags(&readable, 0).context("clear file flags of the target directory")?;
        }
        let (_, lost_and_found) = self.target.occupants(0)?;
        self.reused = self.plan.indices().skip(1).find(|node| {
            lost_and_found
                && self.plan.parent(*node) == Plan::ROOT
                && self.plan.name(*node) == b"lost+found"
                && self.plan.is_directory(*node)
        });
        if lost_and_found && self.reused.is_none() {
            unlinkat(self.target.root(), c"lost+found", AtFlags::REMOVEDIR)
                .context("remove empty lost+found of the target")?;
        }
        Ok(())
    }

    fn make(&mut self, directory: &OwnedFd, node: NodeIndex) -> Result<(), Errno> {
        let Node { kind, file_flags, .. } = self.plan.node(node);
        let name = self.plan.name(node);
        let owner_only = Mode::from_raw_mode(0o600);
        let early_flags = file_flags.unwrap_or(0) & FLAGS_WHEN_EMPTY;
        match kind {
            Kind::Directory => mkdirat(directory, name, Mode::from_raw_mode(0o700)).inspect(|()| {
                if early_flags != 0
                    && let Ok(made) = self.target.readable(self.plan, node)
                {
                    flags::add_flags(&made, early_flags);
                }
            }),
            Kind::Symlink { target } => symlinkat(target.as_slice(), directory, name),
            Kind::Fifo => mknodat(directory, name, FileType::Fifo, owner_only, 0),
            Kind::Socket => mknodat(directory, name, FileType::Socket, owner_only, 0),
            Kind::CharDevice { rdev } => {
                mknodat(directory, name, FileType::CharacterDevice, owner_only, *rdev)
            }
            Kind::BlockDevice { rdev } => mknodat(directory, name, FileType::BlockDevice, owner_only, *rdev),
            // Made by `make_file`, which leaves it open.
            Kind::File { .. } => Err(Errno::INVAL),
        }
    }

    /// Makes a file, of its final size where that is wanted; nothing if the target cannot hold it.
    fn make_file(&mut self, node: NodeIndex, sized: bool) -> Result<Option<Rc<File>>> {
        let made = self.target.create_file(self.plan, node)?.and_then(|file| {
            let early_flags = self.plan.node(node).file_flags.unwrap_or(0) & FLAGS_WHEN_EMPTY;
            if early_flags != 0 {
                flags::add_flags(&file, early_flags);
            }
            match self.plan.size(node) {
                size if sized && size > 0 => ftruncate(&file, size).map(|()| file),
                _ => Ok(file),
            }
        });
        match made {
            Ok(file) => {
                self.stage(node).is_made = true;
                Ok(Some(Rc::new(file)))
            }
            Err(error) => self.refused(error, node).map(|()| None),
        }
    }

    /// The second and further names of files.
    fn make_hard_links(&mut self) -> Result<()> {
        for node in self.plan.indices() {
            for link in self.plan.node(node).links.iter().skip(1) {
                if self.stage(node).is_absent || self.stage(link.parent).is_absent {
                    self.problems.note(format!(
                        "{}: hard link not made: its file or directory is not there",
                        self.plan.path_of_link(link)
                    ));
                    continue;
                }
                self.make_hard_link(node, link)?;
            }
        }
        Ok(())
    }

    fn make_hard_link(&mut self, node: NodeIndex, link: &Link) -> Result<()> {
        let from = self.target.parent(self.plan, node)?;
        let to = self.target.directory(self.plan, link.parent)?;
        match linkat(
            &from,
            self.plan.name(node),
            &to,
            link.name.as_slice(),
            AtFlags::empty(),
        ) {
            Ok(()) => Ok(()),
            Err(error) => self.note_or_fail(error, || {
                format!(
                    "link {} to {}",
                    self.plan.path_of_link(link),
                    self.plan.path(node)
                )
            }),
        }
    }

    /// Writes one piece of data; `data` is the piece's own bytes. The first makes the file, the last gives it its attributes.
    pub(crate) fn write(&mut self, piece: &Piece, data: &[u8]) -> Result<()> {
        let node = piece.node;
        let Stage {
            pieces_left,
            is_made,
            is_absent,
            ..
        } = *self.stage(node);
        if is_absent {
            return Ok(());
        }
        let (is_last, is_only) = (pieces_left <= 1, pieces_left <= 1 && !is_made);
        let file = if is_made {
            self.target.writable(self.plan, node)?
        } else {
            // What comes as one piece is as long as that, but for zeros at its end.
            match self.make_file(node, !is_only)? {
                Some(file) => file,
                None => return Ok(()),
            }
        };
        let write = || {
            file.write_all_at(data, piece.offset)?;
            let size = self.plan.size(node);
            if is_only && piece.end() != size {
                file.set_len(size)?;
            }
            std::io::Result::Ok(())
        };
        write().with_context(|| {
            format!(
                "write {} bytes at {} of {}",
                data.len(),
                piece.offset,
                self.plan.path(node)
            )
        })?;
        self.stage(node).pieces_left = pieces_left.saturating_sub(1);
        if is_last {
            self.target.close(node);
            return self.complete(node, &file);
        }
        if !is_made {
            self.target.keep(node, file);
        }
        Ok(())
    }

    /// Attributes of a file that has all its data and is open.
    fn complete(&mut self, node: NodeIndex, file: &File) -> Result<()> {
        self.stage(node).has_attributes = true;
        attributes::set(
            file.as_fd(),
            true,
            self.plan.node(node),
            &mut self.problems,
            || self.plan.path(node),
        )
    }

    /// Further names of files; owners, modes, extended attributes and times of all that has none, deepest first; then project ids and file
    /// flags; then syncs. Gives what could not be restored.
    pub(crate) fn finish(mut self, mut step: impl FnMut()) -> Result<Problems> {
        self.make_hard_links()?;
        for node in self.plan.indices().rev() {
            let Stage {
                is_absent,
                has_attributes,
                ..
            } = *self.stage(node);
            if !is_absent && !has_attributes {
                self.set_attributes(node)?;
            }
            step();
        }
        for node in self.plan.indices().rev() {
            if !self.stage(node).is_absent {
                self.set_last(node)?;
            }
        }
        let root = self.target.readable(self.plan, Plan::ROOT)?;
        syncfs(&root).context("sync the target")?;
        Ok(self.problems)
    }

    fn set_attributes(&mut self, node: NodeIndex) -> Result<()> {
        let handle = self.target.handle(self.plan, node)?;
        attributes::set(
            handle.as_fd(),
            false,
            self.plan.node(node),
            &mut self.problems,
            || self.plan.path(node),
        )
    }

    fn set_last(&mut self, node: NodeIndex) -> Result<()> {
        let is_root = node == Plan::ROOT;
        if !attributes::has_last(self.plan.node(node), is_root) {
            return Ok(());
        }
        let readable = self.target.readable(self.plan, node)?;
        attributes::set_last(
            readable.as_fd(),
            self.plan.node(node),
            is_root,
            &mut self.problems,
            || self.plan.path(node),
        )
    }

    fn note_or_fail(&mut self, error: Errno, what: impl FnOnce() -> String) -> Result<()> {
        attributes::note_or_fail(&mut self.problems, error, what)
    }
}
