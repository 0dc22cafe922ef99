//! Order: from frames as they arrive to frames sorted by sequence number, without a gap that is not accounted for. Pure.
//!
//! The ring gives events nearly in order; the recorder's own records come later than their numbers. A number that is missing is waited
//! for, until somebody says that it is lost.

use std::collections::BTreeMap;

/// The window of items that came before their turn.
pub(crate) struct Window<T> {
    next_seq: u64,
    early: BTreeMap<u64, (usize, T)>,
    bytes: usize,
}

impl<T> Window<T> {
    /// Begins at a number; what came before it does not count.
    pub(crate) fn new(next_seq: u64) -> Self {
        Self {
            next_seq,
            early: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Everything below is out.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Items that wait.
    pub(crate) fn len(&self) -> usize {
        self.early.len()
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The items that wait.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.early.values().map(|(_, item)| item)
    }

    /// Takes an item of some bytes; false where its number is out already or there twice.
    pub(crate) fn push(&mut self, seq: u64, bytes: usize, item: T) -> bool {
        if seq < self.next_seq || self.early.contains_key(&seq) {
            return false;
        }
        self.early.insert(seq, (bytes, item));
        self.bytes += bytes;
        true
    }

    /// The next item, if its turn has come.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let (bytes, item) = self.early.remove(&self.next_seq)?;
        self.bytes -= bytes;
        self.next_seq += 1;
        Some(item)
    }

    /// The first numbers that are missing while later ones wait.
    pub(crate) fn gap(&self) -> Option<(u64, u64)> {
        let (&first, _) = self.early.first_key_value()?;
        (first > self.next_seq).then(|| (self.next_seq, first - 1))
    }

    /// Gives up the missing numbers up to `last_seq`, which must lie in the gap; returns the first and the last of them.
    pub(crate) fn give_up(&mut self, last_seq: u64) -> (u64, u64) {
        let first_seq = self.next_seq;
        self.next_seq = last_seq + 1;
        (first_seq, last_seq)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_arrival_leaves_in_order(mut arrivals in Just((5u64..60).collect::<Vec<_>>()).prop_shuffle()) {
            let mut window = Window::new(5);
            let mut out = Vec::new();
            for seq in arrivals.drain(..) {
                prop_assert!(window.push(seq, 1, seq));
                while let Some(item) = window.pop() {
                    out.push(item);
                }
            }
            prop_assert_eq!(out, (5..60).collect::<Vec<_>>());
            prop_assert_eq!(window.bytes(), 0);
        }
    }

    #[test]
    fn a_gap_is_named_and_given_up_once() {
        let mut window = Window::new(1);
        assert!(window.push(4, 1, 'd'));
        assert_eq!(window.pop(), None);
        assert_eq!(window.gap(), Some((1, 3)));
        assert_eq!(window.give_up(3), (1, 3));
        assert!(!window.push(2, 1, 'b'), "too late");
        assert_eq!(window.pop(), Some('d'));
        assert_eq!(window.gap(), None);
    }
}
