//! Decoding: from an event of the kernel to the record that the journal keeps. Pure.
//!
//! Owns the reading of ring events; knows nothing of what was decoded before (see `doubt` for that). Every length is checked:
//! an event that does not hold together is an error, and its number becomes a hole.

use abi::{
    AttrBody, DataBody, DirState, EventKind, Head, InodeRef, NameBlock, RangeBody, XattrBody, event_flags,
};
use anyhow::{Context, Result, bail, ensure};
use journal::record::{Actor, Attributes, DirTimes, Entry, InodeKey, Op, Record, Time};

const ATTR_SIZE: u32 = 1 << 3;
const ATTR_ATIME: u32 = 1 << 4;
const ATTR_MTIME: u32 = 1 << 5;
const ATTR_CTIME: u32 = 1 << 6;
const ATTR_ATIME_SET: u32 = 1 << 7;
/// `FALLOC_FL_KEEP_SIZE`, `FALLOC_FL_ZERO_RANGE`.
const KEEP_SIZE: u32 = 0x01;
const ZERO_RANGE: u32 = 0x10;
const S_IFMT: u32 = 0o170_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

/// An event, and what about it matters beyond its record.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// The event's kind.
    pub(crate) kind: EventKind,
    /// Bits of [`event_flags`].
    pub(crate) flags: u16,
    /// Its record; events that only confirm have one too, which states the inode's times.
    pub(crate) record: Record,
    /// For ranges and their ends: (offset, length, sequence number that is ended, result).
    pub(crate) range: Option<(u64, u64, u64, i64)>,
}

/// The sequence number in an event's head.
pub(crate) fn seq_of(event: &[u8]) -> Result<u64> {
    Ok(read::<Head>(event)?.seq)
}

/// The meaningful bytes of a ring record.
pub(crate) fn meaningful(event: &[u8]) -> &[u8] {
    let size = read::<Head>(event).map_or(event.len(), |head| head.size as usize);
    &event[..size.min(event.len())]
}

/// Decodes one event. `boot_ns` is the time of boot in nanoseconds since 1970.
///
/// # Errors
/// An event that is cut short or contradicts itself.
pub(crate) fn decode(event: &[u8], boot_ns: i64) -> Result<Decoded> {
    let head: Head = read(event)?;
    let kind = kind_of(head.kind)?;
    let rest = &event[size_of::<Head>()..];
    let mut attributes = times(&head);
    let mut range = None;
    let op = match kind {
        EventKind::Write | EventKind::MapWrite | EventKind::DirectWrite => data(rest)?,
        EventKind::Create
        | EventKind::Link
        | EventKind::Unlink
        | EventKind::Rmdir
        | EventKind::Rename
        | EventKind::Exchange => {
            if kind == EventKind::Create {
                attributes = complete(&head);
            }
            names(kind, &head, rest)?
        }
        EventKind::Tmpfile => {
            attributes = complete(&head);
            Op::CreateUnnamed
        }
        EventKind::Evict => Op::Evict,
        EventKind::SetAttr => {
            let AttrBody { valid, pad: _ } = read(rest)?;
            if valid != ATTR_MTIME | ATTR_CTIME {
                attributes = owned(&head);
            }
            attributes = Attributes {
                size: (valid & ATTR_SIZE != 0).then_some(head.state.size),
                atime: (valid & (ATTR_ATIME | ATTR_ATIME_SET) != 0).then(|| time(head.state.atime)),
                ..attributes
            };
            Op::SetAttr
        }
        EventKind::SetXattr | EventKind::RemoveXattr | EventKind::SetAcl => {
            attributes = owned(&head);
            extended(kind, rest)?
        }
        EventKind::Fallocate | EventKind::Clone => {
            let body: RangeBody = read(rest)?;
            range = Some((body.offset, body.length, 0, 0));
            if kind == EventKind::Fallocate {
                Op::Fallocate {
                    mode: body.mode,
                    offset: body.offset,
                    length: body.length,
                }
            } else {
                let (source, source_offset) = (key(body.source), body.source_offset);
                Op::Clone {
                    source,
                    source_offset,
                    offset: body.offset,
                    length: body.length,
                }
            }
        }
        EventKind::Zero => {
            let body: RangeBody = read(rest)?;
            Op::Fallocate {
                mode: ZERO_RANGE | KEEP_SIZE,
                offset: body.offset,
                length: body.length,
            }
        }
        EventKind::DirectEnd | EventKind::FallocateEnd | EventKind::CloneEnd => {
            let body: RangeBody = read(rest)?;
            range = Some((body.offset, body.length, body.of_seq, body.result));
            Op::SetAttr
        }
        EventKind::Changed => Op::SetAttr,
    };
    let record = Record {
        seq: head.seq,
        last_seq: head.seq,
        time_ns: boot_ns.saturating_add(i64::try_from(head.time_ns).unwrap_or(i64::MAX)),
        inode: key(head.state.inode),
        attributes,
        from_snapshot: false,
        actor: actor(&head),
        op,
    };
    Ok(Decoded {
        kind,
        flags: head.flags,
        record,
        range,
    })
}

/// Reads a plain struct from the start of bytes.
fn read<T: Copy>(bytes: &[u8]) -> Result<T> {
    ensure!(
        bytes.len() >= size_of::<T>(),
        "the event ends after {} bytes",
        bytes.len()
    );
    // SAFETY: all types read are repr(C) structs of integers, for which every bit pattern is valid; unaligned is allowed.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn kind_of(code: u16) -> Result<EventKind> {
    use EventKind::{
        Changed, Clone, CloneEnd, Create, DirectEnd, DirectWrite, Evict, Exchange, Fallocate, FallocateEnd,
        Link, MapWrite, RemoveXattr, Rename, Rmdir, SetAcl, SetAttr, SetXattr, Tmpfile, Unlink, Write, Zero,
    };
    let all = [
        Write,
        MapWrite,
        DirectWrite,
        DirectEnd,
        Create,
        Tmpfile,
        Link,
        Unlink,
        Rmdir,
        Rename,
        Exchange,
        Evict,
        SetAttr,
        SetXattr,
        RemoveXattr,
        SetAcl,
        Fallocate,
        FallocateEnd,
        Clone,
        CloneEnd,
        Zero,
        Changed,
    ];
    all.into_iter()
        .find(|kind| *kind as u16 == code)
        .with_context(|| format!("no event has kind {code}"))
}

fn key(inode: InodeRef) -> InodeKey {
    InodeKey {
        ino: inode.ino,
        generation: inode.generation,
    }
}

fn time(time: abi::Time) -> Time {
    Time {
        sec: time.sec,
        nsec: time.nsec.min(999_999_999),
    }
}

fn actor(head: &Head) -> Actor {
    let abi::Actor {
        pid,
        tgid,
        uid,
        gid,
        cgroup,
        comm,
    } = head.actor;
    let length = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
    Actor {
        pid,
        tgid,
        uid,
        gid,
        cgroup,
        comm: comm[..length].to_vec(),
    }
}

/// Only the times.
fn times(head: &Head) -> Attributes {
    Attributes {
        mtime: Some(time(head.state.mtime)),
        ctime: Some(time(head.state.ctime)),
        ..Attributes::default()
    }
}

/// Mode, owner and times, which hold whenever they are read.
fn owned(head: &Head) -> Attributes {
    Attributes {
        mode: Some(head.state.mode),
        uid: Some(head.state.uid),
        gid: Some(head.state.gid),
        ..times(head)
    }
}

/// Everything that a new inode has.
fn complete(head: &Head) -> Attributes {
    let device = matches!(head.state.mode & S_IFMT, S_IFCHR | S_IFBLK);
    let (major, minor) = (head.state.rdev >> 20, head.state.rdev & 0xf_ffff);
    Attributes {
        rdev: device.then(|| rustix::fs::makedev(major, minor)),
        size: Some(0),
        ..owned(head)
    }
}

fn data(rest: &[u8]) -> Result<Op> {
    let DataBody {
        offset,
        length,
        pad: _,
    } = read(rest)?;
    let data = &rest[size_of::<DataBody>()..];
    ensure!(
        data.len() >= length as usize,
        "{length} bytes of data announced, {} there",
        data.len()
    );
    ensure!(
        offset
            .checked_add(u64::from(length))
            .is_some_and(|end| end <= journal::OFFSET_MAX),
        "data beyond any file"
    );
    Ok(Op::Write {
        offset,
        data: data[..length as usize].to_vec(),
        length: u64::from(length),
    })
}

fn dir_times(dir: &DirState) -> DirTimes {
    DirTimes {
        mtime: time(dir.mtime),
        ctime: time(dir.ctime),
    }
}

fn entry(dir: &DirState, name: &[u8], length: u16) -> Result<Entry> {
    let name = name
        .get(..usize::from(length))
        .context("a name longer than its place")?;
    ensure!(
        !name.is_empty() && !name.contains(&0) && !name.contains(&b'/'),
        "{name:?} is no name"
    );
    Ok(Entry {
        parent: key(dir.inode),
        name: name.to_vec(),
    })
}

fn names(kind: EventKind, head: &Head, rest: &[u8]) -> Result<Op> {
    let block: NameBlock = read(rest)?;
    let from = entry(&block.parent, &block.name, block.name_len)?;
    let from_dir = dir_times(&block.parent);
    Ok(match kind {
        EventKind::Create => {
            let target = if head.state.mode & S_IFMT == S_IFLNK {
                let bytes = &rest[size_of::<NameBlock>()..];
                let target = bytes
                    .get(..block.target_len as usize)
                    .context("a link target is cut short")?;
                Some(target.to_vec())
            } else {
                None
            };
            Op::Create {
                entry: from,
                dir: from_dir,
                link_target: target,
            }
        }
        EventKind::Link => Op::Link {
            entry: from,
            dir: from_dir,
        },
        EventKind::Unlink => Op::Unlink {
            entry: from,
            dir: from_dir,
        },
        EventKind::Rmdir => Op::Rmdir {
            entry: from,
            dir: from_dir,
        },
        _ => {
            let to = entry(&block.to_parent, &block.to_name, block.to_name_len)?;
            let to_dir = dir_times(&block.to_parent);
            let other = (block.victim.ino != 0).then(|| key(block.victim));
            if kind == EventKind::Rename {
                Op::Rename {
                    from,
                    from_dir,
                    to,
                    to_dir,
                    victim: other,
                }
            } else {
                Op::Exchange {
                    from,
                    from_dir,
                    to,
                    to_dir,
                    other: other.context("an exchange with nothing")?,
                }
            }
        }
    })
}

fn extended(kind: EventKind, rest: &[u8]) -> Result<Op> {
    let XattrBody {
        name_len,
        value_len,
        name,
    } = read(rest)?;
    let name = name
        .get(..name_len as usize)
        .context("an attribute's name is too long")?
        .to_vec();
    ensure!(!name.is_empty(), "an attribute without a name");
    let value = rest[size_of::<XattrBody>()..]
        .get(..value_len as usize)
        .context("an attribute's value is cut short")?;
    Ok(match kind {
        EventKind::SetXattr => Op::SetXattr {
            name,
            value: value.to_vec(),
        },
        EventKind::SetAcl if !value.is_empty() => Op::SetXattr {
            name,
            value: acl(value)?,
        },
        _ => Op::RemoveXattr { name },
    })
}

/// From the kernel's ACL entries (tag i16, perm u16, id u32) to the encoding of user space: version 2, then tag, perm, id.
fn acl(entries: &[u8]) -> Result<Vec<u8>> {
    const VERSION: u32 = 2;
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    if !entries.len().is_multiple_of(8) {
        bail!("ACL entries of {} bytes", entries.len());
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_ne_bytes([entry[0], entry[1]]);
        let perm = u16::from_ne_bytes([entry[2], entry[3]]);
        let id = u32::from_ne_bytes([entry[4], entry[5], entry[6], entry[7]]);
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&perm.to_le_bytes());
        let id = if matches!(tag, USER | GROUP) { id } else { u32::MAX };
        value.extend_from_slice(&id.to_le_bytes());
    }
    Ok(value)
}

/// What an event does not tell, though it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Untold {
    /// The change of its inode.
    Inode,
    /// What else changed: directories, or inodes under other names than before.
    Anything,
    /// All below a new subvolume, which is not recorded.
    Subvolume,
}

/// Whether an event is a hole, and how wide.
pub(crate) fn untold(decoded: &Decoded) -> Option<Untold> {
    use EventKind::{Create, Exchange, Link, Rename, Rmdir, Unlink};
    let has = |flag| decoded.flags & flag != 0;
    // Which directories an event that could not be read changes, is as little to be trusted as the rest of it.
    let is_about_names = matches!(decoded.kind, Create | Link | Unlink | Rmdir | Rename | Exchange);
    if has(event_flags::WANT_EVERYTHING) || (has(event_flags::READ_FAILED) && is_about_names) {
        Some(Untold::Anything)
    } else if has(event_flags::READ_FAILED) {
        Some(Untold::Inode)
    } else if has(event_flags::NOT_RECORDED) {
        Some(Untold::Subvolume)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
