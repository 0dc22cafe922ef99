//! Compares two digests line by line and names the first differences.

use std::collections::BTreeMap;
use std::io::BufRead;

use anyhow::{Context, Result};
use serde::Serialize;

use super::entry::Entry;
use super::flags::{Held, held_by};

/// What to compare beyond the promises.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Allocated ranges too.
    pub holes: bool,
    /// Differences kept; the rest is only counted.
    pub differences_max: usize,
    /// What the left tree's file system holds, where the two lie on different ones.
    pub held: Option<Held>,
    /// What the right tree's holds.
    pub held_too: Option<Held>,
}

impl Options {
    /// The trees lie on different file systems: of flags and project ids, only what both hold is compared.
    ///
    /// # Errors
    /// A file system of which that is not known.
    pub fn held_by_both(self, left: &str, right: &str) -> Result<Self> {
        Ok(Self {
            held: Some(held_by(left)?),
            held_too: Some(held_by(right)?),
            ..self
        })
    }

    fn flags(&self, flags: &str) -> String {
        let holds = |held: &Option<Held>, letter| held.is_none_or(|held| held.flags.contains(letter));
        flags
            .chars()
            .filter(|&letter| holds(&self.held, letter) && holds(&self.held_too, letter))
            .collect()
    }

    fn project(&self) -> bool {
        [self.held, self.held_too]
            .into_iter()
            .flatten()
            .all(|held| held.project)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            holes: false,
            differences_max: 20,
            held: None,
            held_too: None,
        }
    }
}

/// One field of one entry that is not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Escaped path.
    pub path: String,
    /// The field, or "entry" where one side has no such path.
    pub field: &'static str,
    /// Value on the left.
    pub left: String,
    /// Value on the right.
    pub right: String,
}

/// The outcome.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// Entries on the left.
    pub entries: u64,
    /// Content bytes on the left.
    pub bytes: u64,
    /// Differences in all.
    pub differing: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// Compares two digests, each in the order in which [`super::digest`] wrote it.
///
/// # Errors
/// A digest that cannot be read or is not one.
pub fn compare(left: impl BufRead, right: impl BufRead, options: Options) -> Result<Comparison> {
    let mut right = read(right).context("read right digest")?;
    let mut result = Comparison::default();
    for entry in entries(left) {
        let entry = entry.context("read left digest")?;
        result.entries += 1;
        result.bytes += entry.size.unwrap_or(0);
        match right.remove(&entry.path) {
            Some(other) => fields(&entry, &other, options, |difference| {
                result.add(difference, options);
            }),
            None => result.add(missing(&entry.path, "there", "missing"), options),
        }
    }
    for path in right.keys() {
        result.add(missing(path, "missing", "there"), options);
    }
    // Two digests that were never written would otherwise be the same; every tree has at least its root.
    anyhow::ensure!(
        result.entries > 0,
        "the left digest holds no entry: it was not completed"
    );
    Ok(result)
}

impl Comparison {
    fn add(&mut self, difference: Difference, options: Options) {
        self.differing += 1;
        if self.differences.len() < options.differences_max {
            self.differences.push(difference);
        }
    }
}

fn missing(path: &str, left: &str, right: &str) -> Difference {
    Difference {
        path: path.to_owned(),
        field: "entry",
        left: left.to_owned(),
        right: right.to_owned(),
    }
}

fn entries(digest: impl BufRead) -> impl Iterator<Item = Result<Entry>> {
    digest.lines().enumerate().map(|(index, line)| {
        serde_json::from_str(&line.context("read line")?)
            .with_context(|| format!("line {}: not a digest", index + 1))
    })
}

fn read(digest: impl BufRead) -> Result<BTreeMap<String, Entry>> {
    entries(digest)
        .map(|entry| entry.map(|entry| (entry.path.clone(), entry)))
        .collect()
}

fn fields(left: &Entry, right: &Entry, options: Options, mut add: impl FnMut(Difference)) {
    let Entry {
        path,
        kind,
        mode,
        uid,
        gid,
        rdev,
        target,
        link_group,
        size,
        mtime,
        xattrs,
        acls,
        flags,
        project,
        content,
        data,
    } = left;
    let mut check = |field, same: bool, left: String, right: String| {
        if !same {
            add(Difference {
                path: path.clone(),
                field,
                left,
                right,
            });
        }
    };
    check(
        "type",
        *kind == right.kind,
        format!("{kind:?}"),
        format!("{:?}", right.kind),
    );
    check(
        "mode",
        *mode == right.mode,
        format!("{mode:o}"),
        format!("{:o}", right.mode),
    );
    check("uid", *uid == right.uid, uid.to_string(), right.uid.to_string());
    check("gid", *gid == right.gid, gid.to_string(), right.gid.to_string());
    check(
        "rdev",
        *rdev == right.rdev,
        format!("{rdev:?}"),
        format!("{:?}", right.rdev),
    );
    check(
        "target",
        *target == right.target,
        format!("{target:?}"),
        format!("{:?}", right.target),
    );
    check(
        "link group",
        *link_group == right.link_group,
        format!("{link_group:?}"),
        format!("{:?}", right.link_group),
    );
    check(
        "size",
        *size == right.size,
        format!("{size:?}"),
        format!("{:?}", right.size),
    );
    check(
        "mtime",
        *mtime == right.mtime,
        format!("{mtime:?}"),
        format!("{:?}", right.mtime),
    );
    check(
        "xattrs",
        *xattrs == right.xattrs,
        format!("{xattrs:?}"),
        format!("{:?}", right.xattrs),
    );
    check(
        "ACLs",
        *acls == right.acls,
        format!("{acls:?}"),
        format!("{:?}", right.acls),
    );
    let (flags, other_flags) = (options.flags(flags), options.flags(&right.flags));
    check("file flags", flags == other_flags, flags, other_flags);
    check(
        "project id",
        *project == right.project || !options.project(),
        project.to_string(),
        right.project.to_string(),
    );
    check(
        "content",
        *content == right.content,
        format!("{content:?}"),
        format!("{:?}", right.content),
    );
    if options.holes {
        check(
            "allocation",
            *data == right.data,
            format!("{data:?}"),
            format!("{:?}", right.data),
        );
    }
}
