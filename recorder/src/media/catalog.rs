//! The catalog: the host's own list of media and of what lies on each. A cache: deleted, it is made anew by looking at the media.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use journal::store::disk::{self, Disk, SystemDisk};
use journal::{Journal, Label, Manifest, Point, PointKind, PublicKey};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::cli::exit::{FAILED, WRONG_KEY, coded};

/// Where the catalog lies: alone, for what is written there is not recorded.
pub(crate) const DIRECTORY: &str = "/var/lib/tapeworm/catalog";
pub(crate) const PATH: &str = "/var/lib/tapeworm/catalog/catalog.json";
/// Version of its form.
const FORMAT: u32 = 1;

/// What is known of media.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Catalog {
    format: u32,
    /// By uuid.
    pub(crate) media: Vec<Medium>,
    /// By which key each volume's journal was signed when it was first seen: that is trusted from then on.
    #[serde(default)]
    keys: BTreeMap<String, String>,
}

/// A medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Medium {
    /// Its own uuid.
    pub(crate) uuid: String,
    /// What people call it.
    pub(crate) name: String,
    /// The set of media that it belongs to; empty for none.
    pub(crate) pool: String,
    /// Whether what lies there was written to other media first.
    pub(crate) copies: bool,
    /// When everything on it was last read and found to be as it was sealed, nanoseconds since 1970.
    pub(crate) verified: Option<i64>,
    /// Since when it is not needed any more.
    pub(crate) retired: Option<i64>,
    /// What lies there.
    pub(crate) holds: Vec<Holding>,
}

/// What a medium holds of one chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Holding {
    /// Uuid of the volume.
    pub(crate) volume: String,
    /// Where it was mounted, on which host.
    pub(crate) named: String,
    /// The chain.
    pub(crate) chain: String,
    /// Runs of segment indexes, first and last.
    pub(crate) segments: Vec<(u64, u64)>,
    /// Bytes of these.
    pub(crate) bytes: u64,
    /// Time of the first and last record, nanoseconds since 1970.
    pub(crate) times: (i64, i64),
    /// Marks and bases.
    pub(crate) points: Vec<Known>,
    /// Media that the index on it tells of, with the runs of segments that lie there.
    pub(crate) before: Vec<(String, Vec<(u64, u64)>)>,
}

/// A mark, or the begin or end of a base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Known {
    pub(crate) epoch: u64,
    /// Index of its segment.
    pub(crate) index: u64,
    #[serde(flatten)]
    pub(crate) point: Point,
}

impl Medium {
    /// One of which only the label is known.
    pub(crate) fn new(label: &Label) -> Self {
        Self {
            uuid: label.medium.clone(),
            name: label.name.clone(),
            pool: label.pool.clone(),
            copies: label.copies,
            verified: None,
            retired: None,
            holds: Vec::new(),
        }
    }

    /// Whether a segment of a volume's chain lies there.
    pub(crate) fn has(&self, volume: &str, chain: &str, index: u64) -> bool {
        let mut held = self.holds.iter();
        held.any(|held| held.volume == volume && held.chain == chain && holds(&held.segments, index))
    }

    /// Enters a segment that was put there.
    pub(crate) fn take(&mut self, manifest: &Manifest) {
        let Manifest { volume, chain, .. } = manifest;
        if self.has(&volume.uuid, chain, manifest.index) {
            return;
        }
        let mut held = self.holds.iter_mut();
        match held.find(|held| held.volume == volume.uuid && held.chain == *chain) {
            Some(held) => held.take(manifest),
            None => {
                let mut held = Holding {
                    volume: volume.uuid.clone(),
                    named: named(&volume.hostname, &volume.mount_path),
                    chain: chain.clone(),
                    segments: Vec::new(),
                    bytes: 0,
                    times: (manifest.first_time_ns, manifest.last_time_ns),
                    points: Vec::new(),
                    before: Vec::new(),
                };
                held.take(manifest);
                self.holds.push(held);
            }
        }
    }
}

/// A volume, by its host and where it is mounted there.
fn named(hostname: &str, mount_path: &str) -> String {
    format!("{hostname}:{mount_path}")
}

impl Holding {
    /// What lies on the medium of this journal; `None` where only an index tells of it.
    pub(super) fn of(journal: &Journal) -> Option<Self> {
        let (mut segments, mut bytes, mut times) = (Vec::new(), 0, None);
        let mut before: Vec<(String, Vec<(u64, u64)>)> = Vec::new();
        for segment in journal.all_segments() {
            let Manifest {
                index,
                bytes: size,
                first_time_ns,
                last_time_ns,
                ..
            } = segment.manifest;
            if segment.is_carried() {
                let named = segment.lies_on().to_string();
                match before.iter_mut().find(|(medium, _)| *medium == named) {
                    Some((_, runs)) => add(runs, index),
                    None => before.push((named, vec![(index, index)])),
                }
                continue;
            }
            add(&mut segments, index);
            bytes += size;
            let (first, _) = times.unwrap_or((first_time_ns, last_time_ns));
            times = Some((first, last_time_ns));
        }
        let points = journal
            .points()
            .filter(|(_, index, point)| holds(&segments, *index) && is_known(point))
            .map(|(epoch, index, point)| Known {
                epoch,
                index,
                point: point.clone(),
            })
            .collect();
        let volume = journal.volume();
        Some(Self {
            volume: volume.uuid.clone(),
            named: named(&volume.hostname, &volume.mount_path),
            chain: journal.chain().to_owned(),
            segments,
            bytes,
            times: times?,
            points,
            before,
        })
    }

    /// Enters a segment, which it has not yet.
    fn take(&mut self, manifest: &Manifest) {
        let Manifest { epoch, index, .. } = *manifest;
        self.segments.push((index, index));
        self.segments.sort_unstable();
        self.segments = joined(&self.segments);
        self.bytes += manifest.bytes;
        let (first, last) = self.times;
        self.times = (first.min(manifest.first_time_ns), last.max(manifest.last_time_ns));
        let of_history = manifest.points.iter().filter(|_| manifest.checkpoint.is_none());
        let points = of_history.filter(|point| is_known(point)).cloned();
        self.points
            .extend(points.map(|point| Known { epoch, index, point }));
    }
}

/// Whether a point is one that stands in the catalog.
fn is_known(point: &Point) -> bool {
    matches!(
        point.kind,
        PointKind::Mark | PointKind::BaseBegin | PointKind::BaseEnd
    )
}

/// Runs that touch or overlap as one.
pub(super) fn joined(sorted: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &(first, last) in sorted {
        match runs.last_mut() {
            Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
            _ => runs.push((first, last)),
        }
    }
    runs
}

/// Adds an index to runs, of which it is the highest.
pub(crate) fn add(runs: &mut Vec<(u64, u64)>, index: u64) {
    match runs.last_mut() {
        Some((_, last)) if *last + 1 >= index => *last = index,
        _ => runs.push((index, index)),
    }
}

/// Whether an index is in one of the runs.
pub(super) fn holds(runs: &[(u64, u64)], index: u64) -> bool {
    runs.iter().any(|(first, last)| (*first..=*last).contains(&index))
}

impl Catalog {
    /// What is known on this host; nothing where there is no catalog.
    ///
    /// # Errors
    /// A catalog that is none: it can be removed, and is made anew.
    pub(crate) fn read() -> Result<Self> {
        Self::read_from(&SystemDisk, Path::new(PATH))
    }

    pub(crate) fn read_from(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let bytes = match disk.read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self {
                    format: FORMAT,
                    media: Vec::new(),
                    keys: BTreeMap::new(),
                });
            }
            bytes => bytes.with_context(|| format!("read {}", path.display()))?,
        };
        let catalog: Self = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is no catalog: remove it, `recorder media scan` makes it anew from the media",
                path.display()
            )
        })?;
        ensure!(
            catalog.format == FORMAT,
            "{} is of another version: remove it, `recorder media scan` makes it anew",
            path.display()
        );
        Ok(catalog)
    }

    /// Changes it, for whoever comes next: whole, or not at all. Nobody else does meanwhile, so nothing slow belongs in here.
    ///
    /// # Errors
    /// What `change` says, and what the system says.
    pub(crate) fn change<T>(change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        Self::change_at(Path::new(PATH), change)
    }

    /// As [`Catalog::change`], of the catalog at a path.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn change_at<T>(path: &Path, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let context = || format!("lock {}", path.display());
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).with_context(context)?;
        // Of a directory, so that no file is left behind for it.
        let lock = File::open(dir).with_context(context)?;
        flock(&lock, FlockOperation::LockExclusive).with_context(context)?;
        let mut catalog = Self::read_from(&SystemDisk, path)?;
        let changed = change(&mut catalog)?;
        catalog.write_to(&SystemDisk, path)?;
        Ok(changed)
    }

    fn write_to(&self, disk: &dyn Disk, path: &Path) -> Result<()> {
        let context = || format!("write {}", path.display());
        let bytes = serde_json::to_vec_pretty(self).with_context(context)?;
        disk::replace(disk, path, &bytes).with_context(context)
    }

    /// The medium of this uuid.
    pub(crate) fn get(&self, uuid: &str) -> Option<&Medium> {
        self.media.iter().find(|medium| medium.uuid == uuid)
    }

    /// The medium that is called so, or has this uuid.
    pub(crate) fn named(&self, named: &str) -> Option<&Medium> {
        self.media
            .iter()
            .find(|medium| medium.uuid == named || medium.name == named)
    }

    /// Trusts the key that a volume's journal is signed with where it is met for the first time.
    ///
    /// # Errors
    /// Exit code 12 where it is another one than then, or none.
    pub(crate) fn trust(&mut self, volume: &str, key: Option<PublicKey>) -> Result<()> {
        let found = key.map_or_else(String::new, |key| key.to_string());
        match self.keys.get(volume) {
            None => {
                if let Some(key) = key {
                    eprintln!(
                        "volume {volume} is signed with key {}: trusted from now on (first use)",
                        key.fingerprint()
                    );
                    self.keys.insert(volume.to_owned(), found);
                }
                Ok(())
            }
            Some(trusted) if *trusted == found => Ok(()),
            Some(trusted) => Err(coded(
                WRONG_KEY,
                format!(
                    "what lies there of volume {volume} is {}, and it was signed with key {trusted} when it was first met: it is not what it seems, \
                     or the host has another key now; then remove that key from {PATH}",
                    match key {
                        Some(key) => format!("signed with key {key}"),
                        None => "not signed".to_owned(),
                    }
                ),
            )),
        }
    }

    /// Enters a medium, in place of what was known of it; but what it cannot tell itself is kept.
    pub(crate) fn put(&mut self, mut medium: Medium) {
        if let Some(before) = self.get(&medium.uuid) {
            medium.verified = medium.verified.or(before.verified);
            medium.retired = medium.retired.or(before.retired);
        }
        self.media.retain(|other| other.uuid != medium.uuid);
        self.media.push(medium);
        self.media.sort_by(|a, b| a.uuid.cmp(&b.uuid));
    }

    /// Enters what a medium holds of one volume: what is known of others there is somebody else's, and stays.
    pub(crate) fn put_of(&mut self, volume: &str, mut medium: Medium) {
        if let Some(before) = self.get(&medium.uuid) {
            let others = before.holds.iter().filter(|held| held.volume != volume);
            let is_known = |held: &Holding| before.holds.iter().any(|known| known.volume == held.volume);
            medium
                .holds
                .retain(|held| held.volume == volume || !is_known(held));
            medium.holds.extend(others.cloned());
        }
        self.put(medium);
    }

    /// Media in use.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = &Medium> {
        self.media.iter().filter(|medium| medium.retired.is_none())
    }

    /// Segments of a medium that lie on no other one in use, by volume and chain.
    pub(crate) fn single_copy(&self, medium: &Medium) -> Vec<(Holding, Vec<(u64, u64)>)> {
        let others = || self.in_use().filter(|other| other.uuid != medium.uuid);
        medium
            .holds
            .iter()
            .filter_map(|holding| {
                let is_elsewhere = |index| {
                    others().flat_map(|other| &other.holds).any(|other| {
                        other.volume == holding.volume
                            && other.chain == holding.chain
                            && holds(&other.segments, index)
                    })
                };
                let mut runs = Vec::new();
                for (first, last) in &holding.segments {
                    (*first..=*last)
                        .filter(|index| !is_elsewhere(*index))
                        .for_each(|index| add(&mut runs, index));
                }
                (!runs.is_empty()).then(|| (holding.clone(), runs))
            })
            .collect()
    }

    /// Refuses to retire a medium that holds the only copy of something.
    pub(super) fn check_retire(&self, medium: &Medium) -> Result<()> {
        match self.single_copy(medium).first() {
            None => Ok(()),
            Some((holding, runs)) => Err(coded(
                FAILED,
                format!(
                    "medium {} holds the only copy of segments {} of {} ({}): `recorder retention plan` tells which media are not needed any more",
                    medium.name,
                    show_runs(runs),
                    holding.named,
                    holding.volume
                ),
            )),
        }
    }
}

/// Runs for people: `1 to 3, 5`.
pub(crate) fn show_runs(runs: &[(u64, u64)]) -> String {
    let shown: Vec<String> = runs
        .iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first} to {last}"),
        })
        .collect();
    shown.join(", ")
}
