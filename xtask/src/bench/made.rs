//! Made-up journals, and trees that are compared with what they should be.
//!
//! Owns how the programs `history`, `replayer` and `oracle` are started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::Setting;
use crate::setup;

/// What a made-up past is like; everything else is as the program `history` has it.
#[derive(Clone, Copy)]
pub(super) struct Past {
    pub(super) files: u64,
    pub(super) small_bytes_max: u64,
    pub(super) large_bytes: u64,
    pub(super) piece_bytes_max: u64,
    pub(super) overwrites: u64,
    /// `rounds` or `mixed`.
    pub(super) order: &'static str,
    pub(super) seed: u64,
}

/// A made-up journal.
#[derive(Deserialize)]
pub(super) struct Made {
    pub(super) records: u64,
    pub(super) written_bytes: u64,
    pub(super) journal_bytes: u64,
    pub(super) segments: u64,
    pub(super) zstd_bytes: u64,
    pub(super) entries: u64,
    pub(super) tree_bytes: u64,
}

impl Past {
    /// For a tree of small files of at most 16 KiB and large ones, written in records of at most 1 MiB.
    pub(super) fn of(files: u64, large_bytes: u64, overwrites: u64) -> Self {
        Self {
            files,
            small_bytes_max: 16 << 10,
            large_bytes,
            piece_bytes_max: 1 << 20,
            overwrites,
            order: "rounds",
            seed: 1,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let Self {
            files,
            small_bytes_max,
            large_bytes,
            piece_bytes_max,
            overwrites,
            order,
            seed,
        } = self;
        vec![
            format!("--files={files}"),
            format!("--small-bytes-max={small_bytes_max}"),
            format!("--large-bytes={large_bytes}"),
            format!("--piece-bytes-max={piece_bytes_max}"),
            format!("--overwrites={overwrites}"),
            format!("--order={order}"),
            format!("--seed={seed}"),
        ]
    }

    /// The command that makes it again.
    pub(super) fn command(&self) -> String {
        format!(
            "history --medium MEDIUM --tree TREE {}",
            self.arguments().join(" ")
        )
    }

    /// Makes the journal, and the tree where that is wanted; with `zstd` it says, too, what the data is compressed.
    pub(super) fn make(
        &self,
        bench: &Setting,
        medium: &Path,
        tree: Option<&Path>,
        zstd: bool,
    ) -> Result<Made> {
        fs::create_dir(medium).with_context(|| format!("create {}", medium.display()))?;
        let mut cmd = Command::new(bench.bin_dir.join("history"));
        cmd.arg("--medium").arg(medium).args(self.arguments());
        if let Some(tree) = tree {
            cmd.arg("--tree").arg(tree);
        }
        if zstd {
            cmd.arg("--zstd");
        }
        let said = setup::output(&mut cmd).context("make up a journal")?;
        serde_json::from_str(&said).with_context(|| format!("read what was made: {said}"))
    }
}

impl Made {
    /// For people.
    pub(super) fn text(&self) -> String {
        let mb = |bytes: u64| bytes / 1_000_000;
        format!(
            "{} records with {} MB of data in {} segments, {} MB on the medium; the tree at the end has {} names and {} MB",
            self.records,
            mb(self.written_bytes),
            self.segments,
            mb(self.journal_bytes),
            self.entries,
            mb(self.tree_bytes)
        )
    }
}

impl Setting {
    /// `replayer restore` of all of a journal.
    pub(super) fn restore(&self, medium: &Path, target: &Path) -> Command {
        let mut cmd = Command::new(self.bin_dir.join("replayer"));
        cmd.arg("restore")
            .arg("--medium")
            .arg(medium)
            .arg("--to")
            .arg(target);
        cmd
    }

    /// Writes down what a tree is; returns where.
    pub(super) fn digest(&self, tree: &Path) -> Result<PathBuf> {
        let out = tree.with_added_extension("digest");
        let mut cmd = Command::new(self.bin_dir.join("oracle"));
        setup::output(cmd.arg("digest").arg(tree).arg("--out").arg(&out))?;
        Ok(out)
    }

    /// Fails where a tree is not, in everything, the one that was written down.
    pub(super) fn compare(&self, tree: &Path, digest: &Path) -> Result<()> {
        let found = self.digest(tree)?;
        let mut cmd = Command::new(self.bin_dir.join("oracle"));
        setup::output(cmd.arg("compare").arg(digest).arg(&found))
            .with_context(|| format!("{} is not what it should be", tree.display()))?;
        Ok(())
    }

    /// Fails where a tree has not as many files and bytes as one that was written down.
    pub(super) fn compare_amounts(&self, tree: &Path, of: &Made) -> Result<()> {
        let count = |what: &[&str]| -> Result<u64> {
            let said = setup::output(Command::new("find").arg(tree).args(what))?;
            Ok(said.lines().filter_map(|line| line.parse::<u64>().ok()).sum())
        };
        let bytes = count(&["-type", "f", "-printf", "%s\n"])?;
        let names = count(&["-mindepth", "1", "-printf", "1\n"])?;
        ensure!(
            (bytes, names) == (of.tree_bytes, of.entries),
            "{} has {names} names and {bytes} bytes, not {} and {}",
            tree.display(),
            of.entries,
            of.tree_bytes
        );
        Ok(())
    }
}

/// Removes a tree, if it is there.
pub(super) fn remove(tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("remove {}", tree.display()))?;
    }
    Ok(())
}
