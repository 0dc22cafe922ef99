//! The tree of a moment, by its paths.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;

use crate::cli::PastArgs;
use crate::exit::{Exit, failure};
use crate::media::{Media, Moment};
use crate::output::escape;
use crate::restore::plan::{Kind, NodeIndex, Piece, Plan};
use crate::spill;

/// A path from the root of the volume, in its names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(Vec<Vec<u8>>);

impl Names {
    /// Takes a path apart. It begins at the root of the volume, with a slash or without.
    ///
    /// # Errors
    /// Wrong usage where it goes upwards: where that leads depends on links, which are not followed.
    pub(crate) fn of(path: &OsStr) -> Result<Self> {
        let mut names = Vec::new();
        for name in path.as_bytes().split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    return Err(failure(
                        Exit::Usage,
                        format!("{}: give the path without \"..\"", escape(path.as_bytes())),
                    ));
                }
                name => names.push(name.to_vec()),
            }
        }
        Ok(Self(names))
    }

    /// The names, from the root on.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// Escaped, with a slash in front.
    pub(crate) fn text(&self) -> String {
        let names: Vec<String> = self.iter().map(escape).collect();
        format!("/{}", names.join("/"))
    }
}

/// A name in a directory, and what it leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) node: NodeIndex,
}

/// The tree of a moment, with an index of its names.
pub(crate) struct Tree<'a> {
    pub(crate) moment: Moment<'a>,
    /// Of each name: the directory, which of the node's names it is, and the node; sorted by directory and name.
    names: Vec<(NodeIndex, u32, NodeIndex)>,
}

impl<'a> Tree<'a> {
    /// Folds the journal up to a moment, and says which one it is.
    pub(crate) fn at(media: &'a Media, past: &PastArgs, at: Option<&str>) -> Result<Self> {
        let mut moment = media.moment(past, at)?;
        // One file is read at a time here, not one row after the other.
        let order = |piece: &Piece| (piece.node, piece.offset);
        moment.folded.plan.pieces.sort_unstable_by_key(order);
        let plan = &moment.folded.plan;
        let names = || {
            let mut names = Vec::new();
            for node in plan.indices() {
                for (number, link) in (0..).zip(&plan.node(node).links) {
                    names.push((link.parent, number, node));
                }
            }
            names
        };
        let mut names = spill::within(names);
        spill::check()?;
        names.sort_unstable_by(|a, b| (a.0, name_of(plan, *a)).cmp(&(b.0, name_of(plan, *b))));
        Ok(Self { moment, names })
    }

    /// Where the content of a node comes from, in order of its place in the file.
    pub(crate) fn pieces(&self, node: NodeIndex) -> &[Piece] {
        let pieces = &self.plan().pieces;
        let from = pieces.partition_point(|piece| piece.node < node);
        let to = pieces.partition_point(|piece| piece.node <= node);
        &pieces[from..to]
    }

    /// What is made of the journal.
    pub(crate) fn plan(&self) -> &Plan {
        &self.moment.folded.plan
    }

    /// The names in a directory, in the order of their bytes.
    pub(crate) fn children(&self, directory: NodeIndex) -> impl ExactSizeIterator<Item = Child<'_>> {
        let plan = self.plan();
        let from = self.names.partition_point(|(parent, ..)| *parent < directory);
        let to = self.names.partition_point(|(parent, ..)| *parent <= directory);
        let of_directory = self.names.get(from..to).unwrap_or_default();
        of_directory.iter().map(move |name| Child {
            name: name_of(plan, *name),
            node: name.2,
        })
    }

    /// What a name in a directory leads to, if it is there.
    pub(crate) fn child(&self, directory: NodeIndex, name: &[u8]) -> Option<NodeIndex> {
        let plan = self.plan();
        let found = self
            .names
            .binary_search_by(|other| (other.0, name_of(plan, *other)).cmp(&(directory, name)))
            .ok()?;
        self.names.get(found).map(|name| name.2)
    }

    /// What a path leads to.
    ///
    /// # Errors
    /// Where there is no such name, or one on the way is no directory.
    pub(crate) fn lookup(&self, path: &Names) -> Result<NodeIndex> {
        let plan = self.plan();
        let mut node = Plan::ROOT;
        for name in path.iter() {
            let missing = |why: &str| failure(Exit::Failed, format!("{}: {why} at that moment", path.text()));
            match &plan.node(node).kind {
                Kind::Directory => {}
                Kind::Symlink { target } => {
                    let to = escape(target);
                    return Err(missing(&format!(
                        "{} was a symbolic link to {to}, and links are not followed,",
                        plan.path(node)
                    )));
                }
                _ => return Err(missing(&format!("{} was no directory", plan.path(node)))),
            }
            node = self
                .child(node, name)
                .ok_or_else(|| missing("there was no such name"))?;
        }
        Ok(node)
    }

    /// What a path leads to and all names below it, depth first, with their paths: a directory comes before what is in it.
    pub(crate) fn walk(&self, from: NodeIndex, path: &Names, mut visit: impl FnMut(&[u8], NodeIndex)) {
        let mut at: Vec<u8> = Vec::new();
        for name in path.iter() {
            at.push(b'/');
            at.extend_from_slice(name);
        }
        visit(if at.is_empty() { b"/" } else { &at }, from);
        // Of each name that waits: where the path of its directory ends. One path is kept, however deep the tree.
        let mut waiting: Vec<(usize, Child<'_>)> = Vec::new();
        let enter = |waiting: &mut Vec<_>, end: usize, node| {
            let first = waiting.len();
            waiting.extend(self.children(node).map(|child| (end, child)));
            waiting[first..].reverse();
        };
        enter(&mut waiting, at.len(), from);
        while let Some((end, child)) = waiting.pop() {
            at.truncate(end);
            at.push(b'/');
            at.extend_from_slice(child.name);
            visit(&at, child.node);
            if self.plan().is_directory(child.node) {
                enter(&mut waiting, at.len(), child.node);
            }
        }
    }
}

fn name_of(plan: &Plan, (_, number, node): (NodeIndex, u32, NodeIndex)) -> &[u8] {
    plan.node(node)
        .links
        .get(number as usize)
        .map_or(b"", |link| &link.name)
}
