//! Merging: adjoining writes become one record, with what else says that their times were set. Pure.
//!
//! Only records whose numbers follow each other directly are merged, so nothing can lie between them: no mark, no conflicting operation.

use journal::record::{Attributes, Op, Record};

/// Longest data of a merged record, in bytes.
const MERGED_BYTES_MAX: usize = 1 << 20;

/// Holds back the last record until it is known whether the next one continues it.
#[derive(Default)]
pub(crate) struct Merger {
    held: Option<Record>,
}

impl Merger {
    /// Takes the next record; gives the one that is complete, if any.
    pub(crate) fn push(&mut self, record: Record) -> Option<Record> {
        match &mut self.held {
            Some(held) if joins(held, &record) => {
                join(held, record);
                None
            }
            _ => self.held.replace(record),
        }
    }

    /// Whether nothing is held back.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    /// Gives what is held back.
    pub(crate) fn finish(&mut self) -> Option<Record> {
        self.held.take()
    }
}

fn joins(held: &Record, next: &Record) -> bool {
    held.inode == next.inode
        && held.last_seq + 1 == next.seq
        && !held.from_snapshot
        && !next.from_snapshot
        && held.actor.tgid == next.actor.tgid
        && match (&held.op, &next.op) {
            (
                Op::Write { offset, data, .. },
                Op::Write {
                    offset: next_offset,
                    data: next_data,
                    ..
                },
            ) => {
                offset + data.len() as u64 == *next_offset && data.len() + next_data.len() <= MERGED_BYTES_MAX
            }
            (Op::Write { .. }, Op::SetAttr) => only_times(next),
            (Op::SetAttr, Op::Write { .. }) => only_times(held),
            // ext4 writes an inode down before its attributes are told.
            (Op::SetAttr, Op::SetAttr) => only_times(held) && next.attributes.mtime.is_some(),
            _ => false,
        }
}

/// Whether a record says nothing but times: one that states them too makes it superfluous.
fn only_times(record: &Record) -> bool {
    let Attributes { mtime, ctime, .. } = record.attributes;
    record.attributes
        == Attributes {
            mtime,
            ctime,
            ..Attributes::default()
        }
}

fn join(held: &mut Record, next: Record) {
    let Record {
        last_seq,
        time_ns,
        attributes,
        op,
        ..
    } = next;
    match (&mut held.op, op) {
        (Op::Write { data, length, .. }, Op::Write { data: more, .. }) => {
            data.extend_from_slice(&more);
            *length = data.len() as u64;
        }
        (times @ Op::SetAttr, write) => *times = write,
        _ => {}
    }
    held.last_seq = last_seq;
    held.time_ns = time_ns;
    held.attributes = attributes;
}

#[cfg(test)]
mod tests {
    use journal::record::{Actor, InodeKey, Time};

    use super::*;

    fn write(seq: u64, ino: u64, offset: u64, data: &[u8]) -> Record {
        Record {
            seq,
            last_seq: seq,
            time_ns: 0,
            inode: InodeKey { ino, generation: 1 },
            attributes: Attributes::default(),
            from_snapshot: false,
            actor: Actor::default(),
            op: Op::Write {
                offset,
                data: data.to_vec(),
                length: data.len() as u64,
            },
        }
    }

    fn merged(records: Vec<Record>) -> Vec<(u64, u64, u64)> {
        let mut merger = Merger::default();
        let mut out: Vec<Record> = records
            .into_iter()
            .filter_map(|record| merger.push(record))
            .collect();
        out.extend(merger.finish());
        out.iter()
            .map(|record| match &record.op {
                Op::Write { data, .. } => (record.seq, record.last_seq, data.len() as u64),
                _ => (record.seq, record.last_seq, 0),
            })
            .collect()
    }

    #[test]
    fn only_direct_successors_are_merged() {
        assert_eq!(
            merged(vec![write(1, 9, 0, b"ab"), write(2, 9, 2, b"c")]),
            [(1, 2, 3)]
        );
        assert_eq!(
            merged(vec![write(1, 9, 0, b"ab"), write(3, 9, 2, b"c")]),
            [(1, 1, 2), (3, 3, 1)],
            "a number between"
        );
        assert_eq!(
            merged(vec![write(1, 9, 0, b"ab"), write(2, 8, 2, b"c")]),
            [(1, 1, 2), (2, 2, 1)],
            "another inode"
        );
        assert_eq!(
            merged(vec![write(1, 9, 0, b"ab"), write(2, 9, 1, b"c")]),
            [(1, 1, 2), (2, 2, 1)],
            "an overlap"
        );
        let mut times = write(2, 9, 2, b"");
        times.op = Op::SetAttr;
        let mut of_another = times.clone();
        of_another.inode.ino = 8;
        let mut mode = times.clone();
        mode.attributes.mode = Some(0o644);
        mode.attributes.mtime = Some(Time::default());
        let mut mode_after = mode.clone();
        (mode_after.seq, mode_after.last_seq) = (3, 3);
        assert_eq!(
            merged(vec![write(1, 9, 0, b"ab"), times.clone(), write(3, 9, 2, b"c")]),
            [(1, 3, 3)],
            "times between"
        );
        assert_eq!(
            merged(vec![times, write(3, 9, 2, b"c")]),
            [(2, 3, 1)],
            "times before"
        );
        assert_eq!(
            merged(vec![write(1, 9, 0, b"ab"), of_another]),
            [(1, 1, 2), (2, 2, 0)],
            "times of another inode"
        );
        assert_eq!(
            merged(vec![write(1, 9, 0, b"ab"), mode, write(3, 9, 2, b"c")]),
            [(1, 1, 2), (2, 2, 0), (3, 3, 1)],
            "a mode"
        );
        let mut mark = write(2, 9, 2, b"");
        mark.op = Op::Mark { name: "m".into() };
        assert_eq!(
            merged(vec![write(1, 9, 0, b"ab"), mark, write(3, 9, 2, b"c")]).len(),
            3,
            "a mark"
        );
    }
}
