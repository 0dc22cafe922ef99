//! Exit codes, and the errors that carry one. Owns the mapping from what went wrong to the number the shell sees; knows
//! nothing of how errors are printed.

use std::fmt;

/// Exit codes of the replayer; the numbers are part of its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok,
    /// Failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// Done, but something could not be restored; it was listed.
    Incomplete,
    /// There is no journal where one was expected.
    NoJournal,
    /// Signed with another key than the one that is trusted, or not at all; or encrypted, and no identity was given that reads it.
    WrongKey,
    /// A segment that is needed lies on a medium that is not here.
    MediumNeeded,
    /// The journal is damaged, or contradicts itself.
    Integrity,
    /// The wanted point lies after a hole that was never repaired.
    HoleInRange,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Incomplete => 3,
            Self::NoJournal => 10,
            Self::WrongKey => 12,
            Self::MediumNeeded => 20,
            Self::Integrity => 30,
            Self::HoleInRange => 31,
        }
    }

    /// The word for it, in JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Incomplete => "incomplete",
            Self::NoJournal => "no journal",
            Self::WrongKey => "wrong key",
            Self::MediumNeeded => "medium needed",
            Self::Integrity => "integrity",
            Self::HoleInRange => "hole in range",
        }
    }
}

/// An error that decides the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with exit code `exit`.
pub(crate) fn failure(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure {
        exit,
        message: message.into(),
    })
}

/// The journal contradicts itself: `message` says where.
pub(crate) fn integrity(message: impl Into<String>) -> anyhow::Error {
    failure(Exit::Integrity, message)
}

/// The exit code that an error asks for: the first in its chain that has an opinion.
pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    error
        .chain()
        .find_map(|cause| {
            let journals = cause.downcast_ref::<journal::Error>().map(of_journal);
            cause
                .downcast_ref::<Failure>()
                .map(|failure| failure.exit)
                .or(journals)
        })
        .unwrap_or(Exit::Failed)
}

fn of_journal(error: &journal::Error) -> Exit {
    match error {
        journal::Error::NoJournal(_) => Exit::NoJournal,
        journal::Error::Integrity(_) => Exit::Integrity,
        journal::Error::KeyNeeded(_) => Exit::WrongKey,
        journal::Error::MediumNeeded(_) => Exit::MediumNeeded,
        journal::Error::HoleInRange(_) => Exit::HoleInRange,
        journal::Error::MediumFull(_)
        | journal::Error::Unsupported(_)
        | journal::Error::NoSuchPoint(_)
        | journal::Error::Io { .. } => Exit::Failed,
    }
}
