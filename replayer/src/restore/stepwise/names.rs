//! Names: which inode has which, and the same on the target as far as it is in the tree there.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context, Result};
use journal::record::{Entry, InodeKey, Op};
use rustix::fs::{AtFlags, unlinkat};

use super::{ROOT, Steps, escape, note_or_fail, show};

impl Steps {
    /// What a record does to names, once its inode is what it says.
    pub(super) fn set_names(&mut self, key: InodeKey, op: &Op) -> Result<()> {
        match op {
            Op::Create { entry, dir, .. } | Op::Link { entry, dir } => {
                self.set_name(entry, key)?;
                self.dir_times(entry.parent, dir)
            }
            Op::SnapshotEntry { entry } => self.set_name(entry, key),
            Op::Rename {
                from,
                from_dir,
                to,
                to_dir,
                victim: _,
            } => {
                // The new name first: an inode is never without one.
                self.set_name(to, key)?;
                if from != to {
                    self.drop_name(from, key)?;
                }
                self.dir_times(from.parent, from_dir)?;
                self.dir_times(to.parent, to_dir)
            }
            Op::Exchange {
                from,
                from_dir,
                to,
                to_dir,
                other,
            } => {
                self.set_name(from, *other)?;
                self.set_name(to, key)?;
                self.dir_times(from.parent, from_dir)?;
                self.dir_times(to.parent, to_dir)
            }
            _ => Ok(()),
        }
    }

    /// A name leads to an inode, whatever it led to before.
    pub(super) fn set_name(&mut self, entry: &Entry, key: InodeKey) -> Result<()> {
        self.ensure(entry.parent)?;
        let before = self.inode(entry.parent)?.entries.get(&entry.name).copied();
        if before == Some(key) {
            return Ok(());
        }
        if let Some(before) = before {
            self.drop_name(entry, before)?;
        }
        let directory = self.inode(entry.parent)?;
        directory.entries.insert(entry.name.clone(), key);
        if directory.number == ROOT {
            let entries = self.inodes.get(&entry.parent).map(|root| &root.entries);
            self.place
                .give_way(|name| entries.is_some_and(|entries| entries.contains_key(name)))?;
        }
        self.names.entry(key).or_default().insert(entry.clone());
        self.link(entry, key)
    }

    /// A name is gone, if it leads to this inode.
    pub(super) fn drop_name(&mut self, entry: &Entry, key: InodeKey) -> Result<()> {
        let Some(directory) = self.inodes.get_mut(&entry.parent) else {
            return Ok(());
        };
        if directory.entries.get(&entry.name) != Some(&key) {
            return Ok(());
        }
        directory.entries.remove(&entry.name);
        if let Some(names) = self.names.get_mut(&key) {
            names.remove(entry);
            if names.is_empty() {
                self.names.remove(&key);
            }
        }
        self.unlink(entry, key)
    }

    pub(super) fn void_entries(&mut self, key: InodeKey) -> Result<()> {
        let entries: Vec<(Vec<u8>, InodeKey)> = self
            .inode(key)?
            .entries
            .iter()
            .map(|(name, child)| (name.clone(), *child))
            .collect();
        for (name, child) in entries {
            self.drop_name(&Entry { parent: key, name }, child)?;
        }
        Ok(())
    }

    pub(super) fn link_all(&mut self, key: InodeKey) -> Result<()> {
        for entry in self.names.get(&key).cloned().unwrap_or_default() {
            self.link(&entry, key)?;
        }
        Ok(())
    }

    pub(super) fn unlink_all(&mut self, key: InodeKey) -> Result<()> {
        for entry in self.names.get(&key).cloned().unwrap_or_default() {
            self.unlink(&entry, key)?;
        }
        Ok(())
    }

    /// The directory and the number behind a name that the target really has: not of a directory, not in what is none (yet).
    pub(super) fn real(&self, entry: &Entry, key: InodeKey) -> Result<Option<(OwnedFd, u64)>> {
        let (Some(directory), Some(inode)) = (self.inodes.get(&entry.parent), self.inodes.get(&key)) else {
            return Ok(None);
        };
        if !directory.is_directory() || inode.is_directory() {
            return Ok(None);
        }
        Ok(Some((self.directory(directory.number)?, inode.number)))
    }

    pub(super) fn link(&mut self, entry: &Entry, key: InodeKey) -> Result<()> {
        let Some((directory, number)) = self.real(entry, key)? else {
            return Ok(());
        };
        if let Err(error) = self.place.link(number, directory.as_fd(), &entry.name) {
            note_or_fail(&mut self.problems, error, || {
                format!("link {} to inode {}", escape(&entry.name), show(key))
            })?;
            self.missing.insert(entry.clone());
        }
        Ok(())
    }

    pub(super) fn unlink(&mut self, entry: &Entry, key: InodeKey) -> Result<()> {
        if self.missing.remove(entry) {
            return Ok(());
        }
        let Some((directory, _)) = self.real(entry, key)? else {
            return Ok(());
        };
        unlinkat(&directory, entry.name.as_slice(), AtFlags::empty())
            .with_context(|| format!("remove the name {}", escape(&entry.name)))
    }
}
