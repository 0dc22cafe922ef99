//! What a volume tells the event loop, and the line that says that it is recorded.

use std::fmt;
use std::path::PathBuf;

use serde_json::json;

/// What a volume tells the event loop.
pub(crate) enum Event {
    /// The base is complete.
    Recording(RecordingLine),
    /// The volume's own thread ended with an error.
    Failed(anyhow::Error),
}

/// The line that says that a volume is recorded from here on.
pub(crate) struct RecordingLine {
    pub(super) path: PathBuf,
    pub(super) uuid: String,
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

impl fmt::Display for RecordingLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            uuid,
            epoch,
            seq,
        } = self;
        write!(
            f,
            "recording {} volume {uuid} epoch {epoch} seq {seq}",
            path.display()
        )
    }
}

impl RecordingLine {
    /// The same as JSON.
    pub(crate) fn to_json(&self) -> String {
        let Self {
            path,
            uuid,
            epoch,
            seq,
        } = self;
        json!({ "recording": path, "volume": uuid, "epoch": epoch, "seq": seq }).to_string()
    }
}
