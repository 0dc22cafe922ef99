//! `replayer diff`: what is different between two moments. Inodes are compared, by which the journal knows a file under whatever name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::content::Content;
use super::tree::{Names, Tree};
use crate::cli::DiffArgs;
use crate::exit::Exit;
use crate::media::Media;
use crate::output::{Format, escape};
use crate::restore::plan::{Kind, Node, NodeIndex, Plan};
use crate::spill;

/// Bytes of two contents that are compared at once.
const RUN_BYTES: u64 = 8 << 20;

/// Runs `replayer diff`.
pub(crate) fn run(args: &DiffArgs, format: Format) -> Result<Exit> {
    for at in [&args.from, &args.to] {
        crate::media::parse_at(Some(at))?;
    }
    let media = Media::open(&args.past.media)?;
    let from = Tree::at(&media, &args.past, Some(&args.from))?;
    let to = Tree::at(&media, &args.past, Some(&args.to))?;
    let sides = Sides::new(&from, &to);
    spill::check()?;
    let differences = sides
        .differences()
        .map_err(|error| media.explain(args.past.volume.as_deref(), error))?;
    let (mut text, mut documents) = (String::new(), Vec::new());
    let document = spill::within(|| {
        for difference in &differences {
            let _writing_to_a_string_cannot_fail = writeln!(text, "{}", difference.text());
            documents.push(difference.json());
        }
        json!({
            "from": from.moment.point.json(), "to": to.moment.point.json(), "differences": documents,
        })
    });
    spill::check()?;
    format.result(&text, &document)?;
    Ok(match (from.moment.exit(), to.moment.exit()) {
        (Exit::Ok, exit) | (exit, _) => exit,
    })
}

/// What became of a path.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Removed,
    Added,
    /// The inode had the other path before.
    Renamed(Vec<u8>),
    /// What is different of it.
    Changed(Vec<&'static str>),
}

#[derive(Debug, PartialEq, Eq)]
struct Difference {
    path: Vec<u8>,
    change: Change,
}

impl Difference {
    fn text(&self) -> String {
        let path = escape(&self.path);
        match &self.change {
            Change::Removed => format!("- {path}"),
            Change::Added => format!("+ {path}"),
            Change::Renamed(from) => format!("> {} -> {path}", escape(from)),
            Change::Changed(what) => format!("! {path} ({})", what.join(", ")),
        }
    }

    fn json(&self) -> Value {
        let path = escape(&self.path);
        match &self.change {
            Change::Removed => json!({ "change": "removed", "path": path }),
            Change::Added => json!({ "change": "added", "path": path }),
            Change::Renamed(from) => json!({ "change": "renamed", "path": path, "from": escape(from) }),
            Change::Changed(what) => json!({ "change": "changed", "path": path, "what": what }),
        }
    }
}

/// The names of each node.
type Paths = BTreeMap<NodeIndex, BTreeSet<Vec<u8>>>;

struct Side<'a> {
    tree: &'a Tree<'a>,
    paths: Paths,
}

impl<'a> Side<'a> {
    fn new(tree: &'a Tree<'a>) -> Self {
        let mut paths = Paths::new();
        tree.walk(Plan::ROOT, &Names::default(), |path, node| {
            spill::within(|| paths.entry(node).or_default().insert(path.to_vec()));
        });
        Self { tree, paths }
    }

    fn node(&self, node: NodeIndex) -> &Node {
        self.tree.plan().node(node)
    }
}

struct Sides<'a> {
    from: Side<'a>,
    to: Side<'a>,
}

impl<'a> Sides<'a> {
    fn new(from: &'a Tree<'a>, to: &'a Tree<'a>) -> Self {
        Self {
            from: Side::new(from),
            to: Side::new(to),
        }
    }

    /// All differences, by path.
    fn differences(&self) -> Result<Vec<Difference>> {
        let (mut gone, mut come) = (BTreeMap::new(), BTreeMap::new());
        let mut found = Vec::new();
        let empty = BTreeSet::new();
        let (from_index, to_index) = (
            &self.from.tree.moment.folded.index,
            &self.to.tree.moment.folded.index,
        );
        for (key, &node) in from_index {
            let before = self.from.paths.get(&node).unwrap_or(&empty);
            let now = to_index.get(key);
            let after = now.and_then(|now| self.to.paths.get(now)).unwrap_or(&empty);
            let fewer = before.difference(after);
            spill::within(|| gone.extend(fewer.map(|path| (path.clone(), (*key, node)))));
            let path = before.intersection(after).next().or(after.first());
            if let (Some(&now), Some(path)) = (now, path) {
                let what = self.changed(node, now)?;
                if !what.is_empty() {
                    let change = Change::Changed(what);
                    found.push(Difference {
                        path: path.clone(),
                        change,
                    });
                }
            }
        }
        for (key, &node) in to_index {
            let after = self.to.paths.get(&node).unwrap_or(&empty);
            let before = from_index.get(key).and_then(|before| self.from.paths.get(before));
            let more = after.difference(before.unwrap_or(&empty));
            spill::within(|| come.extend(more.map(|path| (path.clone(), (*key, node)))));
        }
        // A path that leads to another inode now: the file was saved by putting a new one in its place.
        let replaced: Vec<_> = gone
            .keys()
            .filter(|path| come.contains_key(*path))
            .cloned()
            .collect();
        for path in replaced {
            if let (Some((_, before)), Some((_, now))) = (gone.remove(&path), come.remove(&path)) {
                let mut what = vec!["replaced"];
                what.extend(self.changed(before, now)?);
                let change = Change::Changed(what);
                found.push(Difference { path, change });
            }
        }
        let old_paths: HashMap<_, _> = gone.iter().map(|(path, (key, _))| (*key, path.clone())).collect();
        for (path, (key, _)) in come {
            // One old name is what one new name was; more new names are added ones.
            let old = old_paths.get(&key).filter(|old| gone.remove(*old).is_some());
            let change = old.map_or(Change::Added, |old| Change::Renamed(old.clone()));
            found.push(Difference { path, change });
        }
        found.extend(gone.into_keys().map(|path| Difference {
            path,
            change: Change::Removed,
        }));
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// What is different of two inodes, or of one at two moments.
    fn changed(&self, before: NodeIndex, now: NodeIndex) -> Result<Vec<&'static str>> {
        let (old, new) = (self.from.node(before), self.to.node(now));
        let mut what = Vec::new();
        let mut note = |is_different: bool, name| {
            if is_different {
                what.push(name);
            }
        };
        let is_file = |node: &Node| matches!(node.kind, Kind::File { .. });
        if is_file(old) && is_file(new) {
            note(self.has_other_content(before, now)?, "content");
        } else {
            note(old.kind != new.kind, "type or target");
        }
        note(old.permissions != new.permissions, "mode");
        note((old.uid, old.gid) != (new.uid, new.gid), "owner");
        note(old.mtime != new.mtime, "mtime");
        note(old.xattrs != new.xattrs, "xattrs");
        note(
            (old.file_flags, old.project) != (new.file_flags, new.project),
            "flags",
        );
        Ok(what)
    }

    fn has_other_content(&self, before: NodeIndex, now: NodeIndex) -> Result<bool> {
        let contents = (
            Content::of(self.from.tree, before),
            Content::of(self.to.tree, now),
        );
        let (Some(old), Some(new)) = contents else {
            return Ok(true);
        };
        if old.size != new.size || old.has_pieces_of(&new) {
            return Ok(old.size != new.size);
        }
        let (mut one, mut two, mut at) = (Vec::new(), Vec::new(), 0);
        while at < old.size {
            let length = usize::try_from(RUN_BYTES.min(old.size - at)).context("a run of a file")?;
            one.resize(length, 0);
            two.resize(length, 0);
            old.read(at, &mut one)?;
            new.read(at, &mut two)?;
            if one != two {
                return Ok(true);
            }
            at += length as u64;
        }
        Ok(false)
    }
}
