//! Makes the planned tree in the target: names first, then data in the order of the journal, then attributes.
//!
//! Order matters: data and ownership clear set-id bits and capabilities, so those come after; a directory's times come after
//! everything in it; append-only and immutable flags come last of all. Opens nothing itself: [`Target`] does.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use journal::record::Time;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat,
    ftruncate, linkat, mkdirat, mknodat, removexattr, setxattr, symlinkat, syncfs, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::flags::{self, FLAGS_RESTORABLE, FLAGS_WHEN_EMPTY};
use super::inspect::{list_xattrs, mismatches};
use super::plan::{Kind, Link, Node, NodeIndex, Piece, Plan};
use super::problems::Problems;
use super::target::Target;

/// Makes one planned tree.
pub(crate) struct Materialiser<'a> {
    plan: &'a Plan,
    target: Target,
    /// Nodes that could not be made; what belongs to them is left out.
    absent: Vec<bool>,
    /// The `lost+found` that the target came with, where the journal has one too.
    reused: Option<NodeIndex>,
    /// What could not be restored.
    pub(crate) problems: Problems,
}

/// Errors that concern one thing the target cannot hold; others end the restore.
fn is_refusal(error: Errno) -> bool {
    matches!(
        error,
        Errno::PERM
            | Errno::ACCESS
            | Errno::INVAL
            | Errno::OPNOTSUPP
            | Errno::MLINK
            | Errno::NAMETOOLONG
            | Errno::EXIST
            | Errno::FBIG
            | Errno::OVERFLOW
            | Errno::ILSEQ
    )
}

impl<'a> Materialiser<'a> {
    /// A materialiser for an empty target.
    pub(crate) fn new(plan: &'a Plan, target: Target, problems: Problems) -> Self {
        Self {
            plan,
            target,
            absent: vec![false; plan.nodes.len()],
            reused: None,
            problems,
        }
    }

    /// Makes every name, with empty files of the final size. `step` is called for each node.
    pub(crate) fn make_tree(&mut self, mut step: impl FnMut()) -> Result<()> {
        self.clear_root()?;
        for node in self.plan.indices().skip(1) {
            let parent = self.plan.parent(node);
            if self.reused == Some(node) {
                continue;
            }
            if self.absent[parent as usize] {
                self.absent[node as usize] = true;
                continue;
            }
            let directory = self.target.directory(self.plan, parent)?;
            if let Err(error) = self.make(&directory, node) {
                self.note_or_fail(error, || format!("make {}", self.plan.path(node)))?;
                self.absent[node as usize] = true;
            }
            step();
        }
        self.make_hard_links()
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
            Kind::File { size } => {
                let file = Target::create(directory, name)?;
                if early_flags != 0 {
                    flags::add_flags(&file, early_flags);
                }
                if *size > 0 {
                    ftruncate(&file, *size)?;
                }
                Ok(())
            }
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
        }
    }

    /// The second and further names of files.
    fn make_hard_links(&mut self) -> Result<()> {
        for node in self.plan.indices() {
            for link in self.plan.node(node).links.iter().skip(1) {
                if self.absent[node as usize] || self.absent[link.parent as usize] {
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

    /// Writes one piece of data; `data` is the piece's own bytes.
    pub(crate) fn write(&mut self, piece: &Piece, data: &[u8]) -> Result<()> {
        if self.absent[piece.node as usize] {
            return Ok(());
        }
        let file = self.target.writable(self.plan, piece.node)?;
        file.write_all_at(data, piece.offset).with_context(|| {
            format!(
                "write {} bytes at {} of {}",
                data.len(),
                piece.offset,
                self.plan.path(piece.node)
            )
        })
    }

    /// Owners, modes, extended attributes and times, deepest first; then project ids and file flags; then syncs. Gives what could not be
    /// restored.
    pub(crate) fn finish(mut self, mut step: impl FnMut()) -> Result<Problems> {
        self.target.close_files();
        for node in self.plan.indices().rev() {
            if !self.absent[node as usize] {
                self.set_attributes(node)?;
            }
            step();
        }
        for node in self.plan.indices().rev() {
            if !self.absent[node as usize] {
                self.set_project(node)?;
                self.set_flags(node)?;
            }
        }
        let root = self.target.readable(self.plan, Plan::ROOT)?;
        syncfs(&root).context("sync the target")?;
        Ok(self.problems)
    }

    fn set_attributes(&mut self, node: NodeIndex) -> Result<()> {
        let handle = self.target.handle(self.plan, node)?;
        let path = super::inspect::proc_path(handle.as_fd());
        let Node {
            kind,
            permissions,
            uid,
            gid,
            atime,
            mtime,
            xattrs,
            ..
        } = self.plan.node(node);
        let owner = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
        if let Err(error) = chownat(&handle, c"", owner.0, owner.1, AtFlags::EMPTY_PATH) {
            self.note_or_fail(error, || {
                format!("set owner {uid}:{gid} of {}", self.plan.path(node))
            })?;
        }
        if !matches!(kind, Kind::Symlink { .. })
            && let Err(error) = chmod(path.as_str(), Mode::from_raw_mode(*permissions))
        {
            self.note_or_fail(error, || {
                format!("set mode {permissions:o} of {}", self.plan.path(node))
            })?;
        }
        for (name, value) in xattrs {
            match setxattr(path.as_str(), name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // A value that fits no attribute block is refused as "no space"; the disk itself being full shows elsewhere.
                Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => self.problems.note(format!(
                    "{}: extended attribute {} ({} bytes) is too large for the target",
                    self.plan.path(node),
                    crate::output::escape(name),
                    value.len()
                )),
                Err(error) => self.note_or_fail(error, || {
                    format!(
                        "set extended attribute {} of {}",
                        crate::output::escape(name),
                        self.plan.path(node)
                    )
                })?,
            }
        }
        let times = Timestamps {
            // Where no access time was ever set the modification time stands for it: the same tree every time.
            last_access: timespec(atime.or(*mtime)),
            last_modification: timespec(*mtime),
        };
        if let Err(error) = utimensat(&handle, c"", &times, AtFlags::EMPTY_PATH) {
            self.note_or_fail(error, || format!("set times of {}", self.plan.path(node)))?;
        }
        for mismatch in mismatches(handle.as_fd(), self.plan.node(node))
            .with_context(|| format!("examine {}", self.plan.path(node)))?
        {
            self.problems
                .note(format!("{}: {mismatch}", self.plan.path(node)));
        }
        Ok(())
    }

    /// Gives files and directories their project id: what is made here has none, but the target's own root may have one.
    fn set_project(&mut self, node: NodeIndex) -> Result<()> {
        let Node {
            kind,
            project: Some(project),
            ..
        } = self.plan.node(node)
        else {
            return Ok(());
        };
        let settable = matches!(kind, Kind::File { .. } | Kind::Directory);
        if !settable || (*project == 0 && node != Plan::ROOT) {
            return Ok(());
        }
        let readable = self.target.readable(self.plan, node)?;
        match flags::set_project(&readable, *project) {
            // A file system without project ids has given everything none.
            Err(Errno::OPNOTSUPP | Errno::INVAL) if *project == 0 => Ok(()),
            Err(error) => self.note_or_fail(error, || {
                format!("set project id {project} of {}", self.plan.path(node))
            }),
            Ok(()) => match flags::project(&readable) {
                Ok(now) if now == *project => Ok(()),
                found => {
                    let path = self.plan.path(node);
                    self.problems.note(format!(
                        "{path}: project id {project} not taken by the target: {found:?}"
                    ));
                    Ok(())
                }
            },
        }
    }

    /// Sets the flags that chattr knows, where the journal states them and they differ.
    fn set_flags(&mut self, node: NodeIndex) -> Result<()> {
        let Node {
            kind,
            file_flags: Some(stated),
            ..
        } = self.plan.node(node)
        else {
            return Ok(());
        };
        let wanted = stated & FLAGS_RESTORABLE;
        if wanted == 0 || !matches!(kind, Kind::File { .. } | Kind::Directory) {
            return Ok(());
        }
        let readable = self.target.readable(self.plan, node)?;
        match flags::set_flags(&readable, wanted) {
            Ok(now) if now == wanted => {}
            Ok(now) => self.problems.note(format!(
                "{}: file flags {wanted:#x} not taken by the target: it has {now:#x}",
                self.plan.path(node),
            )),
            Err(error) => self.note_or_fail(error, || {
                format!("set file flags {wanted:#x} of {}", self.plan.path(node))
            })?,
        }
        Ok(())
    }

    /// A refusal becomes a problem, listed; any other error ends the restore.
    fn note_or_fail(&mut self, error: Errno, what: impl FnOnce() -> String) -> Result<()> {
        if !is_refusal(error) {
            return Err(std::io::Error::from(error)).with_context(what);
        }
        let why = if error == Errno::OPNOTSUPP {
            "not supported by the target".to_owned()
        } else {
            error.to_string()
        };
        let what = what();
        self.problems.note(format!("could not {what}: {why}"));
        Ok(())
    }
}

/// A time for the kernel; one that is not known is left alone.
fn timespec(time: Option<Time>) -> Timespec {
    match time {
        Some(Time { sec, nsec }) => Timespec {
            tv_sec: sec,
            tv_nsec: nsec.into(),
        },
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
    }
}
