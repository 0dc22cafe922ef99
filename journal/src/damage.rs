//! What damage costs: which numbers are gone, which files they touched as far as can still be told, and up to where the journal is whole.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;

use crate::chain::Journal;
use crate::error::Result;
use crate::points::At;
use crate::reader::Remains;
use crate::record::{Entry, InodeKey, Op, Record};
use crate::segment::Projection;

/// Files named of one damage.
const FILES_MAX: usize = 1000;
/// A path is not followed further up: a damaged journal may say that directories contain each other.
const COMPONENTS_MAX: usize = 2048;

/// A run of segments that cannot be used, and what is lost with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segments: one that is damaged, or some that are missing.
    pub indexes: RangeInclusive<u64>,
    /// The epoch in which it begins.
    pub epoch: u64,
    /// First sequence number that may be lost.
    pub first_seq: u64,
    /// Last sequence number that may be lost; `None` where nothing tells.
    pub last_seq: Option<u64>,
    /// Records that were there, where a manifest tells.
    pub records: Option<u64>,
    /// Records of them that can still be read, if only to tell what they were about.
    pub readable: u64,
    /// What these were about: paths by the last names that the journal knows, raw.
    pub files: BTreeSet<Vec<u8>>,
    /// Whether there are more of them than are named.
    pub more_files: bool,
    /// Newest moment of the epoch that can be restored all the same, if any.
    pub whole_until: Option<u64>,
}

impl Journal {
    /// What is lost, as far as it is known so far: segments that were read and found damaged, those `also` named, and what is missing.
    /// Reads the metadata of the epochs concerned.
    pub fn damage(&self, also: &BTreeSet<u64>) -> Vec<Damage> {
        let mut found: Vec<(Damage, Option<Remains>)> = self
            .segments
            .values()
            .filter(|segment| segment.is_damaged() || also.contains(&segment.manifest.index))
            .map(|segment| {
                let manifest = &segment.manifest;
                let damage = Damage {
                    indexes: manifest.index..=manifest.index,
                    last_seq: Some(manifest.last_seq),
                    records: Some(manifest.records),
                    ..Damage::at(manifest.epoch, manifest.first_seq)
                };
                (damage, Some(segment.remains()))
            })
            .chain(self.gaps.iter().map(|gap| self.missing(gap)))
            .collect();
        found.sort_by_key(|(damage, _)| *damage.indexes.start());
        let mut names = Names::default();
        let mut epoch = None;
        let mut damages = Vec::new();
        for (mut damage, remains) in found {
            if epoch != Some(damage.epoch) {
                epoch = Some(damage.epoch);
                names = self.names_of(damage.epoch, also);
                damage.whole_until = self.whole_until(&damage);
            }
            if let Some(remains) = remains {
                damage.read(&remains, &mut names);
            }
            damages.push(damage);
        }
        damages
    }

    /// What the neighbours tell of segments that are not there.
    fn missing(&self, gap: &RangeInclusive<u64>) -> (Damage, Option<Remains>) {
        let before = self.segments.range(..gap.start()).next_back();
        let after = self.segments.range(gap.end()..).next();
        let (epoch, first_seq) = match (before, after) {
            (Some((_, before)), _) => (before.manifest.epoch, before.manifest.last_seq.saturating_add(1)),
            (None, Some((_, after))) => (after.manifest.epoch, 0),
            (None, None) => (1, 0),
        };
        let last_seq = after
            .filter(|(_, after)| after.manifest.epoch == epoch)
            .map(|(_, after)| after.manifest.first_seq.saturating_sub(1));
        let damage = Damage {
            indexes: gap.clone(),
            last_seq,
            ..Damage::at(epoch, first_seq)
        };
        let alone = gap.start() == gap.end();
        (damage, self.loose.get(gap.start()).filter(|_| alone).cloned())
    }

    /// The names that the sound segments of an epoch tell.
    fn names_of(&self, epoch: u64, also: &BTreeSet<u64>) -> Names {
        let mut names = Names::default();
        let sound = self.segments.values().filter(|segment| {
            segment.manifest.epoch == epoch
                && !segment.is_damaged()
                && !also.contains(&segment.manifest.index)
        });
        for segment in sound {
            // One that cannot be read is reported where it is verified; here it only names nothing.
            let Ok(records) = segment.records(Projection::Metadata) else {
                continue;
            };
            for (_, record) in records.map_while(Result::ok) {
                names.note(&record);
            }
        }
        names
    }

    fn whole_until(&self, damage: &Damage) -> Option<u64> {
        let before = damage.first_seq.checked_sub(1)?;
        let epoch_begins_before = self
            .segments
            .values()
            .any(|segment| segment.manifest.epoch == damage.epoch && segment.manifest.first_seq <= before);
        let point = epoch_begins_before
            .then(|| self.resolve(&At::Seq(before)).ok())
            .flatten()?;
        (point.epoch == damage.epoch).then_some(point.seq)
    }
}

impl Damage {
    fn at(epoch: u64, first_seq: u64) -> Self {
        Self {
            indexes: 0..=0,
            epoch,
            first_seq,
            last_seq: None,
            records: None,
            readable: 0,
            files: BTreeSet::new(),
            more_files: false,
            whole_until: None,
        }
    }

    /// Reads what can still be read, up to the first row that makes no sense.
    fn read(&mut self, remains: &Remains, names: &mut Names) {
        let Ok(rows) = remains.open() else { return };
        let mut touched = BTreeSet::new();
        for (_, record) in rows.map_while(Result::ok) {
            self.readable += 1;
            names.note(&record);
            let other = match record.op {
                Op::Exchange { other, .. } => Some(other),
                _ => None,
            };
            for key in [Some(record.inode), other].into_iter().flatten() {
                if key == InodeKey::default() || touched.contains(&key) {
                    continue;
                }
                if touched.len() < FILES_MAX {
                    touched.insert(key);
                } else {
                    self.more_files = true;
                }
            }
        }
        self.files = touched.iter().map(|key| names.path(*key)).collect();
    }
}

/// The last name of each inode.
#[derive(Default)]
struct Names {
    root: Option<InodeKey>,
    entries: HashMap<InodeKey, Entry>,
}

impl Names {
    fn note(&mut self, record: &Record) {
        let (entry, other) = match &record.op {
            Op::BaseBegin { .. } => {
                self.root = Some(record.inode);
                return;
            }
            Op::Create { entry, .. } | Op::Link { entry, .. } | Op::SnapshotEntry { entry } => (entry, None),
            // All that is known of an inode may be how it went.
            Op::Unlink { entry, .. } | Op::Rmdir { entry, .. }
                if !self.entries.contains_key(&record.inode) =>
            {
                (entry, None)
            }
            Op::Rename { to, .. } => (to, None),
            Op::Exchange { from, to, other, .. } => (to, Some((*other, from))),
            _ => return,
        };
        self.entries.insert(record.inode, entry.clone());
        if let Some((other, from)) = other {
            self.entries.insert(other, from.clone());
        }
    }

    fn path(&self, key: InodeKey) -> Vec<u8> {
        let (mut at, mut parts) = (key, Vec::new());
        while Some(at) != self.root && parts.len() < COMPONENTS_MAX {
            let Some(entry) = self.entries.get(&at) else {
                parts.push(format!("(inode {}/{})", at.ino, at.generation).into_bytes());
                break;
            };
            parts.push(entry.name.clone());
            at = entry.parent;
        }
        let mut path = Vec::new();
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }
}
