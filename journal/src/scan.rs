//! Finds the journals on any number of media. Everything read here comes from outside and is doubted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::chain::{Journal, Problem};
use crate::crypt::Identities;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::label::{LABEL_NAME, Label, MediumName};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, is_encrypted_name, parse_index_name, parse_name};
use crate::reader::{Remains, Segment, is_no_object};
use crate::store::{ObjectInfo, Store};

/// What the loss of a label costs.
const LABEL_COST: &str = "it costs the medium's own number, and nothing of the journals beside it";

/// All journals on the media given.
pub struct Reader {
    media: Vec<(Arc<dyn Store>, Option<Label>)>,
    /// By volume and begin.
    journals: Vec<Journal>,
    notices: Vec<String>,
    label_problems: Vec<String>,
    index_problems: Vec<String>,
    /// Segments that no manifest vouches for and that none declares void, by volume and index.
    loose: BTreeMap<(String, u64), Remains>,
    /// Volumes of which no manifest can be read, and what is wrong with those.
    lost_volumes: BTreeMap<String, Vec<String>>,
}

/// What a scan of media gathers.
#[derive(Default)]
struct Found {
    /// By volume and chain.
    journals: BTreeMap<(String, String), Journal>,
    /// Manifests that cannot be read, by volume: the index in the name, and what is wrong.
    damaged: BTreeMap<String, Vec<(u64, String)>>,
    /// Segments without a sound manifest, by volume and index.
    loose: BTreeMap<(String, u64), Remains>,
    notices: Vec<String>,
    /// Indexes that cannot be read: they cost what only they carry.
    index_problems: Vec<String>,
    /// Who reads what is encrypted.
    identities: Identities,
}

impl Reader {
    /// Scans media: labels and manifests; no segment is read. What is damaged is kept in mind, so that the rest can be told apart from it.
    ///
    /// # Errors
    /// [`Error::NoJournal`] where nothing is there, [`Error::Integrity`] where nothing sound is.
    pub fn open(stores: Vec<Arc<dyn Store>>) -> Result<Self> {
        Self::open_with(stores, &Identities::default())
    }

    /// As [`Reader::open`], for whoever holds identities that segments may be encrypted to.
    ///
    /// # Errors
    /// As for [`Reader::open`].
    pub fn open_with(stores: Vec<Arc<dyn Store>>, identities: &Identities) -> Result<Self> {
        let mut found = Found {
            identities: identities.clone(),
            ..Found::default()
        };
        let (mut media, mut label_problems) = (Vec::new(), Vec::new());
        for store in stores {
            let objects = store
                .list()
                .map_err(|error| Error::io(format!("list {}", store.describe()), error))?;
            let holds_journals = objects.iter().any(|object| parse_name(&object.name).is_some());
            let label = match Label::read(&*store) {
                Ok(None) if !holds_journals => {
                    return Err(Error::NoJournal(format!(
                        "{} has no label ({LABEL_NAME})",
                        store.describe()
                    )));
                }
                Ok(None) => {
                    label_problems.push(format!(
                        "the label of {} ({LABEL_NAME}) is missing, and segments are there: {LABEL_COST}",
                        store.describe()
                    ));
                    None
                }
                Err(Error::Integrity(why)) => {
                    label_problems.push(format!("{why}: {LABEL_COST}"));
                    None
                }
                Err(error) => return Err(error),
                Ok(label) => label,
            };
            let named = label.as_ref().map(Label::named).unwrap_or_default();
            for object in &objects {
                match parse_index_name(&object.name) {
                    Some((uuid, _)) => found.take_index(&store, &object.name, uuid)?,
                    None => found.take(&store, object, &objects, &named)?,
                }
            }
            media.push((store, label));
        }
        let mut reader = found.finish();
        if reader.journals.is_empty() {
            let problems: Vec<String> = label_problems
                .into_iter()
                .chain(reader.lost_volumes.into_values().flatten())
                .collect();
            if !problems.is_empty() {
                return Err(Error::Integrity(problems.join("; ")));
            }
            let names: Vec<String> = media.iter().map(|(store, _)| store.describe()).collect();
            return Err(Error::NoJournal(format!(
                "{}: labelled, but nothing was sealed",
                names.join(", ")
            )));
        }
        label_problems.extend(
            media
                .iter()
                .filter_map(|(store, label)| reader.foreign_label(store, label.as_ref()?)),
        );
        (reader.media, reader.label_problems) = (media, label_problems);
        Ok(reader)
    }

    /// A segment says on which medium it was written. On one that holds copies, that is another; before format 7, a chain bears the number
    /// of the medium that it began on, and stays there.
    fn foreign_label(&self, store: &Arc<dyn Store>, label: &Label) -> Option<String> {
        let there = self
            .journals
            .iter()
            .flat_map(Journal::all_segments)
            .filter(|segment| segment.is_on(store))
            .map(|segment| match &segment.manifest {
                Manifest { medium, chain, .. } if medium.is_empty() => chain.as_str(),
                Manifest { medium, .. } => medium.as_str(),
            });
        let media: BTreeSet<&str> = there.filter(|medium| !medium.is_empty()).collect();
        let is_foreign = !media.is_empty() && !label.copies && !media.contains(label.medium.as_str());
        is_foreign.then(|| {
            let media: Vec<&str> = media.into_iter().collect();
            format!(
                "the label of {} is that of medium {}, and what lies there was written to {}: {LABEL_COST}",
                store.describe(),
                label.medium,
                media.join(", ")
            )
        })
    }

    /// What is wrong with labels; the journals beside them are not touched by it.
    pub fn label_problems(&self) -> &[String] {
        &self.label_problems
    }

    /// Volumes of which there are manifests, and none that is sound, with what is wrong.
    pub fn lost_volumes(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.lost_volumes
            .iter()
            .map(|(uuid, problems)| (uuid.as_str(), problems.as_slice()))
    }

    /// What is wrong with media beside the journals: their labels, what lies there to explain them, and segments that no manifest
    /// vouches for and no crash leaves.
    ///
    /// # Errors
    /// Where reading itself fails.
    pub fn verify_media(&self) -> Result<Vec<String>> {
        let mut problems = self.label_problems.clone();
        problems.extend(self.index_problems.iter().cloned());
        problems.extend(self.lost_volumes.values().flatten().cloned());
        for (store, label) in &self.media {
            if let Some(label) = label {
                problems.extend(label.verify_objects(&**store)?);
            }
        }
        for ((uuid, index), remains) in &self.loose {
            problems.extend(stray(remains, uuid, *index)?);
        }
        Ok(problems)
    }

    /// Files that were ignored, and why.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The journals found: by volume, the oldest first within one.
    pub fn journals(&self) -> impl Iterator<Item = &Journal> {
        self.journals.iter()
    }

    /// All journals of one volume, or of the only one, the oldest first; never none.
    ///
    /// # Errors
    /// [`Error::NoJournal`] naming the volumes that are there.
    pub fn volume(&self, uuid: Option<&str>) -> Result<Vec<&Journal>> {
        let mut uuids: Vec<&str> = self
            .journals
            .iter()
            .map(|journal| journal.volume().uuid.as_str())
            .collect();
        uuids.dedup();
        let names = uuids.join(", ");
        let uuid = match (uuid, uuids.as_slice()) {
            (Some(uuid), uuids) if uuids.contains(&uuid) => uuid,
            (Some(uuid), _) => return Err(Error::NoJournal(format!("volume {uuid}; there are: {names}"))),
            (None, [only]) => only,
            (None, _) => {
                return Err(Error::NoJournal(format!("several volumes, name one of: {names}")));
            }
        };
        Ok(self
            .journals
            .iter()
            .filter(|journal| journal.volume().uuid == uuid)
            .collect())
    }

    /// The only journal of one volume, or of the only one.
    ///
    /// # Errors
    /// [`Error::NoJournal`], also where media hold several chains of the volume.
    pub fn journal(&self, uuid: Option<&str>) -> Result<&Journal> {
        match self.volume(uuid)?.as_slice() {
            [only] => Ok(only),
            several => Err(Error::NoJournal(format!(
                "that is one: the media hold {} chains of volume {}",
                several.len(),
                several.first().map_or("", |journal| &journal.volume().uuid)
            ))),
        }
    }
}

impl Found {
    fn take(
        &mut self,
        store: &Arc<dyn Store>,
        object: &ObjectInfo,
        objects: &[ObjectInfo],
        named: &MediumName,
    ) -> Result<()> {
        let ObjectInfo { name, bytes: _ } = object;
        let Some((uuid, index, is_manifest)) = parse_name(name) else {
            if name.contains('/') {
                self.notices
                    .push(format!("{name} on {} is none of ours: ignored", store.describe()));
            }
            return Ok(());
        };
        if !is_manifest {
            let manifest = crate::manifest::manifest_name(uuid, index);
            if objects
                .binary_search_by(|other| other.name.cmp(&manifest))
                .is_err()
            {
                self.loose(store, name, (uuid, index));
                self.notices
                    .push(format!("{name} has no manifest: it was never completed, ignored"));
            }
            return Ok(());
        }
        let (manifest, manifest_hash) = match read_manifest(&**store, name) {
            Ok(read) => read,
            Err(Error::Integrity(why)) => {
                let why = format!("{why} ({})", store.describe());
                self.damaged
                    .entry(uuid.to_owned())
                    .or_default()
                    .push((index, why));
                let mut names = objects.iter().map(|object| object.name.as_str());
                let segment = names.find(|name| parse_name(name) == Some((uuid, index, false)));
                if let Some(segment) = segment {
                    self.loose(store, segment, (uuid, index));
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.insert(Segment::new(
            manifest,
            manifest_hash,
            Arc::clone(store),
            named.clone(),
            &self.identities,
        ));
        Ok(())
    }

    /// Takes what an index carries. One that cannot be read is said: what only it carries is missing then.
    fn take_index(&mut self, store: &Arc<dyn Store>, name: &str, uuid: &str) -> Result<()> {
        let mut broken = |why: String| {
            self.index_problems.push(format!(
                "{why}: the media before it must be given to know what they hold"
            ));
            Ok(())
        };
        let index = match Index::open(&**store, name, uuid) {
            Ok(index) => Arc::new(index),
            Err(Error::Integrity(why)) => return broken(why),
            Err(error) => return Err(error),
        };
        for carried in &index.segments {
            match Segment::carried(&index, carried, Arc::clone(store), &self.identities) {
                Ok(segment) => self.insert(segment),
                Err(Error::Integrity(why)) => self
                    .index_problems
                    .push(format!("{why} ({name} on {})", store.describe())),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Keeps a segment: of several copies the first, but none that is only carried where another one is whole.
    fn insert(&mut self, segment: Segment) {
        let index = segment.manifest.index;
        let key = (
            segment.manifest.volume.uuid.clone(),
            segment.manifest.chain.clone(),
        );
        let Journal {
            segments: history,
            checkpoints,
            problems,
            ..
        } = self.journals.entry(key).or_default();
        let segments = match segment.manifest.checkpoint {
            None => history,
            Some(_) => checkpoints,
        };
        match segments.get(&index) {
            Some(other) if other.manifest_hash != segment.manifest_hash => problems.push(Problem {
                is_missing: false,
                text: format!(
                    "segment {index} is not the same on {} and {}",
                    other.medium(),
                    segment.medium()
                ),
            }),
            Some(other) if !other.is_carried() || segment.is_carried() => {}
            _ => _ = segments.insert(index, segment),
        }
    }

    fn loose(&mut self, store: &Arc<dyn Store>, name: &str, (uuid, index): (&str, u64)) {
        let remains = Remains {
            store: Arc::clone(store),
            name: name.to_owned(),
        };
        self.loose.insert((uuid.to_owned(), index), remains);
    }

    fn finish(self) -> Reader {
        let Self {
            journals,
            mut damaged,
            mut loose,
            mut notices,
            index_problems,
            identities: _,
        } = self;
        let mut journals: Vec<Journal> = journals.into_values().collect();
        for journal in &mut journals {
            let void: BTreeSet<u64> = journal
                .all_segments()
                .flat_map(|segment| segment.manifest.void_indexes.iter().copied())
                .collect();
            notices.extend(journal.drop_void());
            journal.check_chain();
            let uuid = journal.volume().uuid.clone();
            // What cannot be read does not say of which chain it was: every chain of the volume is in doubt.
            let newest = journal
                .all_segments()
                .last()
                .map_or(0, |segment| segment.manifest.index);
            for (index, why) in damaged.get(&uuid).into_iter().flatten() {
                if void.contains(index) {
                    notices.push(format!("{why}: declared void by a later segment, ignored"));
                    continue;
                }
                journal.problems.push(Problem {
                    is_missing: false,
                    text: why.clone(),
                });
                if *index > newest {
                    journal.gaps.push(*index..=*index);
                }
            }
            loose.retain(|(volume, index), _| {
                *volume != uuid || !(void.contains(index) || journal.segment(*index).is_ok())
            });
            journal.loose = loose
                .range((uuid.clone(), 0)..=(uuid, u64::MAX))
                .map(|((_, index), remains)| (*index, remains.clone()))
                .collect();
        }
        // A volume all of whose manifests are damaged must not look like one that was never there.
        damaged.retain(|uuid, _| !journals.iter().any(|journal| journal.volume().uuid == *uuid));
        let lost_volumes = damaged
            .into_iter()
            .map(|(uuid, problems)| (uuid, problems.into_iter().map(|(_, why)| why).collect()))
            .collect();
        journals.sort_by(|a, b| {
            let key = |journal: &Journal| (journal.volume().uuid.clone(), journal.begin_time_ns());
            key(a).cmp(&key(b))
        });
        Reader {
            media: Vec::new(),
            journals,
            notices,
            label_problems: Vec::new(),
            index_problems,
            loose,
            lost_volumes,
        }
    }
}

/// What is wrong with a segment that no manifest vouches for. A crash leaves one that says the same of itself as its name does.
fn stray(remains: &Remains, uuid: &str, index: u64) -> Result<Option<String>> {
    // Its key is in the manifest that it has none of: nothing can be told of it.
    if is_encrypted_name(&remains.name) {
        return Ok(None);
    }
    let on = remains.store.describe();
    let segment = match remains.open() {
        Ok(segment) => segment,
        Err(Error::Integrity(why)) => {
            return Ok(Some(format!(
                "{why} ({on}): foreign; it costs nothing of the journal"
            )));
        }
        // Its manifest is there, and damaged, and is reported.
        Err(Error::Io { source, .. }) if is_no_object(&source) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (volume, own) = (segment.key("volume"), segment.key("index"));
    Ok((volume != Some(uuid) || own != Some(index.to_string().as_str())).then(|| {
        format!(
            "{} on {on} is segment {} of volume {}: copied or renamed; as it lies there it costs nothing of the journal",
            remains.name,
            own.unwrap_or("?"),
            volume.unwrap_or("?")
        )
    }))
}

/// Reads a manifest and the hash of its bytes.
pub(crate) fn read_manifest(store: &dyn Store, name: &str) -> Result<(Manifest, String)> {
    let context = |error| Error::io(format!("read {name} on {}", store.describe()), error);
    let object = store.open(name).map_err(context)?;
    if object.bytes() > MANIFEST_BYTES_MAX {
        return Err(Error::Integrity(format!(
            "{name} has {} bytes: no manifest is so large",
            object.bytes()
        )));
    }
    let mut bytes = vec![0; usize::try_from(object.bytes()).unwrap_or(0)];
    object.read_exact_at(&mut bytes, 0).map_err(context)?;
    Ok((
        Manifest::from_bytes(&bytes, name)?,
        blake3::hash(&bytes).to_hex().to_string(),
    ))
}
