//! `replayer ls`: names of a moment with what they were.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::tree::{Names, Tree};
use crate::cli::{LsArgs, MomentArgs};
use crate::exit::Exit;
use crate::media::Media;
use crate::output::{Format, escape, utc};
use crate::restore::plan::{Kind, Node, NodeIndex};
use crate::spill;

/// Runs `replayer ls`.
pub(crate) fn run(args: &LsArgs, format: Format) -> Result<Exit> {
    let MomentArgs { past, at } = &args.moment;
    crate::media::parse_at(at.as_deref())?;
    let path = Names::of(&args.path)?;
    let media = Media::open(&past.media)?;
    let tree = Tree::at(&media, past, at.as_deref())?;
    let node = tree.lookup(&path)?;
    let (text, document) = spill::within(|| list(&tree, node, &path, args.recursive));
    spill::check()?;
    format.result(&text, &document)?;
    Ok(tree.moment.exit())
}

/// What a path leads to, for people and for programs.
fn list(tree: &Tree<'_>, node: NodeIndex, path: &Names, is_recursive: bool) -> (String, Value) {
    let mut found: Vec<(Vec<u8>, NodeIndex)> = Vec::new();
    if is_recursive {
        tree.walk(node, path, |path, node| found.push((path.to_vec(), node)));
    } else if tree.plan().is_directory(node) {
        found.extend(tree.children(node).map(|child| (child.name.to_vec(), child.node)));
    } else {
        found.push((path.iter().last().unwrap_or_default().to_vec(), node));
    }
    let mut text = String::new();
    let mut entries = Vec::new();
    for (name, node) in &found {
        let node = tree.plan().node(*node);
        let _writing_to_a_string_cannot_fail = writeln!(text, "{}", line(name, node));
        entries.push(entry(name, node));
    }
    let document = json!({ "point": tree.moment.point.json(), "entries": entries });
    (text, document)
}

/// As `ls -l` has it, with the time in UTC to the second's fraction.
fn line(name: &[u8], node: &Node) -> String {
    let size = match node.kind {
        Kind::File { size } => size.to_string(),
        Kind::CharDevice { rdev } | Kind::BlockDevice { rdev } => {
            format!("{}, {}", libc::major(rdev), libc::minor(rdev))
        }
        _ => "-".to_owned(),
    };
    let to = match &node.kind {
        Kind::Symlink { target } => format!(" -> {}", escape(target)),
        _ => String::new(),
    };
    format!(
        "{}{} {:>3} {:>5} {:>5} {size:>12} {:<30} {}{to}",
        letter(&node.kind),
        permissions(node.permissions),
        links(node),
        node.uid,
        node.gid,
        mtime(node).unwrap_or_else(|| "-".to_owned()),
        escape(name)
    )
}

/// For programs. Raw names are escaped as in text.
pub(super) fn entry(name: &[u8], node: &Node) -> Value {
    let (mut size, mut target, mut rdev) = (None, None, None);
    match &node.kind {
        Kind::File { size: bytes } => size = Some(*bytes),
        Kind::Symlink { target: to } => target = Some(escape(to)),
        Kind::CharDevice { rdev: number } | Kind::BlockDevice { rdev: number } => rdev = Some(*number),
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
    let xattrs: Vec<String> = node.xattrs.iter().map(|(name, _)| escape(name)).collect();
    json!({
        "name": escape(name), "type": letter(&node.kind).to_string(), "permissions": format!("{:04o}", node.permissions),
        "links": links(node), "uid": node.uid, "gid": node.gid, "size": size, "mtime": mtime(node), "target": target,
        "rdev": rdev, "xattrs": xattrs,
    })
}

/// Names that lead to it. A directory has one: whether a file system counts `.` and `..` too is its own affair.
fn links(node: &Node) -> usize {
    node.links.len().max(1)
}

fn mtime(node: &Node) -> Option<String> {
    let time = node.mtime?;
    let nanoseconds = time
        .sec
        .checked_mul(1_000_000_000)?
        .checked_add(time.nsec.into())?;
    Some(utc(nanoseconds))
}

/// The letter that `ls -l` begins a line with.
pub(super) fn letter(kind: &Kind) -> char {
    match kind {
        Kind::File { .. } => '-',
        Kind::Directory => 'd',
        Kind::Symlink { .. } => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice { .. } => 'c',
        Kind::BlockDevice { .. } => 'b',
    }
}

fn permissions(mode: u32) -> String {
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::with_capacity(9);
    for (group, (bit, with, without)) in (0..3_u32).rev().zip(special) {
        let bits = mode >> (group * 3);
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & bit != 0) {
            (true, true) => with,
            (false, true) => without,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::permissions;

    #[test]
    fn permissions_are_those_of_ls() {
        for (mode, text) in [
            (0o755, "rwxr-xr-x"),
            (0o4755, "rwsr-xr-x"),
            (0o2644, "rw-r-Sr--"),
            (0o1777, "rwxrwxrwt"),
            (0o1000, "--------T"),
        ] {
            assert_eq!(permissions(mode), text);
        }
    }
}
