//! Finds the operation behind a repair: a snapshot in the journal after its base, of an inode that had a name below the
//! operation's directory, or that lay there at the end.
//!
//! What is read again after the mark of the operation's family is another one's doing: what stood in the journal until
//! then gave the same tree at that mark already.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::OpsLine;
use crate::vm::verdict::Report;

/// The family of the ioctls that change an inode's identity: the recorder answers with a hole of its own, and reads everything again.
const IOCTLS: &str = "ioctls";

/// What was repaired after the base.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Repairs {
    /// Snapshots by the name of the operation.
    pub(crate) by_operation: BTreeMap<String, u64>,
    /// Snapshots of inodes that no operation is known to have touched.
    pub(crate) unknown: u64,
    /// Bases after the first: everything was read again, so that nothing was shown to be exact.
    pub(crate) bases_more: u64,
    /// Holes in the sequence that nothing accounts for.
    pub(crate) holes: u64,
    /// Holes that stand for an ioctl after which everything is read again.
    pub(crate) holes_of_ioctls: u64,
}

/// Troubles of a whole round trip that no directory shows.
pub(crate) fn troubles(report: &Report, repairs: &Repairs) -> Vec<String> {
    let mut troubles = Vec::new();
    if report.script_code != 0 {
        troubles.push(format!("the run of operations ended with {}", report.script_code));
    }
    if report.holes_open() != 0 {
        troubles.push(format!("{} holes are open", report.holes_open()));
    }
    if repairs.holes != 0 {
        troubles.push(format!("{} holes in the journal", repairs.holes));
    }
    if repairs.bases_more != 0 {
        troubles.push(format!(
            "everything was read again {} times: nothing is shown to be exact",
            repairs.bases_more
        ));
    }
    if let Some(warning) = report.kernel_warnings.first() {
        troubles.push(format!("a guest's kernel warns: {warning}"));
    }
    troubles
}

/// Reads the journal's rows about names and snapshots, in the order of their sequence numbers.
///
/// # Errors
/// When a row is not what `replayer dump --json-lines` writes.
pub(crate) fn repairs(journal: &str, lines: &[OpsLine]) -> Result<Repairs> {
    let mut found = Repairs::default();
    let (mut root, mut based) = (String::new(), false);
    let mut operation_of: BTreeMap<String, String> = BTreeMap::new();
    // Each with the number of marks before it.
    let mut snapshots: Vec<(String, usize)> = Vec::new();
    let mut marks: Vec<String> = Vec::new();
    let mut holes: Vec<usize> = Vec::new();
    for line in journal.lines() {
        let row: Value = serde_json::from_str(line).context("parse row of the journal")?;
        let text = |value: &Value| value.as_str().map(str::to_string);
        let inode = text(&row["inode"]).unwrap_or_default();
        match row["op"].as_str().context("find the operation of a row")? {
            "base_begin" => {
                found.bases_more += u64::from(based);
                root = inode;
            }
            "base_end" => based = true,
            "hole" => holes.push(marks.len()),
            "snapshot" if based => snapshots.push((inode, marks.len())),
            "mark" => marks.extend(text(&row["name"])),
            "create" | "link" | "snapshot_entry" => {
                learn(&mut operation_of, &root, &row["entry"], &inode);
            }
            "rename" => learn(&mut operation_of, &root, &row["to"], &inode),
            "exchange" => {
                learn(&mut operation_of, &root, &row["to"], &inode);
                if let Some(other) = text(&row["other"]) {
                    learn(&mut operation_of, &root, &row["from"], &other);
                }
            }
            _ => {}
        }
    }
    ensure!(based, "the journal's rows show no base");
    for marks_before in holes {
        match marks.get(marks_before).map(String::as_str) {
            Some(IOCTLS) => found.holes_of_ioctls += 1,
            _ => found.holes += 1,
        }
    }
    let at_end: BTreeMap<u64, &str> = lines
        .iter()
        .flat_map(|line| line.inodes.iter().map(|inode| (*inode, line.op.as_str())))
        .collect();
    let families: BTreeMap<&str, &str> = lines
        .iter()
        .map(|line| (line.op.as_str(), line.family.as_str()))
        .collect();
    for (inode, marks_before) in snapshots {
        let number = inode.split('/').next().and_then(|number| number.parse().ok());
        let name = operation_of
            .get(&inode)
            .map(String::as_str)
            .filter(|name| families.contains_key(name))
            .or_else(|| at_end.get(&number?).copied());
        let marked = |name: &str| {
            marks[..marks_before]
                .iter()
                .any(|mark| families.get(name) == Some(&mark.as_str()))
        };
        match name {
            Some(name) if marked(name) => {}
            Some(name) => *found.by_operation.entry(name.to_string()).or_default() += 1,
            None => found.unknown += 1,
        }
    }
    Ok(found)
}

/// An inode belongs to the operation in whose directory it got its first name.
fn learn(operation_of: &mut BTreeMap<String, String>, root: &str, entry: &Value, inode: &str) {
    let (Some(parent), Some(name)) = (entry["parent"].as_str(), entry["name"].as_str()) else {
        return;
    };
    let operation = if parent == root {
        Some(name.to_string())
    } else {
        operation_of.get(parent).cloned()
    };
    if let Some(operation) = operation {
        operation_of.entry(inode.to_string()).or_insert(operation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<OpsLine> {
        vec![OpsLine {
            op: "mmap".into(),
            family: "stores".into(),
            outcome: "done".into(),
            error: String::new(),
            inodes: vec![12, 99],
        }]
    }

    const BASE: &str = "{\"op\":\"base_begin\",\"inode\":\"2/0\"}\n{\"op\":\"snapshot\",\"inode\":\"2/0\"}\n\
        {\"op\":\"base_end\"}\n{\"op\":\"create\",\"inode\":\"12/5\",\"entry\":{\"parent\":\"2/0\",\"name\":\"mmap\"}}\n\
        {\"op\":\"create\",\"inode\":\"13/6\",\"entry\":{\"parent\":\"12/5\",\"name\":\"file\"}}\n";

    #[test]
    fn a_snapshot_after_the_base_is_a_repair_of_the_directory_it_lies_in() {
        let journal = format!("{BASE}{{\"op\":\"snapshot\",\"inode\":\"13/6\"}}\n");
        let found = repairs(&journal, &lines()).unwrap();
        assert_eq!(found.by_operation, BTreeMap::from([("mmap".to_string(), 1)]));
        assert_eq!((found.unknown, found.bases_more), (0, 0));
    }

    #[test]
    fn what_is_read_again_after_the_mark_of_its_family_is_no_repair_of_it() {
        let (snapshot, mark) = (
            "{\"op\":\"snapshot\",\"inode\":\"13/6\"}\n",
            "{\"op\":\"mark\",\"name\":\"stores\"}\n",
        );
        let found = repairs(&format!("{BASE}{mark}{snapshot}"), &lines()).unwrap();
        assert_eq!(found, Repairs::default());
        let found = repairs(&format!("{BASE}{snapshot}{mark}{snapshot}"), &lines()).unwrap();
        assert_eq!(found.by_operation["mmap"], 1);
        let other = mark.replace("stores", "other");
        let found = repairs(&format!("{BASE}{other}{snapshot}"), &lines()).unwrap();
        assert_eq!(found.by_operation["mmap"], 1);
    }

    #[test]
    fn a_hole_is_a_trouble_unless_an_ioctl_made_it() {
        let hole = "{\"op\":\"hole\",\"inode_touched\":\"12/5\"}\n";
        let mark = |name: &str| format!("{{\"op\":\"mark\",\"name\":\"{name}\"}}\n");
        let journal = format!("{BASE}{hole}{}{hole}{}{hole}", mark("stores"), mark(IOCTLS));
        let found = repairs(&journal, &lines()).unwrap();
        assert_eq!((found.holes, found.holes_of_ioctls), (2, 1));
    }

    #[test]
    fn the_base_is_no_repair_and_a_second_one_is_told() {
        assert_eq!(repairs(BASE, &lines()).unwrap(), Repairs::default());
        let found = repairs(&format!("{BASE}{BASE}"), &lines()).unwrap();
        assert_eq!(found.bases_more, 1);
    }

    #[test]
    fn inodes_without_a_known_name_are_found_by_number_or_told() {
        let journal = format!(
            "{BASE}{{\"op\":\"snapshot\",\"inode\":\"99/1\"}}\n{{\"op\":\"snapshot\",\"inode\":\"50/1\"}}\n"
        );
        let found = repairs(&journal, &lines()).unwrap();
        assert_eq!(found.by_operation["mmap"], 1);
        assert_eq!(found.unknown, 1);
    }

    #[test]
    fn garbage_is_refused() {
        assert!(repairs("{", &[]).is_err());
        assert!(repairs("{}", &[]).is_err());
        assert!(repairs("", &[]).is_err(), "no row is no proof");
    }
}
