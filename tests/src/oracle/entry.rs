//! One entry of a digest: what a restore must bring back. One JSON line each; raw bytes are escaped without loss.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device.
    Character,
    /// Block device.
    Block,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
}

/// Everything of promise 4, for one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path from the root of the tree, escaped by [`escape`]; "." is the root itself.
    pub path: String,
    /// Type.
    pub kind: Kind,
    /// Permission bits, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Major and minor number of a device node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdev: Option<(u32, u32)>,
    /// Target of a symbolic link, escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// First path of the names that share this inode, where there is more than one; escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_group: Option<String>,
    /// Bytes of a regular file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes: escaped name to escaped value, or its length and BLAKE3 where it is long.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// ACLs as text, access and default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub acls: BTreeMap<String, String>,
    /// File flags that a user sets, by chattr's letters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flags: String,
    /// Project id of a file or directory; 0 is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub project: u32,
    /// BLAKE3 of the content, holes read as zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Allocated ranges (offset, bytes); compared only when asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<(u64, u64)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Escapes raw bytes without loss: printable ASCII stays, backslash is doubled, all else is `\xHH`.
pub(super) fn escape(raw: &[u8]) -> String {
    let mut text = String::with_capacity(raw.len());
    for &byte in raw {
        match byte {
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn escape_has_no_two_ways_to_write_one_name() {
        assert_eq!(escape(b"a\\x0a"), "a\\\\x0a");
        assert_eq!(escape(b"a\x0a\xff"), "a\\x0a\\xff");
        assert_ne!(escape(b"a\\x0a"), escape(b"a\x0a"));
    }
}
