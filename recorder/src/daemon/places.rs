//! Where media may be mounted, and with which of those that are there a recording begins.
//!
//! Owns what must be true of a directory before it is taken for a medium, and of a medium before it is written to.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use journal::store::{DirStore, Store as _};
use journal::{Head, Label, Manifest, Naming, Signer, copy_index};

use super::shelf::{Held, Shelf, forget, host_directory};
use crate::cli::exit::{FAILED, MEDIUM_FULL, MEDIUM_NEEDED, coded};
use crate::config::VolumeConfig;
use crate::status::bytes as human;

/// Least room on a medium to begin with, in bytes: label, replayer and a first segment.
const MEDIUM_BYTES_MIN: u64 = 32 << 20;

/// Directories where media may be mounted, in the order in which they are taken.
pub(super) struct Places {
    pub(super) paths: Vec<PathBuf>,
    /// Recorded devices, with where they are mounted: no medium lies there.
    recorded: Vec<(u64, PathBuf)>,
}

impl Places {
    /// With the devices that are recorded, and where these are mounted.
    pub(super) fn new(paths: Vec<PathBuf>, recorded: Vec<(u64, PathBuf)>) -> Self {
        Self { paths, recorded }
    }

    /// Opens what is there as a store that can be written to.
    ///
    /// # Errors
    /// Why not, with what to do.
    pub(super) fn open(&self, path: &Path) -> Result<DirStore> {
        let named = path.display();
        let found = fs::metadata(path).map_err(|error| {
            coded(
                MEDIUM_NEEDED,
                format!("medium {named}: {error}; mount it there, or name another place"),
            )
        })?;
        if !found.is_dir() {
            return Err(coded(MEDIUM_NEEDED, format!("medium {named} is not a directory")));
        }
        if let Some((_, mount_point)) = self.recorded.iter().find(|(device, _)| *device == found.dev()) {
            return Err(coded(
                FAILED,
                format!(
                    "medium {named} lies on {}, which is to be recorded: the journal must be on another disk",
                    mount_point.display()
                ),
            ));
        }
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK)
            .map_err(|error| coded(FAILED, format!("medium {named} cannot be written: {error}")))?;
        DirStore::open(path).with_context(|| format!("open medium {named}"))
    }
}

/// Refuses a medium on which too little fits to begin with.
pub(super) fn check_room(store: &DirStore) -> Result<()> {
    let named = store.describe();
    let free = store
        .bytes_free()
        .with_context(|| format!("measure medium {named}"))?;
    match free.filter(|&free| free < MEDIUM_BYTES_MIN) {
        None => Ok(()),
        Some(free) => Err(coded(
            MEDIUM_FULL,
            format!(
                "medium {named} is full: {} free, at least {} are needed",
                human(free),
                human(MEDIUM_BYTES_MIN)
            ),
        )),
    }
}

/// The volume that an object is of, by its name.
pub(super) fn volume_of(name: &str) -> Option<&str> {
    name.split_once('/').map(|(uuid, _)| uuid)
}

/// Opens the media of a volume: goes on where its journal ends, on the next medium where the last one was finished before, or on the first one
/// that is fit, which is labelled where it is new.
///
/// # Errors
/// What keeps the first one from being used, with its exit code.
pub(super) fn shelf(
    config: &VolumeConfig,
    uuid: &str,
    recorded: &[(u64, PathBuf)],
    signer: &Signer,
    replayer: impl Fn() -> Result<Vec<u8>>,
) -> Result<Arc<Shelf>> {
    let places = Places::new(config.media.clone(), recorded.to_owned());
    let host_dir = host_directory(&config.spool.join(uuid))?;
    let mut first_error = None;
    let mut there = Vec::new();
    for path in &places.paths {
        match labelled(&places, path) {
            Ok(found) => there.push((path.clone(), found)),
            Err(error) if places.paths.len() > 1 => {
                eprintln!("{error:#}");
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let mut holding = Vec::new();
    let mut empty = Vec::new();
    for (path, (store, label)) in there {
        match label {
            Some(label) if !label.copies => match end(&store, uuid)? {
                Some(end) => holding.push((end, Held::new(store, label, &path))),
                None => empty.push((path, store, Some(label))),
            },
            Some(label) => eprintln!("medium {}: {} is for copies", path.display(), label.named()),
            None => empty.push((path, store, None)),
        }
    }
    let current = match newest(&holding) {
        Some(newest) => {
            let host = DirStore::open(&host_dir).with_context(|| format!("open {}", host_dir.display()))?;
            forget(&host, &host_dir)?;
            holding.swap_remove(newest).1
        }
        None => {
            let fit = |(_, store, _): &(PathBuf, DirStore, Option<Label>)| check_room(store).is_ok();
            let Some((path, store, label)) = empty.into_iter().find(fit) else {
                return Err(first_error
                    .unwrap_or_else(|| coded(MEDIUM_NEEDED, "no medium is there that can be written to")));
            };
            begin(uuid, &path, store, label, &host_dir, signer, replayer)?
        }
    };
    let earlier = holding.into_iter().map(|(_, held)| held).collect();
    Ok(Arc::new(Shelf::new(uuid, places, &host_dir, current, earlier)?))
}

/// Which of these ends the journal: within a chain the indexes decide, whatever the clock said; chains know nothing of each other but the time.
fn newest<T>(ends: &[(Manifest, T)]) -> Option<usize> {
    let is_last = |(end, _): &(Manifest, T)| {
        ends.iter()
            .all(|(other, _)| other.chain != end.chain || other.index <= end.index)
    };
    let last = ends.iter().enumerate().filter(|(_, end)| is_last(end));
    last.max_by_key(|(_, (end, _))| end.last_time_ns)
        .map(|(at, _)| at)
}

/// A medium that holds nothing of the volume: labelled where it is new. Where the medium before it was finished, it gets what it is to carry.
fn begin(
    uuid: &str,
    path: &Path,
    store: DirStore,
    label: Option<Label>,
    host_dir: &Path,
    signer: &Signer,
    replayer: impl Fn() -> Result<Vec<u8>>,
) -> Result<Held> {
    let named = path.display();
    let label = match label {
        Some(label) => label,
        None => {
            let naming = Naming {
                signer: Some(signer.clone()),
                ..Naming::default()
            };
            let label = Label::ensure_as(&store, &replayer()?, crate::snapshot::now_ns(), &naming)
                .with_context(|| format!("label medium {named}"))?;
            eprintln!("medium {named}: labelled {}", label.named());
            label
        }
    };
    let host = DirStore::open(host_dir).with_context(|| format!("open {}", host_dir.display()))?;
    let carried = host.list()?.into_iter().find_map(|object| {
        let index = object.name.strip_prefix(uuid)?.strip_prefix('/')?;
        index.strip_suffix(".index")?.parse::<u64>().ok()
    });
    if let Some(next_index) = carried {
        copy_index(uuid, next_index, &host, &store)
            .with_context(|| format!("put the index on medium {named}"))?;
        forget(&host, host_dir)?;
        eprintln!("medium {named}: the journal goes on here with segment {next_index}");
    }
    Ok(Held::new(store, label, path))
}

/// What is at a place: a store without what an interrupted recorder left, and its label, if it has one.
fn labelled(places: &Places, path: &Path) -> Result<(DirStore, Option<Label>)> {
    let named = path.display();
    let store = places.open(path)?;
    // Of several, a full one may hold the end of the journal, and another one is next.
    if let [_only] = places.paths.as_slice() {
        check_room(&store)?;
    }
    let removed = store
        .remove_unsealed()
        .with_context(|| format!("tidy medium {named}"))?;
    if removed > 0 {
        eprintln!("medium {named}: removed {removed} files that an interrupted recorder left unsealed");
    }
    let label = Label::read(&store).with_context(|| format!("read the label of {named}"))?;
    Ok((store, label))
}

/// What the volume's journal on a medium ends with; `None` where nothing of it is there.
fn end(store: &DirStore, uuid: &str) -> Result<Option<Manifest>> {
    let holds = store
        .list()?
        .iter()
        .any(|object| volume_of(&object.name) == Some(uuid));
    if !holds {
        return Ok(None);
    }
    Ok(Head::manifest(store, uuid)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_a_chain_the_index_decides_and_not_the_clock() {
        let end = |chain: &str, index: u64, last_time_ns: i64| {
            let mut manifest: Manifest = serde_json::from_str(MANIFEST).unwrap();
            chain.clone_into(&mut manifest.chain);
            (manifest.index, manifest.last_time_ns) = (index, last_time_ns);
            (manifest, ())
        };
        assert_eq!(newest::<()>(&[]), None);
        // The clock was set back between the two media.
        assert_eq!(newest(&[end("a", 9, 100), end("a", 4, 500)]), Some(0));
        assert_eq!(
            newest(&[end("a", 4, 500), end("a", 9, 100), end("b", 1, 300)]),
            Some(2)
        );
        assert_eq!(
            newest(&[end("b", 7, 200), end("a", 4, 500), end("a", 9, 400)]),
            Some(2)
        );
    }

    const MANIFEST: &str = r#"{ "format": 7, "volume": { "uuid": "u", "fs_type": "ext4", "label": "", "block_size": 4096, "size_bytes": 0,
        "root": { "ino": 2, "generation": 0 }, "mount_path": "", "hostname": "" }, "epoch": 1, "index": 1, "first_seq": 1, "last_seq": 1,
        "first_time_ns": 0, "last_time_ns": 0, "records": 1, "bytes": 0, "blake3": "", "row_groups": [], "previous": null, "void_indexes": [],
        "points": [], "writer": "" }"#;
}
