//! Where a volume's chain on a medium ends: what a writer finds there before it goes on.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::index::newest_carried;
use crate::label::Label;
use crate::manifest::{FORMAT_VERSION, Manifest, index_name, manifest_name, parse_index_name, parse_name};
use crate::scan::read_manifest;
use crate::store::Store;
use crate::writer::VOID_INDEXES_MAX;

/// The end of a volume's chain on a medium, as far as it takes to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The chain.
    pub chain: String,
    /// Its newest epoch.
    pub epoch: u64,
    /// Last sequence number that is sealed in it.
    pub last_seq: u64,
}

impl Head {
    /// The end of the volume's chain on a medium; `None` where nothing of the volume is there.
    ///
    /// # Errors
    /// As [`crate::Writer::open`].
    pub fn of(store: &dyn Store, uuid: &str) -> Result<Option<Self>> {
        Ok(End::find(store, uuid)?.newest.map(|(manifest, _)| Self {
            last_seq: history_end(&manifest),
            chain: manifest.chain,
            epoch: manifest.epoch,
        }))
    }

    /// The manifest that the volume's journal on a medium ends with; `None` where nothing of the volume is there.
    ///
    /// # Errors
    /// As [`crate::Writer::open`].
    pub fn manifest(store: &dyn Store, uuid: &str) -> Result<Option<Manifest>> {
        Ok(End::find(store, uuid)?.newest.map(|(manifest, _)| manifest))
    }
}

/// Last number of the history that is sealed with a segment.
fn history_end(manifest: &Manifest) -> u64 {
    manifest.sealed_seq.unwrap_or(manifest.last_seq)
}

/// What a writer finds on a medium.
pub(crate) struct End {
    pub(crate) label: Label,
    /// The newest manifest of the volume, and its hash.
    pub(crate) newest: Option<(Manifest, String)>,
    /// Indexes after it that are taken by segments without a manifest.
    pub(crate) void: Vec<u64>,
}

impl End {
    pub(crate) fn find(store: &dyn Store, uuid: &str) -> Result<Self> {
        let label = Label::of_writable(store)?;
        let objects = store
            .list()
            .map_err(|error| Error::io(format!("list {}", store.describe()), error))?;
        let (mut newest_manifest, mut newest_index) = (0, 0);
        for object in &objects {
            if let Some((volume, index, is_manifest)) = parse_name(&object.name)
                && volume == uuid
            {
                newest_index = newest_index.max(index);
                if is_manifest {
                    newest_manifest = newest_manifest.max(index);
                }
            }
        }
        let mut newest = None;
        if newest_manifest > 0 {
            let name = manifest_name(uuid, newest_manifest);
            // Whoever sealed it may have died, or met an error, between its name and the sync of that: it was not reported as sealed then.
            store
                .make_durable(&name)
                .map_err(|error| Error::io(format!("make {name} durable"), error))?;
            let (manifest, hash) = read_manifest(store, &name)?;
            if manifest.format != FORMAT_VERSION {
                return Err(Error::Integrity(format!(
                    "{name} has another format than the label of its medium"
                )));
            }
            newest = Some((manifest, hash));
        }
        let newest_index_object = objects
            .iter()
            .filter_map(|object| parse_index_name(&object.name))
            .filter_map(|(volume, next)| (volume == uuid).then_some(next))
            .max();
        // On a medium that the chain goes on on, what was sealed before is carried.
        if let Some(next) = newest_index_object.filter(|next| *next > newest_manifest + 1) {
            let name = index_name(uuid, next);
            store
                .make_durable(&name)
                .map_err(|error| Error::io(format!("make {name} durable"), error))?;
            newest = newest_carried(store, uuid, next)?.or(newest);
            newest_manifest = newest
                .as_ref()
                .map_or(newest_manifest, |(manifest, _)| manifest.index);
            newest_index = newest_index.max(newest_manifest);
        }
        if newest_index - newest_manifest > VOID_INDEXES_MAX as u64 {
            return Err(Error::Integrity(format!(
                "{} holds segment {newest_index} of volume {uuid}, and the newest manifest is {newest_manifest}: none of ours",
                store.describe()
            )));
        }
        Ok(Self {
            label,
            newest,
            void: (newest_manifest + 1..=newest_index).collect(),
        })
    }
}
