//! A tree as a file system shows it: inode numbers, attributes, entries by their place, extended attributes, file flags, and where a file has
//! data. Pure: no input or output, and no data.
//!
//! Memory beside the tree: 12 bytes for each inode.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo};
use journal::record::Time;

use super::super::tree::{Child, Tree};
use crate::restore::plan::{Kind, Node, NodeIndex, Plan};
use crate::spill;

/// Bytes of a block, in which space is counted.
pub(super) const BLOCK_BYTES: u32 = 4096;
/// Bytes of a name.
pub(super) const NAME_BYTES_MAX: u32 = 255;
/// Size that a directory says it has.
const DIRECTORY_BYTES: u64 = 4096;
/// Extended attributes that only root is told of.
const TRUSTED: &[u8] = b"trusted.";

/// What may be asked of a tree without reading data.
pub(super) struct View<'a> {
    pub(super) tree: Tree<'a>,
    /// Of each node: bytes of data, holes left out.
    data_bytes: Vec<u64>,
    /// Of each node: directories in it.
    directories: Vec<u32>,
}

/// An entry of a directory.
pub(super) struct DirEntry<'a> {
    pub(super) name: &'a [u8],
    pub(super) node: NodeIndex,
    /// Where to go on after it.
    pub(super) next: u64,
}

/// Space and inodes, in blocks of [`BLOCK_BYTES`]. Nothing is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) blocks: u64,
    pub(super) inodes: u64,
}

impl<'a> View<'a> {
    pub(super) fn new(tree: Tree<'a>) -> Self {
        let plan = tree.plan();
        let mut data_bytes = spill::within(|| vec![0_u64; plan.nodes.len()]);
        for piece in &plan.pieces {
            data_bytes[piece.node as usize] += u64::from(piece.length);
        }
        let mut directories = spill::within(|| vec![0_u32; plan.nodes.len()]);
        for node in plan.indices() {
            if node != Plan::ROOT && plan.is_directory(node) {
                directories[plan.parent(node) as usize] += 1;
            }
        }
        Self {
            tree,
            data_bytes,
            directories,
        }
    }

    /// The node with an inode number: the root has 1, and each node the one after its index.
    pub(super) fn node_of(&self, ino: INodeNo) -> Result<NodeIndex, Errno> {
        let index = ino.0.checked_sub(1).and_then(|index| u32::try_from(index).ok());
        index
            .filter(|index| (*index as usize) < self.tree.plan().nodes.len())
            .ok_or(Errno::ESTALE)
    }

    /// The inode number of a node.
    pub(super) fn ino_of(&self, node: NodeIndex) -> INodeNo {
        INodeNo(u64::from(node) + 1)
    }

    fn node(&self, node: NodeIndex) -> &Node {
        self.tree.plan().node(node)
    }

    /// What `stat` shows. The journal has no times but of modification and, where it was set, of access: that of change is not restorable.
    pub(super) fn attributes(&self, index: NodeIndex) -> FileAttr {
        let node = self.node(index);
        let mtime = node.mtime.map_or(UNIX_EPOCH, system_time);
        let (mut size, mut rdev) = (0, 0);
        match &node.kind {
            Kind::File { size: bytes } => size = *bytes,
            Kind::Directory => size = DIRECTORY_BYTES,
            Kind::Symlink { target } => size = target.len() as u64,
            Kind::CharDevice { rdev: number } | Kind::BlockDevice { rdev: number } => {
                rdev = kernel_device(*number);
            }
            Kind::Fifo | Kind::Socket => {}
        }
        let nlink = match node.kind {
            // `.`, its own name, and the `..` of each directory in it.
            Kind::Directory => self.directories[index as usize].saturating_add(2),
            _ => u32::try_from(node.links.len()).unwrap_or(u32::MAX),
        };
        FileAttr {
            ino: self.ino_of(index),
            size,
            blocks: self.data_bytes[index as usize].div_ceil(512),
            atime: node.atime.map_or(mtime, system_time),
            mtime,
            ctime: mtime,
            crtime: mtime,
            kind: file_type(&node.kind),
            perm: (node.permissions & 0o7777) as u16,
            nlink,
            uid: node.uid,
            gid: node.gid,
            rdev,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }

    /// What a name in a directory leads to.
    pub(super) fn lookup(&self, directory: NodeIndex, name: &[u8]) -> Result<NodeIndex, Errno> {
        self.check_directory(directory)?;
        if name.len() > NAME_BYTES_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        self.tree.child(directory, name).ok_or(Errno::ENOENT)
    }

    /// The entries of a directory, those of the dots first, from a place on: 0, or what an entry said to go on with.
    pub(super) fn entries(
        &self,
        directory: NodeIndex,
        from: u64,
    ) -> Result<impl Iterator<Item = DirEntry<'_>>, Errno> {
        self.check_directory(directory)?;
        let dots: [Child<'_>; 2] = [
            Child {
                name: b".",
                node: directory,
            },
            Child {
                name: b"..",
                node: self.tree.plan().parent(directory),
            },
        ];
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let children = self
            .tree
            .children(directory)
            .skip(from.saturating_sub(dots.len()));
        let entries = dots.into_iter().skip(from).chain(children);
        Ok((1_u64..).zip(entries).map(move |(number, child)| DirEntry {
            name: child.name,
            node: child.node,
            next: from as u64 + number,
        }))
    }

    fn check_directory(&self, node: NodeIndex) -> Result<(), Errno> {
        if self.tree.plan().is_directory(node) {
            Ok(())
        } else {
            Err(Errno::ENOTDIR)
        }
    }

    /// Where a symbolic link points.
    pub(super) fn link_target(&self, node: NodeIndex) -> Result<&[u8], Errno> {
        match &self.node(node).kind {
            Kind::Symlink { target } => Ok(target),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The value of an extended attribute, or of an ACL.
    pub(super) fn xattr(&self, node: NodeIndex, name: &[u8]) -> Result<&[u8], Errno> {
        let mut xattrs = self.node(node).xattrs.iter();
        xattrs
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_slice())
            .ok_or(Errno::ENODATA)
    }

    /// The names of the extended attributes, each with a NUL behind it. Of trusted ones only root is told, as by any file system.
    pub(super) fn xattr_names(&self, node: NodeIndex, is_root: bool) -> Vec<u8> {
        let mut names = Vec::new();
        for (name, _) in &self.node(node).xattrs {
            if is_root || !name.starts_with(TRUSTED) {
                names.extend_from_slice(name);
                names.push(0);
            }
        }
        names
    }

    /// File flags (`FS_*_FL`) and the project id; 0 where the journal knows none.
    pub(super) fn flags(&self, node: NodeIndex) -> (u32, u32) {
        let node = self.node(node);
        (node.file_flags.unwrap_or(0), node.project.unwrap_or(0))
    }

    /// The next byte from `offset` on that lies in data, or in a hole, as `lseek` with `SEEK_DATA` and `SEEK_HOLE` has it.
    pub(super) fn seek(&self, node: NodeIndex, offset: i64, whence: i32) -> Result<i64, Errno> {
        let Kind::File { size } = self.node(node).kind else {
            return Err(Errno::EINVAL);
        };
        let mut at = u64::try_from(offset)
            .ok()
            .filter(|offset| *offset < size)
            .ok_or(Errno::ENXIO)?;
        let pieces = self.tree.pieces(node);
        let first = pieces.partition_point(|piece| piece.end() <= at);
        let mut pieces = pieces.iter().skip(first);
        match whence {
            libc::SEEK_DATA => at = at.max(pieces.next().ok_or(Errno::ENXIO)?.offset),
            libc::SEEK_HOLE => {
                while let Some(piece) = pieces.next().filter(|piece| piece.offset <= at) {
                    at = piece.end();
                }
            }
            _ => return Err(Errno::EINVAL),
        }
        i64::try_from(at.min(size)).map_err(|_| Errno::EOVERFLOW)
    }

    /// What `statfs` shows.
    pub(super) fn space(&self) -> Space {
        let block = u64::from(BLOCK_BYTES);
        Space {
            blocks: self.data_bytes.iter().map(|bytes| bytes.div_ceil(block)).sum(),
            inodes: self.data_bytes.len() as u64,
        }
    }
}

fn file_type(kind: &Kind) -> FileType {
    match kind {
        Kind::File { .. } => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink { .. } => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice { .. } => FileType::CharDevice,
        Kind::BlockDevice { .. } => FileType::BlockDevice,
    }
}

impl DirEntry<'_> {
    /// Its type, for listings.
    pub(super) fn kind(&self, view: &View<'_>) -> FileType {
        file_type(&view.node(self.node).kind)
    }
}

/// A device number as the kernel's protocol has it: 12 bits of major, 20 of minor; the journal has user space's encoding.
fn kernel_device(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// A time that is out of the range of any clock is taken for the epoch.
fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.sec.unsigned_abs());
    let whole = if time.sec < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    whole
        .and_then(|whole| whole.checked_add(Duration::from_nanos(time.nsec.into())))
        .unwrap_or(UNIX_EPOCH)
}
