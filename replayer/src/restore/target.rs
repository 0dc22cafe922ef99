//! The target directory, and the only place that opens paths in it.
//!
//! Names come from media that anyone may have written, and other processes may be at work in the target. So every path is
//! resolved by openat2 below the directory that was opened at the start, without symbolic links, magic links or mount points;
//! and new names are made by single components in directories opened that way. Nothing here can touch a path outside.
//!
//! Paths are resolved in parts below PATH_MAX, so that trees deeper than that work; the number of open descriptors is bounded.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use super::plan::{NodeIndex, Plan};
use crate::output::escape;

/// Longest relative path given to the kernel at once, in bytes; below PATH_MAX (4096 with the NUL).
const PATH_PART_BYTES_MAX: usize = 4000;
/// Directories kept open.
const DIRECTORIES_OPEN_MAX: usize = 64;
/// Regular files kept open for writing.
const FILES_OPEN_MAX: usize = 256;

/// How every path below the target is resolved.
pub(crate) const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// The few things last used, newest last. Linear: the bound is small.
struct Recent<T> {
    items: Vec<(NodeIndex, T)>,
    items_max: usize,
}

impl<T: Clone> Recent<T> {
    fn new(items_max: usize) -> Self {
        Self {
            items: Vec::with_capacity(items_max),
            items_max,
        }
    }

    fn get(&mut self, node: NodeIndex) -> Option<T> {
        let position = self.items.iter().rposition(|(key, _)| *key == node)?;
        let item = self.items.remove(position);
        let value = item.1.clone();
        self.items.push(item);
        Some(value)
    }

    fn drop(&mut self, node: NodeIndex) {
        self.items.retain(|(key, _)| *key != node);
    }

    fn put(&mut self, node: NodeIndex, value: T) {
        if self.items.len() >= self.items_max {
            self.items.remove(0);
        }
        self.items.push((node, value));
    }
}

/// The directory that becomes the root of the restored tree.
pub(crate) struct Target {
    root: Rc<OwnedFd>,
    directories: Recent<Rc<OwnedFd>>,
    files: Recent<Rc<File>>,
}

impl Target {
    /// Opens the target. The operator's own path may lead through symbolic links; nothing below it may.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let root = openat(
            CWD,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .with_context(|| format!("open target directory {}", path.display()))?;
        match openat2(
            &root,
            c".",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            RESOLVE,
        ) {
            Ok(_) => {}
            Err(Errno::NOSYS) => {
                bail!("this kernel has no openat2 (Linux 5.6 or newer is needed to restore safely)")
            }
            Err(error) => {
                return Err(error).with_context(|| format!("open target directory {}", path.display()));
            }
        }
        let root = Rc::new(root);
        Ok(Self {
            root,
            directories: Recent::new(DIRECTORIES_OPEN_MAX),
            files: Recent::new(FILES_OPEN_MAX),
        })
    }

    /// The root of the target (O_PATH).
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The nearest open directory from `node` upwards, and the directories below it down to `node`, the deepest first.
    fn nearest(&mut self, plan: &Plan, node: NodeIndex) -> (Rc<OwnedFd>, Vec<NodeIndex>) {
        let (mut at, mut missing) = (node, Vec::new());
        loop {
            if at == Plan::ROOT {
                return (Rc::clone(&self.root), missing);
            }
            if let Some(fd) = self.directories.get(at) {
                return (fd, missing);
            }
            missing.push(at);
            at = plan.parent(at);
        }
    }

    /// A directory of the tree (O_PATH), which must have been made.
    pub(crate) fn directory(&mut self, plan: &Plan, node: NodeIndex) -> Result<Rc<OwnedFd>> {
        let (mut base, mut missing) = self.nearest(plan, node);
        // From the nearest open ancestor downwards, as many components at a time as a path may have.
        while let Some(&first) = missing.last() {
            let mut path = Vec::new();
            let mut reached = first;
            while let Some(&next) = missing.last() {
                let name = plan.name(next);
                if !path.is_empty() && path.len() + 1 + name.len() > PATH_PART_BYTES_MAX {
                    break;
                }
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                reached = next;
                missing.pop();
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = openat2(&base, path.as_slice(), flags, Mode::empty(), RESOLVE)
                .with_context(|| format!("open directory {}", plan.path(reached)))?;
            base = Rc::new(fd);
            self.directories.put(reached, Rc::clone(&base));
        }
        Ok(base)
    }

    /// The directory that holds the first name of `node`; the root's own is the root.
    pub(crate) fn parent(&mut self, plan: &Plan, node: NodeIndex) -> Result<Rc<OwnedFd>> {
        self.directory(plan, plan.parent(node))
    }

    /// A node by its first name, only as a handle (O_PATH): nothing is opened behind a device, pipe or link.
    pub(crate) fn handle(&mut self, plan: &Plan, node: NodeIndex) -> Result<Rc<OwnedFd>> {
        if plan.is_directory(node) {
            return self.directory(plan, node);
        }
        let parent = self.parent(plan, node)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat2(&parent, plan.name(node), flags, Mode::empty(), RESOLVE)
            .with_context(|| format!("open {}", plan.path(node)))?;
        Ok(Rc::new(fd))
    }

    /// Opens a regular file or directory of the tree for reading: for the calls that refuse handles.
    pub(crate) fn readable(&mut self, plan: &Plan, node: NodeIndex) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = if node == Plan::ROOT {
            openat2(&self.root, c".", flags, Mode::empty(), RESOLVE)
        } else {
            openat2(
                self.parent(plan, node)?,
                plan.name(node),
                flags,
                Mode::empty(),
                RESOLVE,
            )
        };
        opened.with_context(|| format!("open {}", plan.path(node)))
    }

    /// A regular file of the tree, for writing; stays open until others push it out.
    pub(crate) fn writable(&mut self, plan: &Plan, node: NodeIndex) -> Result<Rc<File>> {
        if let Some(file) = self.files.get(node) {
            return Ok(file);
        }
        let parent = self.parent(plan, node)?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat2(&parent, plan.name(node), flags, Mode::empty(), RESOLVE)
            .with_context(|| format!("open {} for writing", plan.path(node)))?;
        // Somebody may have put a device in its place.
        let kind = FileType::from_raw_mode(fstat(&fd).context("look at a file of the target")?.st_mode);
        if kind != FileType::RegularFile {
            bail!("{} is no regular file any more", plan.path(node));
        }
        let file = Rc::new(File::from(fd));
        self.files.put(node, Rc::clone(&file));
        Ok(file)
    }

    /// Makes a new regular file, and opens it for writing. The inner error is what the file system says of that one file.
    pub(crate) fn create_file(&mut self, plan: &Plan, node: NodeIndex) -> Result<Result<File, Errno>> {
        let (mut base, mut missing) = self.nearest(plan, plan.parent(node));
        let below: usize = missing.iter().map(|node| plan.name(*node).len() + 1).sum();
        if below + plan.name(node).len() > PATH_PART_BYTES_MAX {
            (base, missing) = (self.parent(plan, node)?, Vec::new());
        }
        // One walk for directory and file: the kernel keeps it below, without links, just as in two.
        let mut path = Vec::with_capacity(below + plan.name(node).len());
        for directory in missing.into_iter().rev() {
            path.extend_from_slice(plan.name(directory));
            path.push(b'/');
        }
        path.extend_from_slice(plan.name(node));
        Ok(Self::create(&base, &path).map(File::from))
    }

    /// Makes and opens a new regular file; `path` leads there from `base`.
    pub(crate) fn create(base: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(base, path, flags, Mode::from_raw_mode(0o600), RESOLVE)
    }

    /// Keeps a file open that was made, to be written to again.
    pub(crate) fn keep(&mut self, node: NodeIndex, file: Rc<File>) {
        self.files.put(node, file);
    }

    /// Lets go of a file that is complete.
    pub(crate) fn close(&mut self, node: NodeIndex) {
        self.files.drop(node);
    }

    /// What lies in the root of the target: names, at most `names_max`, without `lost+found` if that is an empty directory.
    /// The second value says whether that is there.
    pub(crate) fn occupants(&self, names_max: usize) -> Result<(Vec<String>, bool)> {
        let mut names = Vec::new();
        let mut lost_and_found = false;
        for name in list(self.root(), c".")? {
            if name == b"lost+found" && list(self.root(), c"lost+found").is_ok_and(|inside| inside.is_empty())
            {
                lost_and_found = true;
            } else if names.len() < names_max {
                names.push(escape(&name));
            }
        }
        Ok((names, lost_and_found))
    }
}

/// Opens a directory behind a handle for reading: for the calls that refuse handles.
pub(crate) fn reopen_directory(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(directory, c".", flags, Mode::empty(), RESOLVE)
        .context("open a directory of the target for reading")
}

/// Names in a directory, without "." and "..": a handful, for the root of a blank target.
fn list(parent: BorrowedFd<'_>, path: &std::ffi::CStr) -> Result<Vec<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd =
        openat2(parent, path, flags, Mode::empty(), RESOLVE).context("open target directory for reading")?;
    let mut names = Vec::new();
    for entry in Dir::new(fd).context("read target directory")? {
        let entry = entry.context("read target directory")?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
