//! Names: created, linked, moved, exchanged, removed.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};

use journal::record::{Attributes, Op};
use rustix::fs::{CWD, FileType, Mode, RenameFlags};

use super::{Live, dir_times, meta, stamps, whole};

/// Names in the tree before more are refused.
const NAMES_MAX: usize = 90;

impl Live {
    pub(super) fn create(&mut self) {
        if self.paths().len() > NAMES_MAX {
            return self.remove();
        }
        let path = self.new_path();
        let mut link_target = None;
        match self.random.below(8) {
            0 | 1 => fs::create_dir(&path).unwrap(),
            2 => {
                symlink("to/\u{e9}lsewhere", &path).unwrap();
                link_target = Some("to/\u{e9}lsewhere".as_bytes().to_vec());
            }
            3 => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o640), 0).unwrap(),
            _ => drop(File::create_new(&path).unwrap()),
        }
        self.born(&path);
        let op = Op::Create {
            entry: self.entry(&path),
            dir: dir_times(&path),
            link_target,
        };
        self.tell(&path, whole(&path), op);
    }

    pub(super) fn link(&mut self) {
        let Some(path) = self.file() else { return };
        let to = self.new_path();
        fs::hard_link(&path, &to).unwrap();
        let op = Op::Link {
            entry: self.entry(&to),
            dir: dir_times(&to),
        };
        self.tell(&to, stamps(&to), op);
    }

    pub(super) fn remove(&mut self) {
        let mut paths = self.paths();
        paths.retain(|path| *path != self.root);
        if paths.is_empty() {
            return;
        }
        let path = self.pick(&paths);
        let (key, entry, last) = (self.key(&path), self.entry(&path), self.is_last(&path));
        if last && self.window == Some(key.ino) {
            return;
        }
        let is_dir = meta(&path).is_dir();
        if is_dir && fs::read_dir(&path).unwrap().next().is_some() {
            return;
        }
        if is_dir {
            fs::remove_dir(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let dir = dir_times(&path);
        let op = if is_dir {
            Op::Rmdir { entry, dir }
        } else {
            Op::Unlink { entry, dir }
        };
        self.tell_key(key, Attributes::default(), op);
        if last {
            self.evict(key);
        }
    }

    pub(super) fn rename(&mut self, exchange: bool) {
        let mut paths = self.paths();
        paths.retain(|path| *path != self.root);
        if paths.len() < 2 {
            return;
        }
        let from = self.pick(&paths);
        let to = if exchange || self.random.below(2) == 0 {
            self.pick(&paths)
        } else {
            self.new_path()
        };
        let (key, other) = (
            self.key(&from),
            fs::symlink_metadata(&to).is_ok().then(|| self.key(&to)),
        );
        if other == Some(key) {
            return;
        }
        let victim_last = other.is_some() && self.is_last(&to);
        if !exchange && victim_last && other.is_some_and(|other| self.window == Some(other.ino)) {
            return;
        }
        let flags = if exchange {
            RenameFlags::EXCHANGE
        } else {
            RenameFlags::empty()
        };
        // Refused: a directory below itself, over a file, over one that is not empty.
        if rustix::fs::renameat_with(CWD, &from, CWD, &to, flags).is_err() {
            return;
        }
        // A directory that moved has taken its own parent's path with it only where that was refused above.
        let (from_dir, to_dir) = (dir_times(&from), dir_times(&to));
        let (from, to_entry) = (self.entry(&from), self.entry(&to));
        let attributes = stamps(&to);
        match other {
            Some(other) if exchange => {
                let op = Op::Exchange {
                    from,
                    from_dir,
                    to: to_entry,
                    to_dir,
                    other,
                };
                self.tell_key(key, attributes, op);
            }
            victim => {
                let op = Op::Rename {
                    from,
                    from_dir,
                    to: to_entry,
                    to_dir,
                    victim,
                };
                self.tell_key(key, attributes, op);
                if let (Some(victim), true) = (victim, victim_last) {
                    self.evict(victim);
                }
            }
        }
    }

    /// A file made without a name, written, and then given one or not.
    pub(super) fn unnamed(&mut self) {
        let path = self.new_path();
        let file = File::create_new(&path).unwrap();
        self.born(&path);
        let key = self.key(&path);
        let created = whole(&path);
        let data = self.random.bytes(5000);
        file.write_all_at(&data, 3000).unwrap();
        let written = stamps(&path);
        self.tell_key(key, created, Op::CreateUnnamed);
        self.tell_key(
            key,
            written,
            Op::Write {
                offset: 3000,
                length: 5000,
                data,
            },
        );
        if self.random.below(2) == 0 {
            let op = Op::Link {
                entry: self.entry(&path),
                dir: dir_times(&path),
            };
            self.tell_key(key, stamps(&path), op);
        } else {
            let parent = path.parent().unwrap();
            let entry = self.entry(&path);
            fs::remove_file(&path).unwrap();
            // The name was never told; the directory's new times are.
            let (parent_key, times) = (self.key(parent), stamps(parent));
            drop(entry);
            self.tell_key(parent_key, times, Op::SetAttr);
            self.evict(key);
        }
    }
}
