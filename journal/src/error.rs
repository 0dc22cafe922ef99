//! Errors on which a caller branches: each maps to an exit code of the command line.

use std::io;

/// What can be wrong with a journal or its medium.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No label, or no segments of the volume asked for.
    #[error("no journal there: {0}")]
    NoJournal(String),
    /// Something on the medium is not what was sealed.
    #[error("integrity failure: {0}")]
    Integrity(String),
    /// A segment is on none of the media given.
    #[error("medium needed: {0}")]
    MediumNeeded(String),
    /// A segment is encrypted, and no identity that was given reads it.
    #[error("identity needed: {0}")]
    KeyNeeded(String),
    /// Nothing more fits.
    #[error("medium full: {0}")]
    MediumFull(String),
    /// A part of the history that was asked for never reached the journal.
    #[error("hole in the requested range: {0}")]
    HoleInRange(String),
    /// Made by a later version, or for something else.
    #[error("not understood: {0}")]
    Unsupported(String),
    /// No such mark, time or sequence number.
    #[error("no such point: {0}")]
    NoSuchPoint(String),
    /// Reading or writing the medium failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to which object.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps a system error; a full medium is told apart by its kind, never by its text.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::MediumFull(what.into()),
            _ => Self::Io {
                what: what.into(),
                source,
            },
        }
    }

    /// Exit code of the command line for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoJournal(_) => 10,
            Self::KeyNeeded(_) => 12,
            Self::MediumNeeded(_) => 20,
            Self::MediumFull(_) => 21,
            Self::Integrity(_) => 30,
            Self::HoleInRange(_) => 31,
            Self::Unsupported(_) | Self::NoSuchPoint(_) | Self::Io { .. } => 1,
        }
    }
}
