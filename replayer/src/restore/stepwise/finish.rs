//! The last steps: what hangs together is checked, directories go where they belong, attributes are set, the private place goes.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;

use anyhow::{Context, Result};
use journal::record::{Attributes, Entry, InodeKey};
use rustix::fs::{AtFlags, OFlags, syncfs, unlinkat};

use super::{Inode, ROOT, Steps, content};
use crate::exit::integrity;
use crate::output::escape;
use crate::restore::attributes;
use crate::restore::build::{RawInode, check, show};
use crate::restore::plan::Node;
use crate::restore::problems::Problems;
use crate::restore::target::reopen_directory;

/// XFS shows its ACLs a second time under these names: set as ACLs, they must not come back as attributes.
const ACL_SHADOWS: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];

/// What was made.
pub(in crate::restore) struct Finished {
    pub(crate) entries: u64,
    pub(crate) inodes: u64,
    /// Bytes written, those overwritten later too.
    pub(crate) bytes: u64,
    pub(crate) problems: Problems,
}

impl Steps {
    /// Makes the tree out of what was stepped to.
    pub(in crate::restore) fn finish(mut self) -> Result<Finished> {
        let root = self.root.ok_or_else(|| integrity("the journal has no base"))?;
        let (directories, reached) = self.walk(root)?;
        self.check_detached(&reached)?;
        self.remove_unreached(&reached)?;
        let mut nodes = HashMap::new();
        for key in &reached {
            if let Some(node) = self.node(*key)? {
                nodes.insert(*key, node);
            }
        }
        // Links of directories that could not be described are gone now, too.
        self.set_files(&nodes)?;
        let mut entries = 0;
        for key in directories.iter().rev() {
            let Some(inode) = self.inodes.get(key) else {
                continue;
            };
            entries += inode.entries.len() as u64;
            if inode.number != ROOT
                && let Some(node) = nodes.get(key)
            {
                self.hang(*key, node)?;
            }
        }
        self.place.clear()?;
        let node = nodes
            .get(&root)
            .ok_or_else(|| integrity(format!("the root (inode {}) was never described", show(root))))?;
        let path = || "/".to_owned();
        attributes::set(self.place.root(), false, node, &mut self.problems, path)?;
        let readable = reopen_directory(self.place.root())?;
        attributes::set_last(readable.as_fd(), node, true, &mut self.problems, path)?;
        syncfs(&readable).context("sync the target")?;
        Ok(Finished {
            entries,
            inodes: nodes.len() as u64,
            bytes: self.bytes,
            problems: self.problems,
        })
    }

    /// Goes through the tree from the root. Gives its directories, parents first, and all inodes that it leads to.
    fn walk(&mut self, root: InodeKey) -> Result<(Vec<InodeKey>, HashSet<InodeKey>)> {
        let (mut directories, mut reached) = (vec![root], HashSet::from([root]));
        let mut done = 0;
        while let Some(&directory) = directories.get(done) {
            done += 1;
            let entries = self.inode(directory)?.entries.clone();
            for (name, key) in entries {
                let entry = Entry {
                    parent: directory,
                    name,
                };
                if let Some(why) = self.unfit(&entry, key, &reached) {
                    self.fault(&format!(
                        "{} names inode {}, {why}",
                        escape(&entry.name),
                        show(key)
                    ))?;
                    self.drop_name(&entry, key)?;
                    continue;
                }
                if reached.insert(key) && self.inode(key)?.is_directory() {
                    directories.push(key);
                }
            }
        }
        Ok((directories, reached))
    }

    /// Why a name cannot lead to an inode.
    fn unfit(&self, entry: &Entry, key: InodeKey, reached: &HashSet<InodeKey>) -> Option<String> {
        let Some(inode) = self.inodes.get(&key) else {
            return Some("which the journal does not know".to_owned());
        };
        if inode.is_directory() {
            if reached.contains(&key) {
                return Some("a directory that has two places".to_owned());
            }
        } else if !inode.entries.is_empty() {
            return Some("which is no directory and has entries".to_owned());
        }
        if self.missing.contains(entry) || inode.refused {
            return None;
        }
        check(&raw(inode, 0), Vec::new()).err()
    }

    fn fault(&mut self, what: &str) -> Result<()> {
        if !self.tolerate {
            return Err(integrity(format!("the journal contradicts itself: {what}")));
        }
        self.problems.note(format!("left out: {what}"));
        Ok(())
    }

    /// A directory with entries to which no name leads hangs in the air.
    fn check_detached(&mut self, reached: &HashSet<InodeKey>) -> Result<()> {
        let mut detached: Vec<InodeKey> = self
            .inodes
            .iter()
            .filter(|(key, inode)| !inode.entries.is_empty() && !reached.contains(key))
            .map(|(key, _)| *key)
            .collect();
        detached.sort_unstable();
        for key in detached {
            let (mut at, mut seen) = (key, HashSet::from([key]));
            let mut cyclic = false;
            while let Some(parent) = self
                .names
                .get(&at)
                .and_then(|names| names.first())
                .map(|name| name.parent)
            {
                if !seen.insert(parent) {
                    cyclic = true;
                    break;
                }
                at = parent;
            }
            let entries = self.inode(key)?.entries.len();
            let what = format!(
                "directory inode {} with {entries} entries is not below the root",
                show(key)
            );
            if cyclic {
                self.fault(&format!("{what}: it is on or below a cycle"))?;
            } else {
                self.problems.note(format!("left out: {what}"));
            }
        }
        Ok(())
    }

    /// Inodes without a name, and those that the target cannot hold, go.
    fn remove_unreached(&mut self, reached: &HashSet<InodeKey>) -> Result<()> {
        let unreached: Vec<InodeKey> = self
            .inodes
            .iter()
            .filter(|(key, inode)| inode.refused || !reached.contains(key))
            .map(|(key, _)| *key)
            .collect();
        for key in &unreached {
            for entry in self.names.get(key).cloned().unwrap_or_default() {
                self.drop_name(&entry, *key)?;
            }
        }
        for key in unreached {
            self.evict(key)?;
        }
        Ok(())
    }

    /// What an inode is to be, as the first way to a tree describes it.
    fn node(&self, key: InodeKey) -> Result<Option<Node>> {
        let Some(inode) = self.inodes.get(&key) else {
            return Ok(None);
        };
        let bytes = if inode.has_content() {
            content::size(&self.file(key)?)?
        } else {
            0
        };
        match check(&raw(inode, bytes), Vec::new()) {
            Ok(node) => Ok(Some(node)),
            Err(why) => Err(integrity(format!("inode {}: {why}", show(key)))),
        }
    }

    /// Attributes of all that is no directory; then it leaves the private place and lives under its names alone.
    fn set_files(&mut self, nodes: &HashMap<InodeKey, Node>) -> Result<()> {
        for (key, node) in nodes {
            let Some(inode) = self.inodes.get(key).filter(|inode| !inode.is_directory()) else {
                continue;
            };
            let handle = self.place.open(inode.number, OFlags::PATH)?;
            let name = self.first_name(*key);
            attributes::set(handle.as_fd(), false, node, &mut self.problems, || name.clone())?;
            let readable = if attributes::has_last(node, false) {
                self.readable(*key)?
            } else {
                None
            };
            let Some(inode) = self.inodes.get(key) else {
                continue;
            };
            unlinkat(self.place.fd(), inode.number.to_string(), AtFlags::empty())
                .context("remove a file from the private place")?;
            if let Some(readable) = readable {
                attributes::set_last(readable.as_fd(), node, false, &mut self.problems, || name.clone())?;
            }
        }
        Ok(())
    }

    /// Puts a directory, all of whose own directories hang in it, where it belongs.
    fn hang(&mut self, key: InodeKey, node: &Node) -> Result<()> {
        let number = self.inode(key)?.number;
        let Some(entry) = self.names.get(&key).and_then(|names| names.first()).cloned() else {
            return Ok(());
        };
        let readable = self.place.open(number, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let parent = self.inode(entry.parent)?.number;
        let parent = self.directory(parent)?;
        self.place
            .hang(number, parent.as_fd(), &entry.name)
            .with_context(|| format!("move directory {} to its place", escape(&entry.name)))?;
        let name = || escape(&entry.name);
        attributes::set(readable.as_fd(), true, node, &mut self.problems, name)?;
        attributes::set_last(readable.as_fd(), node, false, &mut self.problems, name)
    }

    /// For messages.
    fn first_name(&self, key: InodeKey) -> String {
        let first = self.names.get(&key).and_then(|names| names.first());
        first.map_or_else(|| show(key), |entry| escape(&entry.name))
    }
}

/// As the first way to a tree takes it, for the checks that both must make.
fn raw(inode: &Inode, bytes: u64) -> RawInode {
    RawInode {
        attributes: Attributes {
            size: Some(bytes),
            ..inode.stated.clone()
        },
        link_target: inode.link_target.clone(),
        entries: std::collections::BTreeMap::new(),
        xattrs: inode
            .xattrs
            .iter()
            .filter(|(name, _)| !ACL_SHADOWS.contains(&name.as_slice()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}
