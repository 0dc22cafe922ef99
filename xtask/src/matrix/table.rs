//! The matrix as it is kept: `tests/matrix.json` for programs, `tests/MATRIX.md`, made from it, for people.

use std::collections::BTreeMap;
use std::fs::{self, File};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

use super::WHOLE_TREE;
use crate::setup;
use crate::vm::kernel::KernelLine;
use crate::vm::roundtrip::FileSystem;

/// Bytes of a detail that are kept.
const DETAIL_BYTES_MAX: usize = 400;

/// What a cell says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Restored alike, from captured operations alone.
    Exact,
    /// Restored alike, and something was read again for it.
    Converges,
    /// The file system or the kernel has no such operation.
    Unsupported,
    /// Not done, or not restored alike.
    Failed,
}

impl Verdict {
    pub(crate) fn because(self, detail: String) -> Mark {
        Mark {
            verdict: self,
            detail: detail.chars().take(DETAIL_BYTES_MAX).collect(),
            commit: String::new(),
            date: String::new(),
        }
    }

    fn shown(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Converges => "converges",
            Self::Unsupported => "not supported",
            Self::Failed => "**FAILED**",
        }
    }
}

/// One cell, as its last run left it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) verdict: Verdict,
    /// Why, where there is more to say.
    pub(crate) detail: String,
    commit: String,
    /// UTC.
    date: String,
}

/// A row.
pub(crate) struct Operation {
    pub(crate) name: String,
    family: String,
}

/// Reads what `ops list` prints.
///
/// # Errors
/// When it prints something else.
pub(crate) fn operations(list: &str) -> Result<Vec<Operation>> {
    list.lines()
        .map(|line| {
            let (family, name) = line.split_once(' ').context("read the list of operations")?;
            Ok(Operation {
                name: name.into(),
                family: family.into(),
            })
        })
        .collect()
}

/// Key of a column.
pub(crate) fn column(kernel: KernelLine, fs: FileSystem) -> String {
    format!("{kernel}-{fs}")
}

fn columns() -> Vec<String> {
    FileSystem::value_variants()
        .iter()
        .flat_map(|fs| KernelLine::SHIPPED.iter().map(|kernel| column(*kernel, *fs)))
        .collect()
}

/// Adds commit and date.
pub(crate) fn stamped(mut marks: BTreeMap<String, Mark>, stamp: &(String, String)) -> BTreeMap<String, Mark> {
    for mark in marks.values_mut() {
        (mark.commit, mark.date) = stamp.clone();
    }
    marks
}

/// All cells: operation, then column.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Table {
    cells: BTreeMap<String, BTreeMap<String, Mark>>,
}

impl Table {
    /// Puts the results of one column into the files; other cells stay. Cells of operations that are gone go, too.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub(crate) fn update(
        operations: &[Operation],
        column: &str,
        marks: BTreeMap<String, Mark>,
    ) -> Result<()> {
        let dir = setup::workspace_root().join("tests");
        let (json, page) = (dir.join("matrix.json"), dir.join("MATRIX.md"));
        // Several cells may be run at the same time.
        let lock = File::create(setup::workspace_root().join("target/matrix/lock"))
            .context("create lock of the matrix")?;
        lock.lock().context("lock the matrix")?;
        let mut table: Self = match fs::read(&json) {
            Ok(text) => serde_json::from_slice(&text).context("parse tests/matrix.json")?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error).context("read tests/matrix.json"),
        };
        for (operation, mark) in marks {
            table
                .cells
                .entry(operation)
                .or_default()
                .insert(column.into(), mark);
        }
        table
            .cells
            .retain(|name, _| name == WHOLE_TREE || operations.iter().any(|op| op.name == *name));
        let mut text = serde_json::to_string_pretty(&table).context("write the matrix as JSON")?;
        text.push('\n');
        fs::write(&json, text).context("write tests/matrix.json")?;
        fs::write(&page, table.page(operations)).context("write tests/MATRIX.md")
    }

    fn page(&self, operations: &[Operation]) -> String {
        let columns = columns();
        let mut page = String::from(
            "# What is recorded, and how well\n\n\
             Written by `cargo xtask test --matrix`; do not edit. Each operation is run while its file system is recorded, and \
             the tree is restored in a second machine from the medium alone, at the end and at every mark. ext4 is made with \
             `-O project`, XFS with `-i exchange=1` where the kernel knows it, all else by default.\n\n\
             - **exact**: the same everywhere, and nothing that the operation touched was read again until the mark after its family.\n\
             - **converges**: the same everywhere, with the help of a repair: `snapshot(inode)` was in the journal.\n\
             - **not supported**: the file system or the kernel has no such operation.\n\
             - **FAILED**: not done, or not restored alike. **no result**: never run; this counts as failing.\n\n",
        );
        let whole = Operation {
            name: WHOLE_TREE.into(),
            family: String::new(),
        };
        page.push_str(&format!(
            "| operation | {} |\n",
            columns.join(" | ").replace('-', " ")
        ));
        page.push_str(&format!("|---|{}\n", "---|".repeat(columns.len())));
        let mut family = "";
        for operation in operations.iter().chain([&whole]) {
            if operation.family != family {
                family = &operation.family;
                if !family.is_empty() {
                    page.push_str(&format!("| *{family}* |{}\n", " |".repeat(columns.len())));
                }
            }
            let cells: Vec<&str> = columns
                .iter()
                .map(|column| {
                    self.get(&operation.name, column)
                        .map_or("**no result**", |m| m.verdict.shown())
                })
                .collect();
            page.push_str(&format!("| {} | {} |\n", operation.name, cells.join(" | ")));
        }
        page.push_str("\n## Last runs\n\n| column | commits and dates of its cells |\n|---|---|\n");
        for column in &columns {
            let mut runs: BTreeMap<String, u64> = BTreeMap::new();
            for mark in self.cells.values().filter_map(|row| row.get(column)) {
                *runs.entry(format!("{} {}", mark.date, mark.commit)).or_default() += 1;
            }
            let runs: Vec<_> = runs
                .iter()
                .map(|(run, count)| format!("{run} ({count})"))
                .collect();
            page.push_str(&format!("| {column} | {} |\n", runs.join(", ")));
        }
        page.push_str("\n## Why\n\nWhat failing and unsupported cells said. Commit and date of every single cell are in `matrix.json`.\n\n");
        for operation in operations.iter().chain([&whole]) {
            for column in &columns {
                if let Some(mark) = self.get(&operation.name, column)
                    && (matches!(mark.verdict, Verdict::Failed | Verdict::Unsupported)
                        || operation.name == WHOLE_TREE && mark.verdict == Verdict::Converges)
                {
                    let detail = mark.detail.replace(['\n', '\r'], " ");
                    page.push_str(&format!(
                        "- {} on {column}: `{}`\n",
                        operation.name,
                        detail.replace('`', "'")
                    ));
                }
            }
        }
        page
    }

    fn get(&self, operation: &str, column: &str) -> Option<&Mark> {
        self.cells.get(operation)?.get(column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_without_a_result_is_shown_as_such() {
        let operations = operations("write pwrite\nwrite writev\n").unwrap();
        let mut table = Table::default();
        let marks = table.cells.entry("pwrite".into()).or_default();
        marks.insert("6.12-xfs".into(), Verdict::Converges.because("1".into()));
        let page = table.page(&operations);
        assert!(page.contains("| converges |"), "{page}");
        let row = page.lines().find(|line| line.starts_with("| writev ")).unwrap();
        assert_eq!(row.matches("no result").count(), 9);
        assert!(super::operations("nonsense").is_err());
    }
}
