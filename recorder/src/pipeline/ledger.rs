//! The ledger: what the cold thread knew at each seal, for whoever takes its place after a kill.
//!
//! It is written before the seal that it belongs to, into the one of two files that is not in use. So whenever the thread dies, one of
//! the two says the same last number as the newest manifest on the medium; what came after is in spool and ring. No sync: the spool's
//! page cache survives a killed process, and a machine that went down begins a new epoch anyway.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use journal::Head;
use journal::record::{InodeKey, Op, Record};
use journal::store::disk::{Disk, Existing};
use serde::{Deserialize, Serialize};

use super::Identity;
use crate::doubt::{Doubt, Request};

const FILES: [&str; 2] = ["ledger-0", "ledger-1"];
/// Begins a ledger; another version of what follows has another one.
const MAGIC: &[u8; 8] = b"TWLEDGR2";
const HASH_BYTES: usize = blake3::OUT_LEN;

/// What was known when everything up to a number was sealed.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// What is sealed.
    pub(crate) head: Head,
    /// Of what recording.
    pub(crate) identity: Identity,
    /// The base is complete.
    pub(crate) has_base: bool,
    /// What is under way.
    pub(super) doubt: Doubt,
    /// What was asked for and is not answered.
    pub(super) requests: Vec<Request>,
    /// Holes that are not repaired.
    pub(super) holes: BTreeSet<u64>,
    /// Snapshots that are open.
    pub(super) windows: Windows,
}

/// Snapshots that have begun and not ended, with their numbers. A complete snapshot makes good the abandoned ones of its inode.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Windows(std::collections::BTreeMap<u64, InodeKey>);

impl Windows {
    /// Looks at a record.
    pub(super) fn see(&mut self, record: &Record) {
        match &record.op {
            Op::Snapshot { .. } => _ = self.0.insert(record.seq, record.inode),
            Op::SnapshotEnd { begin_seq } => _ = self.0.remove(begin_seq),
            Op::Evict if !self.0.is_empty() => self.0.retain(|_, inode| *inode != record.inode),
            _ => {}
        }
    }

    /// Takes out the inodes of those that began before a number.
    pub(super) fn abandoned(&mut self, before: u64) -> BTreeSet<InodeKey> {
        let later = self.0.split_off(&before);
        std::mem::replace(&mut self.0, later).into_values().collect()
    }
}

/// Where ledgers are written.
pub(super) struct Ledgers {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The file to be written next.
    next: usize,
}

impl Ledgers {
    /// In the directory of a spool; none of an earlier recording stays.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn create(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self> {
        for name in FILES {
            let path = dir.join(name);
            match disk.remove(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(Self {
            disk: Arc::clone(disk),
            dir: dir.to_owned(),
            next: 0,
        })
    }

    /// After one that was found: that one is written over last.
    pub(super) fn recover(disk: &Arc<dyn Disk>, dir: &Path, file: usize) -> Self {
        Self {
            disk: Arc::clone(disk),
            dir: dir.to_owned(),
            next: (file + 1) % FILES.len(),
        }
    }

    /// Writes what belongs to the seal that follows.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn write(&mut self, ledger: &Ledger) -> Result<()> {
        let path = self.dir.join(FILES[self.next]);
        let context = || format!("write {}", path.display());
        let body = postcard::to_stdvec(ledger).context("encode the ledger")?;
        let file = self.disk.create(&path, Existing::Emptied).with_context(context)?;
        let hash = blake3::hash(&body);
        let bytes = [MAGIC.as_slice(), hash.as_bytes(), &body].concat();
        file.write_all_at(&bytes, 0).with_context(context)?;
        self.next = (self.next + 1) % FILES.len();
        Ok(())
    }
}

/// A ledger, and which file it was in.
pub(crate) struct Found {
    pub(crate) ledger: Ledger,
    pub(super) file: usize,
}

/// The ledger that belongs to the end of a chain; `None` where none does.
pub(crate) fn find(disk: &dyn Disk, dir: &Path, head: &Head) -> Option<Found> {
    (0..FILES.len()).find_map(|file| {
        let bytes = disk.read(&dir.join(FILES[file])).ok()?;
        let rest = bytes.strip_prefix(MAGIC.as_slice())?;
        let (hash, body) = rest.split_at_checked(HASH_BYTES)?;
        let whole = blake3::hash(body).as_bytes() == hash;
        let ledger: Ledger = whole.then(|| postcard::from_bytes(body).ok())??;
        (ledger.head == *head).then_some(Found { ledger, file })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use journal::store::disk::SystemDisk;
    use journal::store::faults::{FaultDisk, On, What};

    use super::*;

    fn disk() -> Arc<dyn Disk> {
        Arc::new(SystemDisk)
    }

    fn ledger(last_seq: u64) -> Ledger {
        Ledger {
            head: Head {
                chain: "chain".to_owned(),
                epoch: 3,
                last_seq,
            },
            identity: Identity::default(),
            has_base: true,
            doubt: Doubt::default(),
            requests: vec![Request::Everything {
                closes: Some(last_seq),
            }],
            holes: BTreeSet::from([last_seq]),
            windows: Windows::default(),
        }
    }

    #[test]
    fn the_one_that_belongs_to_the_medium_is_found_whichever_was_written_last() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledgers = Ledgers::create(&disk(), dir.path()).unwrap();
        let head = |seq| ledger(seq).head;
        assert!(find(&SystemDisk, dir.path(), &head(1)).is_none());
        for seq in [10, 20, 30] {
            ledgers.write(&ledger(seq)).unwrap();
        }
        for seq in [20, 30] {
            let found = find(&SystemDisk, dir.path(), &head(seq)).unwrap();
            assert_eq!(found.ledger.requests, [Request::Everything { closes: Some(seq) }]);
        }
        assert!(find(&SystemDisk, dir.path(), &head(10)).is_none(), "written over");
        // The one that was found is not the first to be written over.
        let found = find(&SystemDisk, dir.path(), &head(20)).unwrap();
        Ledgers::recover(&disk(), dir.path(), found.file)
            .write(&ledger(25))
            .unwrap();
        assert!(
            find(&SystemDisk, dir.path(), &head(20)).is_some()
                && find(&SystemDisk, dir.path(), &head(30)).is_none()
        );
        Ledgers::create(&disk(), dir.path()).unwrap();
        assert!(
            find(&SystemDisk, dir.path(), &head(25)).is_none(),
            "a new recording"
        );
    }

    #[test]
    fn one_that_is_not_whole_is_none() {
        let dir = tempfile::tempdir().unwrap();
        Ledgers::create(&disk(), dir.path())
            .unwrap()
            .write(&ledger(10))
            .unwrap();
        let path = dir.path().join(FILES[0]);
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(
                find(&SystemDisk, dir.path(), &ledger(10).head).is_none(),
                "{length} bytes"
            );
        }
        fs::write(&path, &bytes).unwrap();
        assert!(find(&SystemDisk, dir.path(), &ledger(10).head).is_some());
    }

    #[test]
    fn whichever_operation_the_kill_comes_in_the_one_that_was_sealed_is_there() {
        let dir = Path::new("/spool");
        for (seed, after) in (0..8).flat_map(|seed| (0..3).map(move |after| (seed, after))) {
            let faults = FaultDisk::new(dir, seed);
            let disk: Arc<dyn Disk> = Arc::new(faults.clone());
            let mut ledgers = Ledgers::create(&disk, dir).unwrap();
            for seq in [10, 20] {
                ledgers.write(&ledger(seq)).unwrap();
            }
            faults.plan(On::Change, after, What::Gone);
            let written = ledgers.write(&ledger(30));
            assert_eq!(written.is_err(), after < 2, "it is created and written");
            faults.go_on();
            assert!(
                find(&*disk, dir, &ledger(20).head).is_some(),
                "seed {seed}, {after}"
            );
            if written.is_ok() {
                assert!(find(&*disk, dir, &ledger(30).head).is_some());
            }
        }
    }
}
