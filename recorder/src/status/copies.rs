//! How far the copies of a volume are, as JSON and as text.

use std::fmt::Write as _;

use journal::MediumName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bytes;

/// Copies of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CopiesStatus {
    /// The pools that copies are made to.
    pub(crate) pools: Vec<PoolStatus>,
    /// Places without a medium that takes copies.
    pub(crate) places: Vec<PlaceStatus>,
    /// For how long there is no pool, seconds.
    pub(crate) without_pool_s: u64,
    /// What keeps all of them back.
    pub(crate) trouble: Option<String>,
}

/// Copies of a volume in one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolStatus {
    /// Its name.
    pub(crate) pool: String,
    /// What people call the medium that the last copy lies on, and its uuid.
    pub(crate) medium: String,
    pub(crate) uuid: String,
    /// The media of the pool that are there.
    pub(crate) there: Vec<MediumThere>,
    /// Everything of the chain up to this segment has a copy.
    pub(crate) segment: u64,
    /// Everything up to here has a copy.
    pub(crate) seq: u64,
    /// What has none: segments, their bytes, and for how long the oldest is known to have none, seconds.
    pub(crate) segments_behind: u64,
    pub(crate) bytes_behind: u64,
    pub(crate) behind_s: u64,
    /// Why it waits, where it does.
    pub(crate) waits: Option<String>,
}

/// A medium for copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MediumThere {
    /// What it is.
    pub(crate) medium: MediumName,
    /// Where it is.
    pub(crate) path: String,
}

/// A place for media for copies where none is that takes any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlaceStatus {
    /// The directory.
    pub(crate) path: String,
    /// Why.
    pub(crate) why: String,
}

/// The copies of a volume for people, a line for each pool, and for each place that has nothing to copy to.
pub(super) fn as_text(copies: &Value) -> String {
    let copies: CopiesStatus = serde_json::from_value(copies.clone()).unwrap_or_default();
    let mut lines = Vec::new();
    for pool in &copies.pools {
        let there: Vec<String> = pool.there.iter().map(MediumThere::as_text).collect();
        let there = match there.is_empty() {
            true => format!("last on medium {}, which is not there", pool.medium),
            false => format!("on medium {}", there.join(", ")),
        };
        lines.push(format!(
            "pool {} up to segment {} seq {} {there}; {}",
            pool.pool,
            pool.segment,
            pool.seq,
            pool.behind_as_text()
        ));
    }
    lines.extend(
        copies
            .places
            .iter()
            .map(|place| format!("{}: {}", place.path, place.why)),
    );
    lines.extend(copies.trouble);
    lines.iter().map(|line| format!("  copies   {line}\n")).collect()
}

impl MediumThere {
    fn as_text(&self) -> String {
        format!("{} at {}", self.medium.name, self.path)
    }
}

impl PoolStatus {
    /// How far it is behind, and why.
    pub(crate) fn behind_as_text(&self) -> String {
        if self.segments_behind == 0 {
            return "nothing is behind".to_owned();
        }
        let why = self
            .waits
            .as_ref()
            .map_or_else(String::new, |why| format!(": {why}"));
        format!(
            "{} segments ({}) are behind for {} s{why}",
            self.segments_behind,
            bytes(self.bytes_behind),
            self.behind_s
        )
    }
}

/// The answer to `media eject --copies` as text.
pub(super) fn ejected_as_text(volume: &Value) -> String {
    let mut text = format!(
        "ejected medium {} ({}): {} may be unmounted; pool {} has a copy of everything of {} up to seq {}",
        volume["medium"]["name"],
        volume["medium"]["uuid"],
        volume["at"],
        volume["pool"],
        volume["path"],
        volume["durable_seq"]
    );
    if volume["segments_behind"] != 0 {
        let _infallible = write!(
            text,
            "; {} segments have none there yet",
            volume["segments_behind"]
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_pool_says_how_far_it_is_and_why_it_waits() {
        let pool = |segments_behind, waits: Option<&str>, path: Option<&str>| PoolStatus {
            pool: "near".to_owned(),
            medium: "near-1".to_owned(),
            there: path
                .map(|path| MediumThere {
                    medium: MediumName {
                        uuid: "u".to_owned(),
                        name: "near-1".to_owned(),
                    },
                    path: path.to_owned(),
                })
                .into_iter()
                .collect(),
            segment: 7,
            seq: 70,
            segments_behind,
            bytes_behind: segments_behind << 20,
            behind_s: 5,
            waits: waits.map(ToOwned::to_owned),
            ..PoolStatus::default()
        };
        let copies = CopiesStatus {
            pools: vec![pool(0, None, Some("/c1")), pool(3, Some("it is away"), None)],
            places: vec![PlaceStatus {
                path: "/c2".to_owned(),
                why: "no label".to_owned(),
            }],
            ..CopiesStatus::default()
        };
        assert_eq!(
            as_text(&json!(copies)),
            "  copies   pool near up to segment 7 seq 70 on medium near-1 at /c1; nothing is behind\n  \
             copies   pool near up to segment 7 seq 70 last on medium near-1, which is not there; 3 segments (3.00 MiB) are behind for 5 s: \
             it is away\n  copies   /c2: no label\n"
        );
        assert_eq!(as_text(&Value::Null), "", "where none are wanted");
    }
}
