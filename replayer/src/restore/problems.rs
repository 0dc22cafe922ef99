//! What could not be restored: counted all, kept the first, so that the list is bounded.

use tracing::warn;

/// Problems kept by text.
const KEPT_MAX: usize = 1000;

/// A list of things that could not be restored.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// The first of them.
    pub(crate) kept: Vec<String>,
    /// All of them, counted.
    pub(crate) count: u64,
}

impl Problems {
    /// Adds one and says it on stderr.
    pub(crate) fn note(&mut self, problem: String) {
        self.count += 1;
        if self.kept.len() < KEPT_MAX {
            warn!("{problem}");
            self.kept.push(problem);
        } else if self.count == KEPT_MAX as u64 + 1 {
            warn!("more than {KEPT_MAX} problems: the rest is only counted");
        }
    }
}
