//! Builds a [`Plan`] from the folded inodes: walks the directory graph from the root and refuses everything that is not a
//! tree of plain names. Pure; iterative, so that no depth can overflow the stack.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Result;
use journal::record::{Attributes, InodeKey};

use super::plan::{Kind, Link, Node, NodeIndex, Plan};
use super::problems::Problems;
use crate::exit::integrity;
use crate::output::escape;

/// Bytes of the longest file name.
const NAME_BYTES_MAX: usize = 255;
/// Bytes of the longest symbolic link target (PATH_MAX without the NUL).
const LINK_TARGET_BYTES_MAX: usize = 4095;
/// Bytes of the longest extended attribute value (XATTR_SIZE_MAX).
const XATTR_VALUE_BYTES_MAX: usize = 65536;

/// An inode as the journal leaves it, unchecked.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawInode {
    /// What was stated.
    pub(crate) attributes: Attributes,
    /// Of a symbolic link.
    pub(crate) link_target: Option<Vec<u8>>,
    /// Of a directory.
    pub(crate) entries: BTreeMap<Vec<u8>, InodeKey>,
    /// Extended attributes.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Builds the tree. What contradicts itself is an integrity failure; with `tolerate` (restoring past a hole) it is left out
/// and noted.
pub(crate) struct Builder<'a> {
    inodes: HashMap<InodeKey, Box<RawInode>>,
    index: HashMap<InodeKey, NodeIndex>,
    plan: Plan,
    tolerate: bool,
    problems: &'a mut Problems,
}

/// The tree, and where each inode of the journal went.
pub(crate) struct Built {
    /// The tree; its data pieces are still to come.
    pub(crate) plan: Plan,
    /// Index of each inode that has a name.
    pub(crate) index: HashMap<InodeKey, NodeIndex>,
}

impl<'a> Builder<'a> {
    /// A builder for these inodes.
    pub(crate) fn new(
        inodes: HashMap<InodeKey, Box<RawInode>>,
        tolerate: bool,
        problems: &'a mut Problems,
    ) -> Self {
        Self {
            inodes,
            index: HashMap::new(),
            plan: Plan::default(),
            tolerate,
            problems,
        }
    }

    /// Walks the tree from `root`.
    pub(crate) fn build(mut self, root: InodeKey) -> Result<Built> {
        let Some(raw) = self.inodes.remove(&root) else {
            return Err(integrity(format!(
                "the journal has no root directory (inode {})",
                show(root)
            )));
        };
        if file_type(&raw) != Some(libc::S_IFDIR) {
            return Err(integrity(format!(
                "the root (inode {}) is not a directory",
                show(root)
            )));
        }
        let mut waiting = Vec::new();
        self.add(root, raw, Vec::new(), &mut waiting)?;
        while let Some((link, key)) = waiting.pop() {
            self.visit(link, key, &mut waiting)?;
            crate::spill::check()?;
        }
        self.check_detached()?;
        Ok(Built {
            plan: self.plan,
            index: self.index,
        })
    }

    /// One entry of a directory.
    fn visit(&mut self, link: Link, key: InodeKey, waiting: &mut Vec<(Link, InodeKey)>) -> Result<()> {
        if !is_plain_name(&link.name) {
            let path = self.plan.path_of_link(&link);
            return Err(integrity(format!(
                "{path}: not a file name (inode {})",
                show(key)
            )));
        }
        if let Some(&node) = self.index.get(&key) {
            if self.plan.is_directory(node) {
                let first = self.plan.path(node);
                let second = self.plan.path_of_link(&link);
                return self.fault(format!(
                    "directory inode {} has two places, {first} and {second}",
                    show(key)
                ));
            }
            self.plan.nodes[node as usize].links.push(link);
            return Ok(());
        }
        match self.inodes.remove(&key) {
            Some(raw) => self.add(key, raw, vec![link], waiting),
            None => {
                let path = self.plan.path_of_link(&link);
                self.fault(format!(
                    "{path} names inode {}, which the journal does not know",
                    show(key)
                ))
            }
        }
    }

    /// A new node; its entries go to `waiting`.
    fn add(
        &mut self,
        key: InodeKey,
        raw: Box<RawInode>,
        links: Vec<Link>,
        waiting: &mut Vec<(Link, InodeKey)>,
    ) -> Result<()> {
        let path = links
            .first()
            .map_or_else(|| "/".to_owned(), |link| self.plan.path_of_link(link));
        let node = match check(&raw, links) {
            Ok(node) => node,
            Err(what) => return self.fault(format!("{path} (inode {}): {what}", show(key))),
        };
        let Ok(index) = NodeIndex::try_from(self.plan.nodes.len()) else {
            anyhow::bail!("more than {} inodes", NodeIndex::MAX);
        };
        if node.kind != Kind::Directory && !raw.entries.is_empty() {
            self.fault(format!(
                "{path} (inode {}) is no directory and has entries",
                show(key)
            ))?;
        } else {
            let entries = raw.entries.into_iter().rev();
            waiting.extend(entries.map(|(name, child)| (Link { parent: index, name }, child)));
        }
        self.index.insert(key, index);
        self.plan.nodes.push(node);
        Ok(())
    }

    /// What the walk did not meet has no name: files unlinked but open, fine. A directory with entries among them hangs in the
    /// air: on its own cycle, or its name was lost.
    fn check_detached(&mut self) -> Result<()> {
        let mut detached: Vec<InodeKey> = self
            .inodes
            .iter()
            .filter(|(_, raw)| !raw.entries.is_empty())
            .map(|(key, _)| *key)
            .collect();
        detached.sort_unstable();
        let mut parents: HashMap<InodeKey, InodeKey> = HashMap::new();
        for key in &detached {
            let entries = self
                .inodes
                .get(key)
                .into_iter()
                .flat_map(|raw| raw.entries.values());
            parents.extend(entries.map(|child| (*child, *key)));
        }
        let mut cleared: HashSet<InodeKey> = HashSet::new();
        for key in detached {
            // Upwards until there is no parent: more steps than there are parents are a cycle.
            let (mut at, mut path) = (key, HashSet::new());
            let cyclic = loop {
                if cleared.contains(&at) {
                    break false;
                }
                if !path.insert(at) {
                    break true;
                }
                match parents.get(&at) {
                    Some(parent) => at = *parent,
                    None => break false,
                }
            };
            cleared.extend(path);
            let entries = self.inodes.get(&key).map_or(0, |raw| raw.entries.len());
            let what = format!(
                "directory inode {} with {entries} entries is not below the root",
                show(key)
            );
            if cyclic {
                self.fault(format!("{what}: it is on or below a cycle"))?;
            } else {
                self.problems.note(format!("left out: {what}"));
            }
        }
        Ok(())
    }

    fn fault(&mut self, what: String) -> Result<()> {
        if !self.tolerate {
            return Err(integrity(format!("the journal contradicts itself: {what}")));
        }
        self.problems.note(format!("left out: {what}"));
        Ok(())
    }
}

/// An inode for messages.
pub(crate) fn show(key: InodeKey) -> String {
    format!("{}/{}", key.ino, key.generation)
}

/// A name that leads to an entry of its own directory and nowhere else.
fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

fn file_type(raw: &RawInode) -> Option<u32> {
    raw.attributes.mode.map(|mode| mode & libc::S_IFMT)
}

/// Turns what the journal states into a node, or says what is missing or impossible.
pub(crate) fn check(raw: &RawInode, links: Vec<Link>) -> Result<Node, String> {
    let Attributes {
        mode,
        uid,
        gid,
        rdev,
        size,
        atime,
        mtime,
        ctime: _,
        file_flags,
        project,
    } = raw.attributes.clone();
    let mode = mode.ok_or("its type and mode are not known")?;
    let rdev_known = || rdev.ok_or("its device number is not known");
    let kind = match mode & libc::S_IFMT {
        libc::S_IFREG => Kind::File {
            size: checked_size(size.unwrap_or(0))?,
        },
        libc::S_IFDIR => Kind::Directory,
        libc::S_IFLNK => Kind::Symlink {
            target: checked_link_target(raw.link_target.as_deref())?,
        },
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::CharDevice { rdev: rdev_known()? },
        libc::S_IFBLK => Kind::BlockDevice { rdev: rdev_known()? },
        other => return Err(format!("no such file type: {other:o}")),
    };
    for time in [atime, mtime].into_iter().flatten() {
        if time.nsec >= 1_000_000_000 {
            return Err(format!("impossible time: {} nanoseconds", time.nsec));
        }
    }
    for (name, value) in &raw.xattrs {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
            return Err(format!("impossible extended attribute name {}", escape(name)));
        }
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(format!(
                "extended attribute {} has {} bytes",
                escape(name),
                value.len()
            ));
        }
    }
    Ok(Node {
        kind,
        permissions: mode & 0o7777,
        uid: uid.ok_or("its owner is not known")?,
        gid: gid.ok_or("its group is not known")?,
        atime,
        mtime,
        file_flags,
        project,
        xattrs: raw.xattrs.clone().into_iter().collect(),
        links,
    })
}

fn checked_size(size: u64) -> Result<u64, String> {
    if i64::try_from(size).is_err() {
        Err(format!("impossible size {size}"))
    } else {
        Ok(size)
    }
}

fn checked_link_target(target: Option<&[u8]>) -> Result<Vec<u8>, String> {
    let target = target.ok_or("the target of the symbolic link is not known")?;
    if target.is_empty() || target.len() > LINK_TARGET_BYTES_MAX || target.contains(&0) {
        return Err(format!(
            "impossible target of a symbolic link ({} bytes)",
            target.len()
        ));
    }
    Ok(target.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ino: u64) -> InodeKey {
        InodeKey { ino, generation: 1 }
    }

    fn inode(mode: u32, entries: &[(&[u8], u64)]) -> RawInode {
        RawInode {
            attributes: Attributes {
                mode: Some(mode),
                uid: Some(0),
                gid: Some(0),
                ..Attributes::default()
            },
            entries: entries
                .iter()
                .map(|(name, ino)| (name.to_vec(), key(*ino)))
                .collect(),
            ..RawInode::default()
        }
    }

    fn build(inodes: Vec<(u64, RawInode)>, tolerate: bool) -> (Result<Built>, Problems) {
        let mut problems = Problems::default();
        let inodes = inodes
            .into_iter()
            .map(|(ino, raw)| (key(ino), Box::new(raw)))
            .collect();
        let built = Builder::new(inodes, tolerate, &mut problems).build(key(1));
        (built, problems)
    }

    const DIR: u32 = libc::S_IFDIR | 0o755;
    const FILE: u32 = libc::S_IFREG | 0o644;

    fn refused(inodes: Vec<(u64, RawInode)>, word: &str) {
        let (built, _) = build(inodes.clone(), false);
        let error = built
            .err()
            .map(|error| (crate::exit::exit_of(&error), error.to_string()));
        assert!(
            matches!(&error, Some((crate::exit::Exit::Integrity, message)) if message.contains(word)),
            "{error:?} does not say {word:?}"
        );
    }

    #[test]
    fn a_tree_comes_out_parents_first() {
        let (built, problems) = build(
            vec![
                (1, inode(DIR, &[(b"a", 2), (b"b", 3)])),
                (2, inode(DIR, &[(b"f", 4)])),
                (3, inode(FILE, &[])),
                (4, inode(FILE, &[])),
            ],
            false,
        );
        let plan = built.expect("a tree").plan;
        assert_eq!(problems.count, 0);
        let paths: Vec<String> = plan.indices().map(|node| plan.path(node)).collect();
        assert_eq!(paths, ["/", "/a", "/a/f", "/b"]);
        assert!(plan.indices().skip(1).all(|node| plan.parent(node) < node));
    }

    #[test]
    fn hard_links_are_gathered() {
        let (built, _) = build(
            vec![
                (1, inode(DIR, &[(b"a", 3), (b"d", 2)])),
                (2, inode(DIR, &[(b"x", 3)])),
                (3, inode(FILE, &[])),
            ],
            false,
        );
        let plan = built.expect("a tree").plan;
        assert_eq!(plan.entries(), 3);
        assert_eq!(plan.nodes[1].links.len(), 2);
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        refused(vec![(1, inode(DIR, &[(b"a", 1)]))], "two places");
        refused(
            vec![(1, inode(DIR, &[(b"a", 2)])), (2, inode(DIR, &[(b"b", 1)]))],
            "two places",
        );
        refused(
            vec![(1, inode(DIR, &[(b"a", 2), (b"b", 2)])), (2, inode(DIR, &[]))],
            "two places",
        );
        refused(
            vec![
                (1, inode(DIR, &[])),
                (2, inode(DIR, &[(b"a", 3)])),
                (3, inode(DIR, &[(b"b", 2)])),
            ],
            "not below the root",
        );
        refused(vec![(1, inode(DIR, &[(b"a", 2)]))], "does not know");
        refused(
            vec![(1, inode(DIR, &[(b"a", 2)])), (2, inode(FILE, &[(b"b", 2)]))],
            "is no directory",
        );
        refused(vec![(1, inode(FILE, &[]))], "not a directory");
        refused(vec![], "no root");
        refused(
            vec![
                (1, inode(DIR, &[(b"a", 2)])),
                (2, inode(libc::S_IFLNK | 0o777, &[])),
            ],
            "target",
        );
        refused(
            vec![(1, inode(DIR, &[(b"a", 2)])), (2, inode(0o030_644, &[]))],
            "no such file type",
        );
        refused(
            vec![(1, inode(DIR, &[(b"a", 2)])), (2, RawInode::default())],
            "not known",
        );
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused_always() {
        let long = [b'x'; 256];
        for name in [b"".as_slice(), b".", b"..", b"a/b", b"/", b"a\0b", &long] {
            for tolerate in [false, true] {
                let (built, _) = build(
                    vec![(1, inode(DIR, &[(name, 2)])), (2, inode(FILE, &[]))],
                    tolerate,
                );
                assert!(built.is_err(), "{name:?} passed");
            }
        }
    }

    #[test]
    fn past_a_hole_contradictions_are_left_out_and_noted() {
        let (built, problems) = build(
            vec![
                (1, inode(DIR, &[(b"a", 9), (b"b", 2)])),
                (2, inode(FILE, &[])),
                (5, inode(DIR, &[(b"x", 5)])),
            ],
            true,
        );
        assert_eq!(built.expect("a tree").plan.nodes.len(), 2);
        assert_eq!(problems.count, 2);
    }

    #[test]
    fn a_very_deep_tree_needs_no_stack() {
        let depth = 200_000;
        let mut inodes: Vec<(u64, RawInode)> = (1..depth)
            .map(|ino| (ino, inode(DIR, &[(b"d", ino + 1)])))
            .collect();
        inodes.push((depth, inode(FILE, &[])));
        let (built, _) = build(inodes, false);
        assert_eq!(built.expect("a tree").plan.nodes.len() as u64, depth);
    }
}
