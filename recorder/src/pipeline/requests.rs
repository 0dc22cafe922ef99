//! Requests on their way to whoever reads the live file system.
//!
//! Bounded: what does not fit becomes one request for everything, which then repairs the holes of all it stands for. It knows nothing
//! of how a request is answered.

use std::collections::{BTreeSet, HashSet};
use std::sync::mpsc::SyncSender;

use crate::doubt::Request;

/// The sending end.
pub(super) struct Requests {
    sender: SyncSender<Request>,
    /// One for everything is to be sent.
    everything_owed: bool,
    /// Holes that it is to repair.
    owed_holes: BTreeSet<u64>,
    /// One for everything is being answered: the hole that is named in it, and the others.
    everything_asked: Option<(u64, BTreeSet<u64>)>,
}

impl Requests {
    /// Sends through this channel.
    pub(super) fn new(sender: SyncSender<Request>) -> Self {
        Self {
            sender,
            everything_owed: false,
            owed_holes: BTreeSet::new(),
            everything_asked: None,
        }
    }

    /// Sends what is asked for, each once; returns how many were sent.
    pub(super) fn send(&mut self, requests: &mut Vec<Request>) -> u64 {
        let mut sent = 0;
        let mut seen = HashSet::new();
        for request in requests.drain(..) {
            let closes = match request {
                Request::Snapshot { closes, .. } => {
                    if !seen.insert(request) {
                        continue;
                    }
                    if self.sender.try_send(request).is_ok() {
                        sent += 1;
                        continue;
                    }
                    closes
                }
                Request::Everything { closes } => closes,
            };
            self.everything_owed = true;
            self.owed_holes.extend(closes);
        }
        if self.everything_owed && self.everything_asked.is_none() {
            let closes = self.owed_holes.last().copied();
            if self.sender.try_send(Request::Everything { closes }).is_ok() {
                sent += 1;
                self.everything_owed = false;
                let holes = std::mem::take(&mut self.owed_holes);
                self.everything_asked = closes.map(|named| (named, holes));
            }
        }
        sent
    }

    /// A hole was closed: the other holes that are closed with it.
    pub(super) fn closed(&mut self, hole_seq: u64) -> BTreeSet<u64> {
        match self.everything_asked.take_if(|(named, _)| *named == hole_seq) {
            Some((_, mut holes)) => {
                holes.remove(&hole_seq);
                holes
            }
            None => BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use journal::record::{InodeKey, SnapshotScope};

    use super::*;

    fn snapshot(ino: u64, closes: Option<u64>) -> Request {
        let inode = InodeKey { ino, generation: 1 };
        Request::Snapshot {
            inode,
            scope: SnapshotScope::Whole,
            only_if_unmet: false,
            closes,
        }
    }

    #[test]
    fn what_does_not_fit_becomes_one_for_everything_and_closes_every_hole() {
        let (sender, receiver) = sync_channel(2);
        let mut requests = Requests::new(sender);
        let mut wanted: Vec<Request> = (1..=5).map(|ino| snapshot(ino, Some(ino * 10))).collect();
        assert_eq!(requests.send(&mut wanted), 2);
        assert_eq!(receiver.try_recv().unwrap(), snapshot(1, Some(10)));
        assert_eq!(
            requests.send(&mut vec![Request::Everything { closes: Some(60) }]),
            1
        );
        assert_eq!(receiver.try_recv().unwrap(), snapshot(2, Some(20)));
        assert_eq!(
            receiver.try_recv().unwrap(),
            Request::Everything { closes: Some(60) }
        );
        // One at a time: the next waits until this one is answered.
        assert_eq!(
            requests.send(&mut vec![Request::Everything { closes: Some(70) }]),
            0
        );
        assert!(requests.closed(10).is_empty());
        assert_eq!(requests.closed(60), BTreeSet::from([30, 40, 50]));
        assert_eq!(requests.send(&mut Vec::new()), 1);
        assert_eq!(
            receiver.try_recv().unwrap(),
            Request::Everything { closes: Some(70) }
        );
    }

    #[test]
    fn the_same_is_sent_once() {
        let (sender, receiver) = sync_channel(8);
        let mut requests = Requests::new(sender);
        assert_eq!(requests.send(&mut vec![snapshot(1, None), snapshot(1, None)]), 1);
        assert_eq!(receiver.try_iter().count(), 1);
    }
}
