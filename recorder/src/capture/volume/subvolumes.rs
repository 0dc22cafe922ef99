//! Asks a mounted btrfs which subvolumes and snapshots it holds.
//!
//! Owns the one ioctl for it, a search of the root tree, and the decoding of its answer, which is checked as bytes from outside are.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// `BTRFS_IOC_TREE_SEARCH_V2`: _IOWR(0x94, 17, struct btrfs_ioctl_search_args_v2) of 112 bytes before its buffer.
const TREE_SEARCH_V2: libc::c_ulong = 0xc070_9411;
const ROOT_TREE: u64 = 1;
const FIRST_FREE_OBJECT: u64 = 256;
const LAST_FREE_OBJECT: u64 = u64::MAX - 255;
const ROOT_BACKREF: u32 = 144;
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes of `struct btrfs_ioctl_search_header`.
const HEADER_BYTES: usize = 32;
/// Bytes of `struct btrfs_root_ref` before the name.
const REF_BYTES: usize = 18;
/// Searches of one listing: each goes on where the last ended.
const SEARCHES_MAX: usize = 4096;

/// `struct btrfs_ioctl_search_args_v2` with its buffer behind it.
#[repr(C)]
struct Search {
    tree_id: u64,
    min_objectid: u64,
    max_objectid: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    nr_items: u32,
    unused: [u32; 9],
    buf_size: u64,
    buffer: [u8; BUFFER_BYTES],
}

const _: () = assert!(std::mem::offset_of!(Search, buffer) == 112);

/// A subvolume that is not the top level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subvolume {
    /// Its id.
    pub(super) id: u64,
    /// Its name in the directory that holds it.
    pub(super) name: String,
}

/// The place of an item in the tree: object, type, offset.
type Key = (u64, u32, u64);

/// Up to `count_max` subvolumes of the file system mounted at `mount_point`, and whether there are more.
///
/// # Errors
/// What the kernel says, or an answer that does not hold together.
pub(super) fn list(mount_point: &Path, count_max: usize) -> Result<(Vec<Subvolume>, bool)> {
    let context = || format!("list the subvolumes of {}", mount_point.display());
    let directory = File::open(mount_point).with_context(context)?;
    let mut found = Vec::new();
    let mut from: Key = (FIRST_FREE_OBJECT, ROOT_BACKREF, 0);
    for _ in 0..SEARCHES_MAX {
        let search = search(&directory, from).with_context(context)?;
        let last = parse(&search.buffer, search.nr_items, &mut found).with_context(context)?;
        if found.len() > count_max {
            found.truncate(count_max);
            return Ok((found, true));
        }
        let Some((object, kind, offset)) = last else {
            return Ok((found, false));
        };
        // The key after the last one, in the tree's order.
        from = match (offset.checked_add(1), kind.checked_add(1)) {
            (Some(offset), _) => (object, kind, offset),
            (None, Some(kind)) => (object, kind, 0),
            (None, None) => (object + 1, 0, 0),
        };
        if from.0 > LAST_FREE_OBJECT {
            return Ok((found, false));
        }
    }
    Ok((found, true))
}

fn search(directory: &File, (object, kind, offset): Key) -> Result<Box<Search>> {
    let mut search = Box::new(Search {
        tree_id: ROOT_TREE,
        min_objectid: object,
        max_objectid: LAST_FREE_OBJECT,
        min_offset: offset,
        max_offset: u64::MAX,
        min_transid: 0,
        max_transid: u64::MAX,
        min_type: kind,
        // Minimum and maximum are whole keys, not limits of each field: any type may lie between them.
        max_type: ROOT_BACKREF,
        nr_items: 4096,
        unused: [0; 9],
        buf_size: BUFFER_BYTES as u64,
        buffer: [0; BUFFER_BYTES],
    });
    // SAFETY: the kernel writes the struct and at most buf_size bytes behind it, which are ours.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), TREE_SEARCH_V2, &raw mut *search) };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).context("search the root tree");
    }
    Ok(search)
}

/// Adds the subvolumes among the items of an answer; returns the key of the last item.
fn parse(buffer: &[u8], items: u32, found: &mut Vec<Subvolume>) -> Result<Option<Key>> {
    let mut rest = buffer;
    let mut last = None;
    for _ in 0..items {
        let (header, after) = rest
            .split_first_chunk::<HEADER_BYTES>()
            .context("an item is cut short")?;
        let long = |at: usize| u64::from_ne_bytes(header[at..at + 8].try_into().unwrap_or_default());
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap_or_default());
        let (object, offset, kind, length) = (long(8), long(16), word(24), word(28) as usize);
        let (item, after) = after.split_at_checked(length).context("an item is cut short")?;
        if kind == ROOT_BACKREF && object >= FIRST_FREE_OBJECT {
            ensure!(item.len() >= REF_BYTES, "a reference to a subvolume is cut short");
            let bytes = usize::from(u16::from_le_bytes([item[16], item[17]]));
            let name = item[REF_BYTES..]
                .get(..bytes)
                .context("a subvolume's name is cut short")?;
            found.push(Subvolume {
                id: object,
                name: String::from_utf8_lossy(name).into_owned(),
            });
        }
        last = Some((object, kind, offset));
        rest = after;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(object: u64, kind: u32, offset: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = 7u64.to_ne_bytes().to_vec();
        bytes.extend(object.to_ne_bytes());
        bytes.extend(offset.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(u32::try_from(body.len()).unwrap().to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn reference(name: &str) -> Vec<u8> {
        let mut body = vec![0; 16];
        body.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        body.extend(name.as_bytes());
        body
    }

    #[test]
    fn subvolumes_are_told_from_other_items() {
        let answer = [
            item(256, 132, 0, &[0; 439]),
            item(256, ROOT_BACKREF, 5, &reference("home")),
            item(257, ROOT_BACKREF, 256, &reference("snap 1")),
        ]
        .concat();
        let mut found = Vec::new();
        assert_eq!(
            parse(&answer, 3, &mut found).unwrap(),
            Some((257, ROOT_BACKREF, 256))
        );
        let names: Vec<(u64, &str)> = found.iter().map(|one| (one.id, one.name.as_str())).collect();
        assert_eq!(names, [(256, "home"), (257, "snap 1")]);
        assert_eq!(parse(&answer, 0, &mut found).unwrap(), None);
    }

    #[test]
    fn an_answer_cut_anywhere_is_an_error() {
        let answer = item(256, ROOT_BACKREF, 5, &reference("home"));
        for length in 0..answer.len() {
            assert!(
                parse(&answer[..length], 1, &mut Vec::new()).is_err(),
                "{length} bytes"
            );
        }
        let mut long = answer;
        long[HEADER_BYTES + 16] = 200;
        assert!(
            parse(&long, 1, &mut Vec::new()).is_err(),
            "a name longer than its item"
        );
    }
}
