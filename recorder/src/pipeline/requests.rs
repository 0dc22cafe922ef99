//! Requests on their way to whoever reads the live file system.
//!
//! Bounded: what does not fit becomes one request for everything, which then repairs the holes of all it stands for. It knows nothing
//! of how a request is answered.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::mpsc::SyncSender;

use journal::record::{InodeKey, SnapshotScope};

use crate::doubt::Request;

/// What a request asks for, whatever hole it closes.
type Wanted = (InodeKey, SnapshotScope, bool);

/// The sending end. Requests are answered one by one in the order in which they were sent, so a count of answers tells which of them
/// has not begun: another request for the same inode is answered along with that, for what it is about happened before.
pub(super) struct Requests {
    sender: SyncSender<Request>,
    /// Requests sent, ever: the last one has this number.
    sent: u64,
    /// Requests for an inode that may not have begun, with their numbers.
    waiting: HashMap<Wanted, u64>,
    /// The same in the order of their numbers.
    order: VecDeque<(u64, Wanted)>,
    /// Requests that are not known to be answered, with their numbers.
    unanswered: VecDeque<(u64, Request)>,
    /// Holes that a request closes along with its own.
    along: BTreeMap<u64, BTreeSet<u64>>,
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
            sent: 0,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            unanswered: VecDeque::new(),
            along: BTreeMap::new(),
            everything_owed: false,
            owed_holes: BTreeSet::new(),
            everything_asked: None,
        }
    }

    /// Sends what is asked for; returns how many were sent. `served` of all sent so far are answered.
    pub(super) fn send(&mut self, requests: &mut Vec<Request>, served: u64) -> u64 {
        let before = self.sent;
        // The one after those that are answered may have begun.
        while let Some(&(number, wanted)) = self.order.front()
            && number <= served + 1
        {
            self.order.pop_front();
            if self.waiting.get(&wanted) == Some(&number) {
                self.waiting.remove(&wanted);
            }
        }
        for request in requests.drain(..) {
            let closes = match request {
                Request::Snapshot { .. } if self.goes_along(&request) || self.try_send(request) => continue,
                Request::Snapshot { closes, .. } | Request::Everything { closes } => closes,
            };
            self.everything_owed = true;
            self.owed_holes.extend(closes);
        }
        if self.everything_owed && self.everything_asked.is_none() {
            let closes = self.owed_holes.last().copied();
            if self.try_send(Request::Everything { closes }) {
                self.everything_owed = false;
                let holes = std::mem::take(&mut self.owed_holes);
                self.everything_asked = closes.map(|named| (named, holes));
            }
        }
        self.sent - before
    }

    /// Whether one that was sent and has not begun answers this one too.
    fn goes_along(&mut self, request: &Request) -> bool {
        let Request::Snapshot {
            inode,
            scope,
            only_if_unmet,
            closes,
        } = *request
        else {
            return false;
        };
        let whole = (inode, SnapshotScope::Whole, only_if_unmet);
        let same = (inode, scope, only_if_unmet);
        let Some(&number) = self.waiting.get(&whole).or_else(|| self.waiting.get(&same)) else {
            return false;
        };
        if let Some(hole) = closes {
            self.along.entry(number).or_default().insert(hole);
        }
        true
    }

    fn try_send(&mut self, request: Request) -> bool {
        if self.sender.try_send(request).is_err() {
            return false;
        }
        self.sent += 1;
        self.unanswered.push_back((self.sent, request));
        if let Request::Snapshot {
            inode,
            scope,
            only_if_unmet,
            ..
        } = request
        {
            let wanted = (inode, scope, only_if_unmet);
            self.waiting.insert(wanted, self.sent);
            self.order.push_back((self.sent, wanted));
        }
        true
    }

    /// What is still to be done here: requests not sent, holes to be closed along with others.
    pub(super) fn owed(&self) -> u64 {
        let others = self
            .everything_asked
            .as_ref()
            .map_or(0, |(_, holes)| holes.len().saturating_sub(1));
        let along: usize = self.along.values().map(BTreeSet::len).sum();
        (usize::from(self.everything_owed) + others + along) as u64
    }

    /// Everything that was asked for and is not answered yet, to be asked by somebody else. Twice is not too often.
    pub(super) fn unanswered(&self) -> Vec<Request> {
        let mut requests = Vec::new();
        for (number, request) in &self.unanswered {
            requests.push(*request);
            for hole in self.along.get(number).into_iter().flatten() {
                let mut along = *request;
                if let Request::Snapshot { closes, .. } = &mut along {
                    *closes = Some(*hole);
                }
                requests.push(along);
            }
        }
        let asked = self.everything_asked.iter().flat_map(|(_, holes)| holes);
        let holes = asked.chain(&self.owed_holes);
        requests.extend(holes.map(|hole| Request::Everything { closes: Some(*hole) }));
        if self.everything_owed && self.owed_holes.is_empty() {
            requests.push(Request::Everything { closes: None });
        }
        requests
    }

    /// Holes that were closed along with others, now that so many requests are answered.
    pub(super) fn answered(&mut self, served: u64) -> BTreeSet<u64> {
        let mut holes = BTreeSet::new();
        while self
            .unanswered
            .front()
            .is_some_and(|(number, _)| *number <= served)
        {
            self.unanswered.pop_front();
        }
        while let Some(first) = self.along.first_entry().filter(|first| *first.key() <= served) {
            holes.append(&mut first.remove());
        }
        holes
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
        assert_eq!(requests.send(&mut wanted, 0), 2);
        assert_eq!(receiver.try_recv().unwrap(), snapshot(1, Some(10)));
        assert_eq!(
            requests.send(&mut vec![Request::Everything { closes: Some(60) }], 2),
            1
        );
        assert_eq!(receiver.try_recv().unwrap(), snapshot(2, Some(20)));
        assert_eq!(
            receiver.try_recv().unwrap(),
            Request::Everything { closes: Some(60) }
        );
        // One at a time: the next waits until this one is answered.
        assert_eq!(
            requests.send(&mut vec![Request::Everything { closes: Some(70) }], 2),
            0
        );
        assert!(requests.closed(10).is_empty());
        assert_eq!(requests.closed(60), BTreeSet::from([30, 40, 50]));
        assert_eq!(requests.send(&mut Vec::new(), 3), 1);
        assert_eq!(
            receiver.try_recv().unwrap(),
            Request::Everything { closes: Some(70) }
        );
    }

    #[test]
    fn what_has_not_begun_answers_what_is_asked_again() {
        let (sender, receiver) = sync_channel(8);
        let mut requests = Requests::new(sender);
        assert_eq!(
            requests.send(
                &mut vec![snapshot(1, None), snapshot(1, None), snapshot(2, Some(5))],
                0
            ),
            2
        );
        // The first may have begun, the second has not.
        let mut again = vec![
            snapshot(2, Some(7)),
            snapshot(1, Some(8)),
            snapshot(2, Some(9)),
            snapshot(1, Some(10)),
        ];
        assert_eq!(requests.send(&mut again, 0), 1);
        assert!(requests.answered(1).is_empty());
        assert_eq!(requests.answered(2), BTreeSet::from([7, 9]));
        assert_eq!(requests.answered(3), BTreeSet::from([10]));
        // Everything is answered: asked again, it is read again.
        assert_eq!(requests.send(&mut vec![snapshot(2, Some(11))], 3), 1);
        assert_eq!(receiver.try_iter().count(), 4);
    }

    #[test]
    fn what_is_not_answered_is_told_with_all_its_holes() {
        let (sender, _receiver) = sync_channel(2);
        let mut requests = Requests::new(sender);
        let mut wanted = vec![
            snapshot(1, None),
            snapshot(2, Some(20)),
            snapshot(2, Some(21)),
            snapshot(3, Some(30)),
        ];
        assert_eq!(requests.send(&mut wanted, 0), 2);
        let everything = Request::Everything { closes: Some(30) };
        assert_eq!(
            requests.unanswered(),
            [
                snapshot(1, None),
                snapshot(2, Some(20)),
                snapshot(2, Some(21)),
                everything
            ]
        );
        requests.answered(1);
        assert_eq!(requests.unanswered().len(), 3);
        assert_eq!(requests.answered(2), BTreeSet::from([21]));
        assert_eq!(requests.unanswered(), [everything]);
    }

    #[test]
    fn a_whole_snapshot_answers_for_the_attributes_and_not_the_other_way() {
        let (sender, receiver) = sync_channel(8);
        let mut requests = Requests::new(sender);
        let attributes = |ino| match snapshot(ino, None) {
            Request::Snapshot { inode, .. } => Request::Snapshot {
                inode,
                scope: SnapshotScope::Attributes,
                only_if_unmet: false,
                closes: None,
            },
            everything => everything,
        };
        let mut wanted = vec![
            snapshot(9, None),
            snapshot(1, None),
            attributes(1),
            attributes(2),
            snapshot(2, None),
        ];
        assert_eq!(requests.send(&mut wanted, 0), 4);
        assert_eq!(receiver.try_iter().count(), 4);
    }
}
