//! From what a recording begins: where a killed recorder left off, from the journal of one that is over, or from nothing.
//!
//! Owns what is said about it.

use std::sync::Arc;

use anyhow::Result;
use journal::Identities;
use journal::record::Continued;
use journal::store::Store;
use serde::{Deserialize, Serialize};

use super::resume::Place;
use crate::capture::Volume;
use crate::pipeline::find_dead;
use crate::reconcile::{Dead, Found, Known};
use crate::snapshot::handle::Root;

/// From what a recording begins.
pub(super) enum Start {
    /// Where a recorder that was killed left off: after this number.
    Resumed(u64),
    /// From the newest epoch on the medium, if there is one and it can be gone on with.
    Anew(Result<Option<Dead>>),
}

/// How a base was taken; for `recorder status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Base {
    /// The epoch whose state it starts from, and its last number.
    pub(crate) continues: Option<Continued>,
    /// What was found different.
    #[serde(flatten)]
    pub(crate) found: Found,
    /// Why it starts from nothing, where the medium has a journal of the volume.
    pub(crate) whole_because: Option<String>,
}

impl Start {
    /// Finds what is left of the recording before, which has ended: before its spool is given up.
    pub(super) fn anew(volume: &Volume, place: &Place) -> Self {
        Self::Anew(find_dead(
            &*place.shelf,
            &volume.uuid,
            &place.disk,
            &place.spool_dir,
        ))
    }

    /// What a base goes on from, unless its journal turns out to be of no use.
    pub(super) fn from(&self) -> Option<&Dead> {
        match self {
            Self::Anew(Ok(dead)) => dead.as_ref(),
            _ => None,
        }
    }

    /// The number after which a killed recorder left off.
    pub(super) fn resumed_seq(&self) -> Option<u64> {
        match self {
            Self::Resumed(seq) => Some(*seq),
            Self::Anew(_) => None,
        }
    }
}

/// Reads the journal that a base can go on from, or says why it starts from nothing.
pub(super) fn known(
    dead: Result<Option<Dead>>,
    from: (Arc<dyn Store>, &Identities),
    volume: &Volume,
    root: &Root,
) -> (Option<Known>, Base) {
    let named = volume.mount_point.display();
    let known = dead.and_then(|dead| {
        let root = root.top().key().unwrap_or_default();
        dead.map(|dead| Known::read(from, &volume.uuid, root, dead))
            .transpose()
    });
    match known {
        Ok(None) => (None, Base::default()),
        Ok(Some(known)) => {
            let continues = known.continued();
            eprintln!(
                "{named}: goes on from epoch {} seq {}: looking for what has changed since",
                continues.epoch, continues.seq
            );
            let base = Base {
                continues: Some(continues),
                ..Base::default()
            };
            (Some(known), base)
        }
        Err(why) => {
            eprintln!(
                "{named}: the journal on the medium cannot be gone on with: {why:#}; a whole base is taken"
            );
            let base = Base {
                whole_because: Some(format!("{why:#}")),
                ..Base::default()
            };
            (None, base)
        }
    }
}

/// How a reconciliation ended, for people.
pub(super) fn as_text(found: &Found) -> String {
    let Found {
        looked_at,
        differed,
        in_doubt,
        gone,
    } = found;
    format!(
        "looked at {looked_at} inodes: {differed} differed, {in_doubt} were changed after the last barrier, these were read again; {gone} are gone"
    )
}
