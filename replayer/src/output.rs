//! How results, errors and raw bytes are written: text for people, one JSON document for programs. Knows no command.
//!
//! Raw bytes (names, link targets, extended attribute names) are escaped without loss: printable UTF-8 stands for itself, a
//! backslash is `\\`, and every other byte is `\xNN` with two lower-case hexadecimal digits. Values and data are plain
//! hexadecimal.

use std::fmt::Write as _;
use std::io::{self, Write};

use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::exit::{Exit, exit_of};

/// Escapes raw bytes without loss; see the top of this file.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' {
                text.push_str("\\\\");
            } else if is_printable(character) {
                text.push(character);
            } else {
                let mut encoded = [0_u8; 4];
                escape_bytes(&mut text, character.encode_utf8(&mut encoded).as_bytes());
            }
        }
        escape_bytes(&mut text, chunk.invalid());
    }
    text
}

fn escape_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _writing_to_a_string_cannot_fail = write!(text, "\\x{byte:02x}");
    }
}

/// Neither a control character nor one that changes the direction of text or breaks lines: names must not fool a terminal.
fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Bytes as hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _writing_to_a_string_cannot_fail = write!(text, "{byte:02x}");
    }
    text
}

/// Time of a record (nanoseconds since 1970) as RFC 3339 in UTC; the number itself where no calendar holds it.
pub(crate) fn utc(time_ns: i64) -> String {
    Timestamp::from_nanosecond(time_ns.into())
        .map_or_else(|_| format!("{time_ns} ns"), |time| time.to_string())
}

/// The same as RFC 3339 with the offset of this host.
pub(crate) fn local(time_ns: i64) -> String {
    let Ok(time) = Timestamp::from_nanosecond(time_ns.into()) else {
        return format!("{time_ns} ns");
    };
    let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
    let offset = zone.to_offset(time);
    time.display_with_offset(offset).to_string()
}

/// Bytes for people, beside the exact number.
pub(crate) fn human(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// An error, for programs.
pub(crate) fn error_document(exit: Exit, message: &str) -> Value {
    json!({"error": {"code": exit.code(), "kind": exit.word(), "message": message}})
}

/// How a command writes its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text.
    Text,
    /// One JSON document.
    Json,
}

impl Format {
    /// Writes a result to stdout: `text`, or the JSON document.
    pub(crate) fn result(self, text: &str, document: &Value) -> Result<()> {
        let mut stdout = io::stdout().lock();
        match self {
            Self::Text => stdout.write_all(text.as_bytes()),
            Self::Json => writeln!(stdout, "{document}"),
        }
        .and_then(|()| stdout.flush())
        .context("write the result")
    }

    /// Writes an error: one line on stderr, and with JSON the document on stdout. Gives the exit code.
    pub(crate) fn error(self, error: &anyhow::Error) -> Exit {
        let exit = exit_of(error);
        let message = format!("{error:#}");
        self.error_message(exit, &message);
        exit
    }

    /// As [`Format::error`], for an error that is only text.
    pub(crate) fn error_message(self, exit: Exit, message: &str) {
        eprintln!("replayer: {message}");
        if self == Self::Json {
            // A reader that has gone away has the exit code.
            let _reader_gone = writeln!(io::stdout(), "{}", error_document(exit, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{escape, hex, utc};

    #[test]
    fn escape_is_lossless_and_safe() {
        assert_eq!(escape("a b\u{e4}".as_bytes()), "a b\u{e4}");
        assert_eq!(escape(b"a\\x41"), "a\\\\x41");
        assert_eq!(escape(b"\xff\n\x1b[m"), "\\xff\\x0a\\x1b[m");
        assert_eq!(escape("\u{202e}".as_bytes()), "\\xe2\\x80\\xae");
        assert_eq!(hex(b"\x00\xab"), "00ab");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(1_500_000_000), "1970-01-01T00:00:01.5Z");
    }
}
