//! Exit codes of the recorder and the error that carries one.
//!
//! Owns the mapping from an error to the process's exit code and to its JSON form; it prints nothing by itself.

use serde_json::json;

/// Any failure without a code of its own.
pub(crate) const FAILED: u8 = 1;
/// Wrong use: an option, a name or a configuration file that cannot be meant.
pub(crate) const USAGE: u8 = 2;
/// No journal, or no recorder, where one was asked for.
pub(crate) const NOTHING_THERE: u8 = 10;
/// Another recorder has it.
pub(crate) const LOCKED: u8 = 11;
/// What was written with another key than the one that is trusted.
pub(crate) const WRONG_KEY: u8 = 12;
/// There is no medium to write to.
pub(crate) const MEDIUM_NEEDED: u8 = 20;
/// The medium has no room.
pub(crate) const MEDIUM_FULL: u8 = 21;
/// Something is not what was sealed.
pub(crate) const INTEGRITY: u8 = 30;

/// A moment that cannot be restored whole.
pub(crate) const HOLE: u8 = 31;
/// Nothing was made durable for too long.
pub(crate) const STALE: u8 = 32;

/// An error that knows its exit code. Put into an `anyhow::Error` it keeps it, whatever context is added.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Coded {
    /// Exit code.
    pub(crate) code: u8,
    /// What went wrong and what to do.
    pub(crate) message: String,
}

/// An error with an exit code.
pub(crate) fn coded(code: u8, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Coded {
        code,
        message: message.into(),
    })
}

/// The exit code that an error asks for; a full file system anywhere below is a full medium only where the error says so.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(coded) = cause.downcast_ref::<Coded>() {
            return coded.code;
        }
        if let Some(error) = cause.downcast_ref::<journal::Error>() {
            return error.exit_code();
        }
    }
    FAILED
}

/// The error as one JSON document.
pub(crate) fn as_json(error: &anyhow::Error) -> serde_json::Value {
    json!({ "error": { "code": code_of(error), "message": format!("{error:#}") } })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_code_survives_context() {
        let error = Err::<(), _>(coded(LOCKED, "taken"))
            .context("attach /x")
            .unwrap_err();
        assert_eq!(code_of(&error), LOCKED);
        assert_eq!(as_json(&error)["error"]["message"], "attach /x: taken");
        assert_eq!(code_of(&anyhow::anyhow!("plain")), FAILED);
    }
}
