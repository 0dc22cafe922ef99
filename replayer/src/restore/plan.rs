//! The plan: the tree to make, checked, and for every row of the journal the bytes of it that are still wanted. Pure: no
//! input or output.
//!
//! The journal is taken as hostile. What leaves this module is a tree: node 0 is the root, every other node has at least one
//! name, the parent of a node stands before it, every directory has exactly one name, every name is a plain file name.
//!
//! Memory: about 200 bytes for each inode plus its names and extended attributes, and 40 bytes for each piece of data (an
//! extent of the result, at most one for each row that still shows). Data is not held. What the fold takes while a plan is made of it is more, and
//! where it lies beyond a bound, is told in [`crate::spill`].

use journal::record::Time;

use crate::output::escape;

/// Index of a [`Node`] in its [`Plan`].
pub(crate) type NodeIndex = u32;

/// A row of the journal, in its order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RowRef {
    /// Index of the segment among those scanned.
    pub(crate) segment: u32,
    /// Row in the segment.
    pub(crate) row: u32,
}

/// What a node is, with what only that type has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Regular file of this size in bytes.
    File {
        /// Bytes.
        size: u64,
    },
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink {
        /// Where it points, raw.
        target: Vec<u8>,
    },
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice {
        /// Device number, `makedev` encoding of user space.
        rdev: u64,
    },
    /// Block device.
    BlockDevice {
        /// Device number, `makedev` encoding of user space.
        rdev: u64,
    },
}

/// One name of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The directory: always a smaller index than any node that this first names.
    pub(crate) parent: NodeIndex,
    /// A plain file name, checked.
    pub(crate) name: Vec<u8>,
}

/// One inode to make.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Type.
    pub(crate) kind: Kind,
    /// Permission bits, with set-id and sticky (`07777`).
    pub(crate) permissions: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Access time, where it was explicitly set.
    pub(crate) atime: Option<Time>,
    /// Modification time.
    pub(crate) mtime: Option<Time>,
    /// `FS_*_FL` flags, where the journal knows them.
    pub(crate) file_flags: Option<u32>,
    /// Project id, where the journal knows it; only files and directories can be given one.
    pub(crate) project: Option<u32>,
    /// Extended attributes with ACLs: full name and value, checked.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its names, none for the root. The first is the one by which it is made; the others are hard links.
    pub(crate) links: Vec<Link>,
}

/// Bytes of one row that are still wanted: where they lie in the row, and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    /// The row that holds them; pieces are sorted by it.
    pub(crate) row: RowRef,
    /// Byte offset in the row's data.
    pub(crate) data_offset: u32,
    /// Which node.
    pub(crate) node: NodeIndex,
    /// Byte offset in the file.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) length: u32,
}

impl Piece {
    /// Byte after its last, in the file.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.length.into())
    }
}

/// What to make.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The tree, parents before children.
    pub(crate) nodes: Vec<Node>,
    /// The data, in the order of the journal.
    pub(crate) pieces: Vec<Piece>,
}

impl Plan {
    /// The root directory.
    pub(crate) const ROOT: NodeIndex = 0;

    /// A node. Indices come from this plan only.
    pub(crate) fn node(&self, node: NodeIndex) -> &Node {
        &self.nodes[node as usize]
    }

    /// All indices, parents before children.
    pub(crate) fn indices(&self) -> impl DoubleEndedIterator<Item = NodeIndex> + use<> {
        0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    /// Whether a node is a directory.
    pub(crate) fn is_directory(&self, node: NodeIndex) -> bool {
        self.node(node).kind == Kind::Directory
    }

    /// Bytes of a regular file; 0 of anything else.
    pub(crate) fn size(&self, node: NodeIndex) -> u64 {
        match self.node(node).kind {
            Kind::File { size } => size,
            _ => 0,
        }
    }

    /// The directory of the first name; the root's is the root.
    pub(crate) fn parent(&self, node: NodeIndex) -> NodeIndex {
        self.node(node)
            .links
            .first()
            .map_or(Self::ROOT, |link| link.parent)
    }

    /// The first name; empty for the root.
    pub(crate) fn name(&self, node: NodeIndex) -> &[u8] {
        self.node(node).links.first().map_or(b"", |link| &link.name)
    }

    /// The path by the first names, escaped, for messages: the middle of a very long one is left out.
    pub(crate) fn path(&self, node: NodeIndex) -> String {
        const COMPONENTS_MAX: usize = 24;
        let (mut at, mut parts) = (node, Vec::new());
        while at != Self::ROOT && parts.len() < COMPONENTS_MAX {
            parts.push(escape(self.name(at)));
            at = self.parent(at);
        }
        if at != Self::ROOT {
            parts.push("...".to_owned());
        }
        parts.reverse();
        format!("/{}", parts.join("/"))
    }

    /// Path of a name that is not (or not only) a node's first.
    pub(crate) fn path_of_link(&self, link: &Link) -> String {
        let parent = self.path(link.parent);
        format!("{}/{}", parent.trim_end_matches('/'), escape(&link.name))
    }

    /// Names below the root.
    pub(crate) fn entries(&self) -> u64 {
        self.nodes.iter().map(|node| node.links.len() as u64).sum()
    }

    /// Bytes that the data takes on a file system with blocks of `block_bytes`, holes left out; metadata is not counted.
    pub(crate) fn needed_bytes(&self, block_bytes: u64) -> u64 {
        let mut data_bytes = vec![0_u64; self.nodes.len()];
        for piece in &self.pieces {
            data_bytes[piece.node as usize] += u64::from(piece.length);
        }
        data_bytes
            .iter()
            .map(|bytes| bytes.div_ceil(block_bytes) * block_bytes)
            .sum()
    }

    /// Bytes of data to be written.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.length)).sum()
    }
}
