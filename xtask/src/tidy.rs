//! `cargo xtask tidy`: the design's never-rules, checked from `cargo metadata` and by text.
//!
//! Owns the rules about who may know whom, and those about how a file must look that no lint can express. The checks
//! themselves are pure functions over text, so that a test can show each of them failing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::setup::{self, say};
use crate::{Outcome, toolchain};

/// What a crate must not reach, directly or through others; a name ending in `*` stands for all that begin so.
const NEVER: [(&str, &[&str]); 6] = [
    ("abi", &["*"]),
    (
        "journal",
        &["aya*", "tokio", "abi", "recorder", "replayer", "tests", "xtask"],
    ),
    ("replayer", &["aya*", "abi", "recorder", "tests", "xtask"]),
    ("recorder", &["replayer", "tests", "xtask"]),
    ("tests", &["xtask"]),
    ("xtask", &["abi", "journal", "recorder", "replayer", "tests"]),
];

/// Ways of changing files, which in `journal` and in the recorder's pipeline only the disk below them may use.
const FILE_CHANGES: [&str; 11] = [
    "File::create",
    "File::options",
    "OpenOptions",
    "fs::write",
    "fs::rename",
    "fs::remove",
    "fs::hard_link",
    "fs::set_permissions",
    "sync_all",
    "sync_data",
    "rustix::fs",
];

/// The one file that does it.
const DISK: &str = "journal/src/store/disk.rs";

/// How a format string or name of a segment ends.
const SEGMENT_NAME_END: &str = ".parquet\"";

pub(crate) fn run() -> Outcome {
    let findings = findings()?;
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        say("tidy: nothing to complain about");
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("tidy: {} finding(s)", findings.len()));
    Ok(ExitCode::FAILURE)
}

/// Every breach of the rules in the work tree, one line each.
///
/// # Errors
/// When cargo or git cannot say what is there, or a file cannot be read.
pub(crate) fn findings() -> Result<Vec<String>> {
    let root = setup::workspace_root();
    let metadata = setup::output(
        toolchain::cargo()
            .current_dir(&root)
            .args(["metadata", "--format-version=1"]),
    )?;
    let metadata = serde_json::from_str(&metadata).context("parse cargo metadata")?;
    let mut found = dependency_findings(&metadata)?;
    // Files not yet committed count too: the rules are to be kept before a commit, not after.
    let files = setup::output(Command::new("git").current_dir(&root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    for path in files.split('\0').filter(|path| !path.is_empty()) {
        let bytes = match fs::read(root.join(path)) {
            Ok(bytes) => bytes,
            // Listed by git and just being removed or moved.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("read {path}")),
        };
        if let Ok(text) = std::str::from_utf8(&bytes) {
            found.extend(text_findings(path, text));
        }
    }
    Ok(found)
}

/// Breaches of [`NEVER`] in the resolved dependency graph.
fn dependency_findings(metadata: &Value) -> Result<Vec<String>> {
    let list = |value: &Value, what: &str| -> Result<Vec<Value>> {
        value
            .as_array()
            .cloned()
            .with_context(|| format!("find {what} in cargo metadata"))
    };
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let packages = list(&metadata["packages"], "packages")?;
    let names: BTreeMap<String, String> = packages
        .iter()
        .map(|p| (text(p, "id"), text(p, "name")))
        .collect();
    let mut edges: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"], "resolve.nodes")? {
        let deps = list(&node["deps"], "deps of a node")?;
        edges.insert(
            text(&node, "id"),
            deps.iter().map(|dep| text(dep, "pkg")).collect(),
        );
    }
    let members = list(&metadata["workspace_members"], "workspace_members")?;
    let mut found = Vec::new();
    for member in members.iter().filter_map(Value::as_str) {
        let name = names
            .get(member)
            .with_context(|| format!("find workspace member {member}"))?;
        let Some((_, never)) = NEVER.iter().find(|(who, _)| who == name) else {
            found.push(format!(
                "{name}: a crate that no rule of the design knows (xtask/src/tidy.rs)"
            ));
            continue;
        };
        for (reached, through) in reachable(member, &edges, &names) {
            if never.iter().any(|pattern| is_like(&reached, pattern)) {
                found.push(format!("{name} must not know {reached} (through {through})"));
            }
        }
    }
    Ok(found)
}

/// The names of everything below `start`, each with the name of one package that depends on it.
fn reachable(
    start: &str,
    edges: &BTreeMap<String, Vec<String>>,
    names: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let name = |id: &str| names.get(id).cloned().unwrap_or_else(|| id.to_owned());
    let (mut seen, mut todo) = (BTreeSet::from([start.to_owned()]), vec![start.to_owned()]);
    let mut found = BTreeMap::new();
    while let Some(id) = todo.pop() {
        for to in edges.get(&id).into_iter().flatten() {
            if seen.insert(to.clone()) {
                found.insert(name(to), name(&id));
                todo.push(to.clone());
            }
        }
    }
    found
}

fn is_like(name: &str, pattern: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(name == pattern, |prefix| name.starts_with(prefix))
}

/// Breaches of the rules for one file, whose path is relative to the root.
fn text_findings(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if path.ends_with(".rs") {
        if !text.starts_with("//!") {
            found.push(format!(
                "{path}:1: does not open with //! (what it owns, what it does not)"
            ));
        }
        found.extend(bare_allows(path, text));
        found.extend(journal_file_changes(path, text));
    }
    // A lock file names where its packages come from; that is its purpose.
    if !path.ends_with("Cargo.lock") {
        found.extend(registry_hosts(path, text));
    }
    found
}

/// Lines of a text that contain one of the words, as `(line number, word)`.
fn lines_with<'w>(text: &str, words: &[&'w str]) -> Vec<(usize, &'w str)> {
    let numbered = text.lines().zip(1..);
    numbered
        .flat_map(|(line, at)| {
            words
                .iter()
                .filter(move |w| line.contains(**w))
                .map(move |w| (at, *w))
        })
        .collect()
}

fn bare_allows(path: &str, text: &str) -> Vec<String> {
    // In two parts, so that this file does not find itself.
    let words = [["#[", "allow("].concat(), ["#![", "allow("].concat()];
    lines_with(text, &[&words[0], &words[1]])
        .into_iter()
        .map(|(at, _)| format!("{path}:{at}: a bare allow; write expect(.., reason = \"..\")"))
        .collect()
}

/// Only the store module creates, syncs or renames journal files, and that through its disk, so that a test can make every such operation
/// fail; so do spool and pipeline. Elsewhere in `journal` nothing changes files, and the programs, which have files of their own, do not
/// spell out the name of a segment.
fn journal_file_changes(path: &str, text: &str) -> Vec<String> {
    let code = code_only(text);
    let durable = [
        "journal/src/store/",
        "recorder/src/spool",
        "recorder/src/pipeline/",
    ];
    let (words, complaint) = if path == DISK || path.contains("/tests") {
        return Vec::new();
    } else if durable.iter().any(|below| path.starts_with(below)) {
        (
            FILE_CHANGES.to_vec(),
            "durable files are changed through a Disk only",
        )
    } else if path.starts_with("journal/src/") {
        (
            FILE_CHANGES.to_vec(),
            "only journal's store module changes journal files",
        )
    } else if path.starts_with("recorder/src/") || path.starts_with("replayer/src/") {
        (
            vec![SEGMENT_NAME_END],
            "only journal knows how its files are named",
        )
    } else {
        return Vec::new();
    };
    let found = lines_with(&code, &words).into_iter();
    found
        .map(|(at, word)| format!("{path}:{at}: {word}: {complaint}"))
        .collect()
}

/// The text without comments and without the unit tests at its end; line numbers stay.
fn code_only(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = code.lines().map(|line| {
        if line.trim_start().starts_with("//") {
            ""
        } else {
            line
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Packages come through the machine's own configuration; a host name here would bypass a mirror.
fn registry_hosts(path: &str, text: &str) -> Vec<String> {
    // In two parts, so that this file does not find itself.
    let hosts = [
        ("crates.", "io"),
        ("static.rust-lang.", "org"),
        ("deb.debian.", "org"),
        ("ftp.debian.", "org"),
        ("security.debian.", "org"),
        ("snapshot.debian.", "org"),
        ("pypi.", "org"),
        ("npmjs.", "org"),
        ("proxy.golang.", "org"),
    ];
    let hosts: Vec<String> = hosts.iter().map(|(a, b)| [*a, *b].concat()).collect();
    let words: Vec<&str> = hosts.iter().map(String::as_str).collect();
    lines_with(text, &words)
        .into_iter()
        .map(|(at, host)| format!("{path}:{at}: names the host {host}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(edges: &[(&str, &str)]) -> Value {
        let ids: BTreeSet<&str> = edges.iter().flat_map(|(a, b)| [*a, *b]).collect();
        let packages: Vec<Value> = ids
            .iter()
            .map(|id| serde_json::json!({"id": id, "name": id}))
            .collect();
        let nodes: Vec<Value> = ids
            .iter()
            .map(|id| {
                let deps = edges
                    .iter()
                    .filter(|(a, _)| a == id)
                    .map(|(_, b)| serde_json::json!({"pkg": b}));
                serde_json::json!({"id": id, "deps": deps.collect::<Vec<_>>()})
            })
            .collect();
        let members: Vec<&&str> = ids
            .iter()
            .filter(|id| NEVER.iter().any(|(who, _)| who == *id))
            .collect();
        serde_json::json!({"packages": packages, "resolve": {"nodes": nodes}, "workspace_members": members})
    }

    #[test]
    fn allowed_arrows_pass() {
        let graph = metadata(&[
            ("recorder", "abi"),
            ("recorder", "journal"),
            ("recorder", "aya"),
            ("replayer", "journal"),
            ("journal", "parquet"),
            ("xtask", "clap"),
            ("tests", "journal"),
        ]);
        assert_eq!(
            dependency_findings(&graph).expect("findings"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn forbidden_arrows_are_found_also_through_others() {
        for (from, to) in [
            ("journal", "tokio"),
            ("journal", "abi"),
            ("replayer", "aya-obj"),
            ("replayer", "recorder"),
            ("recorder", "replayer"),
            ("xtask", "journal"),
            ("abi", "libc"),
        ] {
            let direct = dependency_findings(&metadata(&[(from, to)])).expect("findings");
            assert!(
                direct
                    .iter()
                    .any(|f| f.starts_with(&format!("{from} must not know {to}"))),
                "{from} -> {to}"
            );
            let indirect =
                dependency_findings(&metadata(&[(from, "between"), ("between", to)])).expect("findings");
            let wanted = format!("{from} must not know {to} (through between)");
            assert!(indirect.contains(&wanted), "{from} -> between -> {to}");
        }
    }

    #[test]
    fn an_unknown_crate_of_ours_is_found() {
        let mut graph = metadata(&[("journal", "utils")]);
        graph["workspace_members"] = serde_json::json!(["journal", "utils"]);
        let found = dependency_findings(&graph).expect("findings");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("utils: "), "{found:?}");
    }

    #[test]
    fn a_module_without_a_head_is_found() {
        assert_eq!(
            text_findings("journal/src/a.rs", "//! Owns a.\n"),
            Vec::<String>::new()
        );
        assert_eq!(text_findings("journal/src/a.rs", "// no\n").len(), 1);
        assert_eq!(text_findings("journal/src/a.rs", "").len(), 1);
        assert_eq!(text_findings("run.sh", "#!/bin/sh\n"), Vec::<String>::new());
    }

    #[test]
    fn a_bare_allow_is_found() {
        let text = ["//! Owns a.\n#[", "allow(dead_code)]\nfn f() {}\n"].concat();
        let found = text_findings("recorder/src/a.rs", &text);
        assert!(
            found.len() == 1 && found[0].starts_with("recorder/src/a.rs:2:"),
            "{found:?}"
        );
        let expected = "//! Owns a.\n#[expect(dead_code, reason = \"soon\")]\nfn f() {}\n";
        assert_eq!(text_findings("recorder/src/a.rs", expected), Vec::<String>::new());
    }

    #[test]
    fn journal_files_changed_outside_the_store_are_found() {
        for word in FILE_CHANGES {
            let text = format!("//! Owns a.\nfn f() {{ {word} }}\n");
            for path in [
                "journal/src/fold.rs",
                "journal/src/store/dir.rs",
                "recorder/src/spool/mod.rs",
                "recorder/src/pipeline/ledger.rs",
            ] {
                assert_eq!(text_findings(path, &text).len(), 1, "{path}: {word}");
            }
            // The restored tree is no journal file, and locks and sockets need not last.
            for path in [
                DISK,
                "recorder/src/spool/tests.rs",
                "recorder/src/control.rs",
                "replayer/src/restore.rs",
            ] {
                assert_eq!(text_findings(path, &text), Vec::<String>::new(), "{path}: {word}");
            }
        }
        let named = "//! Owns a.\nlet name = format!(\"{seq}.parquet\");\n";
        assert_eq!(text_findings("recorder/src/encode.rs", named).len(), 1);
        assert_eq!(
            text_findings("journal/src/manifest.rs", named),
            Vec::<String>::new()
        );
    }

    #[test]
    fn comments_and_unit_tests_may_mention_files() {
        let text = "//! Owns a.\n// File::create is the store's\n#[cfg(test)]\nmod tests { fn f() { File::create } }\n";
        assert_eq!(text_findings("journal/src/fold.rs", text), Vec::<String>::new());
    }

    #[test]
    fn a_registry_host_is_found_but_not_in_a_lock_file() {
        let text = ["see https://crates.", "io/x\n"].concat();
        assert_eq!(text_findings("README.md", &text).len(), 1);
        assert_eq!(text_findings("ebpf/Cargo.lock", &text), Vec::<String>::new());
    }
}
