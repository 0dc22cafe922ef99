//! Figures that a script in a machine prints: lines `FIGURE name value`.

use std::collections::BTreeMap;
use std::io;

use super::machine::Sink;

/// Names and values.
pub(crate) type Figures = BTreeMap<String, String>;

/// Begins a line with a figure.
const PREFIX: &[u8] = b"FIGURE ";
/// Longest line that is looked at, and most figures of one machine: what guests print has no bound.
const LINE_BYTES_MAX: usize = 200;
const FIGURES_MAX: usize = 100;

/// Passes everything on, and keeps the figures.
pub(crate) struct Noted<S> {
    to: S,
    line: Vec<u8>,
    pub(crate) figures: Figures,
}

impl<S: Sink> Noted<S> {
    pub(crate) fn new(to: S) -> Self {
        Self {
            to,
            line: Vec::new(),
            figures: Figures::new(),
        }
    }

    fn end_line(&mut self) {
        let text = self.line.strip_prefix(PREFIX).map(String::from_utf8_lossy);
        if let Some((name, value)) = text.as_ref().and_then(|text| text.trim_end().split_once(' '))
            && self.figures.len() < FIGURES_MAX
        {
            self.figures.insert(name.to_owned(), value.to_owned());
        }
        self.line.clear();
    }
}

impl<S: Sink> Sink for Noted<S> {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE_BYTES_MAX {
                self.line.push(byte);
            }
        }
        self.to.stdout(bytes)
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.stderr(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    impl Sink for Nowhere {
        fn stdout(&mut self, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn stderr(&mut self, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn figures_are_found_in_whatever_pieces_lines_come() {
        let mut noted = Noted::new(Nowhere);
        for piece in [
            "FIG",
            "URE same 3\r\nno FIGURE x 1\nFIGURE alone\nFIGURE what it says",
            "\n",
        ] {
            noted.stdout(piece.as_bytes()).unwrap();
        }
        let found: Vec<_> = noted
            .figures
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(found, [("same", "3"), ("what", "it says")]);
    }
}
