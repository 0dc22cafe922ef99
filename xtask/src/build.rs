//! `cargo xtask build`: the eBPF object, then the static binaries.
//!
//! Owns where artefacts lie. Other commands ask here for what they need instead of guessing paths.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::Outcome;
use crate::setup::{self, say};
use crate::toolchain;

/// The target of every binary; `.cargo/config.toml` makes them static.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// All packages with programs. Whatever is built of them, all are named: what features dependencies are compiled with follows from all that is named, and
/// each other choice would compile some anew. Those of tests are the same (`one_set_of_features_serves_all`).
const TOGETHER: [&str; 6] = [
    "--package",
    "recorder",
    "--package",
    "replayer",
    "--package",
    "tests",
];
const BPF_TARGET: &str = "bpfel-unknown-none";

/// What to build.
#[derive(Args)]
pub(crate) struct BuildArgs {
    /// Build for deployment: optimised, slower to build
    #[arg(long)]
    release: bool,
    /// Build only the eBPF object
    #[arg(long)]
    ebpf_only: bool,
}

/// How binaries are compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// With checks, for tests, virtual machines and the demo.
    Dev,
    /// Optimised, for deployment.
    Release,
}

/// Where everything that was built lies.
pub(crate) struct Artefacts {
    /// The eBPF object that the recorder carries inside.
    pub(crate) bpf_object: PathBuf,
    /// The directory of the static binaries: `recorder`, `replayer`, and those of `tests`.
    pub(crate) bin_dir: PathBuf,
}

pub(crate) fn run(args: BuildArgs) -> Outcome {
    let BuildArgs { release, ebpf_only } = args;
    if ebpf_only {
        println!("{}", build_ebpf()?.display());
        return Ok(ExitCode::SUCCESS);
    }
    let profile = if release { Profile::Release } else { Profile::Dev };
    let Artefacts { bpf_object, bin_dir } = build_all(profile)?;
    println!("{}", bpf_object.display());
    for name in binaries(&bin_dir)? {
        println!("{}", bin_dir.join(name).display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds everything that tests, virtual machines and deployment use; quick when nothing changed.
///
/// # Errors
/// When a tool is missing and cannot be provided, or something does not compile.
pub(crate) fn build_all(profile: Profile) -> Result<Artefacts> {
    let bpf_object = build_ebpf()?;
    say("building recorder, replayer and the test programs");
    let mut cmd = toolchain::cargo();
    cmd.current_dir(setup::workspace_root())
        .args(["build", "--quiet", "--target", TARGET, "--bins"])
        .args(TOGETHER);
    if profile == Profile::Release {
        cmd.arg("--release");
    }
    setup::run(&mut cmd).context("build the binaries")?;
    Ok(Artefacts {
        bpf_object,
        bin_dir: bin_dir(profile),
    })
}

/// Builds one program of the tests.
///
/// # Errors
/// When it does not compile.
pub(crate) fn build_test_program(name: &str) -> Result<()> {
    let mut cmd = toolchain::cargo();
    cmd.current_dir(setup::workspace_root())
        .args(["build", "--quiet", "--target", TARGET, "--bin", name])
        .args(TOGETHER);
    setup::run(&mut cmd).with_context(|| format!("build {name}"))
}

/// Builds the programs that need no eBPF object: the replayer and those of the tests. Returns the directory that they lie in.
///
/// # Errors
/// When something does not compile.
pub(crate) fn build_without_recorder(profile: Profile) -> Result<PathBuf> {
    say("building replayer and the test programs");
    let mut cmd = toolchain::cargo();
    cmd.current_dir(setup::workspace_root())
        .args(["build", "--quiet", "--target", TARGET])
        .args(["--package", "replayer", "--package", "tests", "--bins"]);
    if profile == Profile::Release {
        cmd.arg("--release");
    }
    setup::run(&mut cmd).context("build the binaries")?;
    Ok(bin_dir(profile))
}

/// Where the binaries of a profile lie.
pub(crate) fn bin_dir(profile: Profile) -> PathBuf {
    let dir = if profile == Profile::Release {
        "release"
    } else {
        "debug"
    };
    target_dir().join(TARGET).join(dir)
}

/// Everything that is built.
pub(crate) fn target_dir() -> PathBuf {
    setup::workspace_root().join("target")
}

/// Where the recorder's build script looks for the eBPF object.
fn bpf_object_path() -> PathBuf {
    target_dir().join("bpf/tapeworm.bpf.o")
}

/// Compiles the eBPF programs; the object's time stamp changes only when its content does.
///
/// # Errors
/// As for [`build_all`].
pub(crate) fn build_ebpf() -> Result<PathBuf> {
    say("building the eBPF object");
    let mut cmd = ebpf_cargo("build")?;
    let out = cmd
        .args(["--release", "--message-format=json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo for the eBPF programs")?;
    ensure!(
        out.status.success(),
        "building the eBPF programs ended with {}",
        out.status
    );
    let messages = String::from_utf8(out.stdout).context("read cargo's messages")?;
    let built =
        executable(&messages).context("find the eBPF object in cargo's messages: ebpf/ has no binary")?;
    let object = bpf_object_path();
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    if fs::read(&object).ok().as_ref() != Some(&bytes) {
        fs::write(&object, &bytes).with_context(|| format!("write {}", object.display()))?;
    }
    Ok(object)
}

/// Lints the eBPF programs as they are built.
///
/// # Errors
/// When clippy finds something, or as for [`build_all`].
pub(crate) fn clippy_ebpf() -> Result<()> {
    let mut cmd = ebpf_cargo("clippy")?;
    setup::run(cmd.args(["--release", "--quiet", "--", "-D", "warnings"]))
}

/// `cargo SUBCOMMAND` for the eBPF workspace. `core` is built from source: the target comes without one, and building
/// it is a feature that stable compilers offer only when told so by `RUSTC_BOOTSTRAP`.
fn ebpf_cargo(subcommand: &str) -> Result<Command> {
    let tools = toolchain::ensure()?;
    let flags = [
        format!("-Clinker={}", tools.bpf_linker.display()),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        "-Cpanic=abort".to_owned(),
    ];
    let mut cmd = toolchain::cargo();
    cmd.current_dir(setup::workspace_root().join("ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("RUSTC_BOOTSTRAP", "1")
        .args([
            subcommand,
            "-Zbuild-std=core",
            "--manifest-path",
            "Cargo.toml",
            "--target",
            BPF_TARGET,
            "--target-dir",
        ])
        .arg(target_dir().join("bpf"));
    Ok(cmd)
}

/// The last executable that cargo's JSON messages name.
fn executable(messages: &str) -> Option<PathBuf> {
    let parsed = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    parsed
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .next_back()
}

/// The programs in a directory of artefacts, by name.
fn binaries(dir: &Path) -> Result<Vec<String>> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        let about = entry
            .metadata()
            .with_context(|| format!("look at {}", entry.path().display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if about.is_file()
            && about.permissions().mode() & 0o111 != 0
            && !name.contains('.')
            && name != "xtask"
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn executable_is_taken_from_artifact_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\nnoise\n\
            {\"reason\":\"compiler-artifact\",\"executable\":\"/t/bpf/ebpf\"}\n{\"reason\":\"build-finished\"}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/t/bpf/ebpf")));
        assert_eq!(executable("{\"reason\":\"build-finished\"}\n"), None);
    }

    /// Each package with the features that it is compiled with.
    fn packages(options: &[&str]) -> BTreeSet<String> {
        let mut cmd = toolchain::cargo();
        cmd.current_dir(setup::workspace_root())
            .args(["tree", "--quiet", "--target", TARGET])
            .args(["--prefix", "none", "--format", "{p} {f}"]);
        let tree = setup::output(cmd.args(options)).unwrap();
        tree.lines()
            .map(|line| line.trim_end_matches(" (*)").to_owned())
            .collect()
    }

    /// Else parquet is compiled for the tests, and then once more for the programs.
    #[test]
    fn one_set_of_features_serves_all() {
        let tests = packages(&["--workspace", "--edges", "normal,build,dev"]);
        let programs = packages(&[&TOGETHER[..], &["--edges", "normal,build"]].concat());
        let others: Vec<_> = programs.difference(&tests).collect();
        assert!(!programs.is_empty());
        assert!(
            others.is_empty(),
            "these have fewer features in programs than in tests; name the rest in journal/Cargo.toml: {others:?}"
        );
    }
}
