//! Extended attributes of an open entry, ACLs among them as readable text.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::entry::escape;

/// Values longer than this (bytes) stand in the digest as length and hash.
const VALUE_SHOWN_BYTES_MAX: usize = 64;

/// Reads the extended attributes of the entry behind an O_PATH descriptor, which may be a symbolic link: (plain ones, ACLs).
pub(super) fn read(fd: impl AsFd) -> Result<(BTreeMap<String, String>, BTreeMap<String, String>)> {
    let mut plain = BTreeMap::new();
    let mut acls = BTreeMap::new();
    // The path leads to the very inode behind the descriptor; a symbolic link there is not followed further.
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()));
    let names = match xattr::list_deref(&path) {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok((plain, acls)),
        Err(error) => return Err(error).context("list extended attributes"),
    };
    for name in names {
        // XFS lists each ACL a second time, under the name it has on the disk; other file systems do not.
        if name.as_encoded_bytes().starts_with(b"trusted.SGI_ACL_") {
            continue;
        }
        let Some(value) = xattr::get_deref(&path, &name).context("read extended attribute")? else {
            continue;
        };
        let name = escape(std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str()));
        if name.starts_with("system.posix_acl_") {
            acls.insert(name, acl_text(&value));
        } else {
            plain.insert(name, value_text(&value));
        }
    }
    Ok((plain, acls))
}

fn value_text(value: &[u8]) -> String {
    if value.len() <= VALUE_SHOWN_BYTES_MAX {
        escape(value)
    } else {
        format!("{} bytes, blake3 {}", value.len(), blake3::hash(value).to_hex())
    }
}

/// An ACL in its xattr encoding (version 2, then tag, permission, id) as text; escaped raw bytes where it is malformed.
fn acl_text(value: &[u8]) -> String {
    let Some((version, entries)) = value.split_first_chunk::<4>() else {
        return escape(value);
    };
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return escape(value);
    }
    let mut lines = Vec::new();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let perm = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let bits: String = [(4, 'r'), (2, 'w'), (1, 'x')]
            .iter()
            .map(|&(bit, c)| if perm & bit != 0 { c } else { '-' })
            .collect();
        lines.push(match tag {
            0x01 => format!("user::{bits}"),
            0x02 => format!("user:{id}:{bits}"),
            0x04 => format!("group::{bits}"),
            0x08 => format!("group:{id}:{bits}"),
            0x10 => format!("mask::{bits}"),
            0x20 => format!("other::{bits}"),
            _ => format!("{tag:#x}:{id}:{bits}"),
        });
    }
    lines.join(",")
}

#[cfg(test)]
mod tests {
    use super::acl_text;

    #[test]
    fn acl_is_readable() {
        let raw = [
            2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0,
        ];
        assert_eq!(acl_text(&raw), "user::rw-,user:1000:r--");
    }
}
