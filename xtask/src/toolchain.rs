//! The tools that build the eBPF object: the sources of `core`, and a linker that speaks BPF.
//!
//! Both must match the Rust toolchain in use: `core` is compiled for the BPF target from its sources, and the linker
//! works on the compiler's bitcode, so it is built against the compiler's own LLVM. The linker is cached per
//! toolchain; `build` uses what this module provides.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::debian;
use crate::setup::{self, say};

/// The release of bpf-linker; its lock file is used as published.
const BPF_LINKER_VERSION: &str = "0.13.0";
/// Suites of Debian that may have the sources of a recent Rust release, tried in this order.
const RUST_SRC_SUITES: [&str; 3] = ["trixie-backports", "sid", "testing"];

/// A Rust toolchain that can build BPF objects.
pub(crate) struct Toolchain {
    /// The linker to pass to rustc.
    pub(crate) bpf_linker: PathBuf,
}

/// What rustc says about itself.
struct Rustc {
    sysroot: PathBuf,
    /// `1.95.0`
    release: String,
    /// First hexadecimal digits of the commit it was built from, or `unknown`.
    commit: String,
    /// `22`
    llvm_major: String,
}

impl Rustc {
    fn ask() -> Result<Self> {
        let sysroot = setup::output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let about = setup::output(Command::new("rustc").arg("-vV"))?;
        let field = |name: &str| {
            let value = about
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value
                .map(str::to_owned)
                .with_context(|| format!("find {name:?} in the output of rustc -vV"))
        };
        let llvm = field("LLVM version")?;
        Ok(Self {
            sysroot: PathBuf::from(sysroot.trim()),
            release: field("release")?,
            commit: field("commit-hash")?.chars().take(9).collect(),
            llvm_major: llvm.split('.').next().unwrap_or(&llvm).to_owned(),
        })
    }
}

/// Provides everything that building the eBPF object needs beyond the installed Rust; quick when it is there.
///
/// # Errors
/// When a tool is missing and can be neither fetched nor built.
pub(crate) fn ensure() -> Result<Toolchain> {
    let rustc = Rustc::ask()?;
    ensure_rust_src(&rustc).context("provide the sources of Rust's core library")?;
    let bpf_linker = ensure_bpf_linker(&rustc).context("provide bpf-linker")?;
    Ok(Toolchain { bpf_linker })
}

/// The cargo to start: the one that started us, if any.
pub(crate) fn cargo() -> Command {
    let mut cmd = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cmd.env_remove(name);
    }
    cmd
}

fn ensure_rust_src(rustc: &Rustc) -> Result<()> {
    let library = rustc.sysroot.join("lib/rustlib/src/rust/library");
    let present = || library.join("core/src/lib.rs").is_file() && library.join("Cargo.lock").is_file();
    if present() {
        return Ok(());
    }
    say(&format!(
        "adding the sources of Rust's core library ({}) to the toolchain",
        rustc.release
    ));
    let by_rustup = Command::new("rustup")
        .args(["component", "add", "rust-src"])
        .output();
    match by_rustup {
        Ok(out) if out.status.success() && present() => return Ok(()),
        Ok(out) => say(&format!(
            "rustup has no rust-src to offer ({}); taking Debian's",
            String::from_utf8_lossy(&out.stderr)
                .lines()
                .last()
                .unwrap_or("no reason given")
                .trim()
        )),
        Err(error) => say(&format!("no rustup here ({error}); taking Debian's rust-src")),
    }
    rust_src_from_debian(rustc, &library)?;
    ensure!(
        present(),
        "{} still lacks core/src/lib.rs or Cargo.lock",
        library.display()
    );
    Ok(())
}

/// Takes the library tree out of Debian's package of exactly this release.
fn rust_src_from_debian(rustc: &Rustc, library: &Path) -> Result<()> {
    let wanted = format!("{}+", rustc.release);
    let mut seen = Vec::new();
    for suite in RUST_SRC_SUITES {
        match debian::candidate(suite, "rust-src") {
            Ok(Some(version)) if version.starts_with(&wanted) => {
                let request = format!("rust-src={version}");
                let debs = debian::download(suite, &[&request])?;
                let deb = debs.first().context("download rust-src: no file")?;
                return place_library(deb, library);
            }
            Ok(version) => seen.push(format!("{suite} has {}", version.as_deref().unwrap_or("none"))),
            Err(error) => seen.push(format!("{suite}: {error:#}")),
        }
    }
    anyhow::bail!(
        "no Debian suite has rust-src {} either: {}; `rustup component add rust-src` must work, or another Rust be used",
        rustc.release,
        seen.join("; ")
    )
}

/// Unpacks next to the final place and renames, so that an interrupted run leaves no half tree behind.
fn place_library(deb: &Path, library: &Path) -> Result<()> {
    let parent = library.parent().context("library directory has no parent")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let scratch =
        tempfile::tempdir_in(parent).with_context(|| format!("create directory in {}", parent.display()))?;
    debian::extract(deb, scratch.path())?;
    let usr_src = scratch.path().join("usr/src");
    let tree = fs::read_dir(&usr_src)
        .with_context(|| format!("list {}", usr_src.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path().join("library")))
        .find(|path| path.join("core/src/lib.rs").is_file())
        .context("find library/core in Debian's rust-src")?;
    if library.exists() {
        fs::remove_dir_all(library).with_context(|| format!("remove incomplete {}", library.display()))?;
    }
    fs::rename(&tree, library).with_context(|| format!("move library tree to {}", library.display()))
}

fn ensure_bpf_linker(rustc: &Rustc) -> Result<PathBuf> {
    let key = format!("{BPF_LINKER_VERSION}-rust-{}-{}", rustc.release, rustc.commit);
    let root = setup::cache_dir()?.join("bpf-linker").join(key);
    let linker = root.join("bin/bpf-linker");
    let works = || {
        Command::new(&linker)
            .arg("--version")
            .output()
            .is_ok_and(|out| out.status.success())
    };
    if works() {
        return Ok(linker);
    }
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    let lock = fs::File::create(root.join("lock")).context("create lock of bpf-linker")?;
    lock.lock().context("lock bpf-linker")?;
    if works() {
        return Ok(linker);
    }
    say(&format!(
        "building bpf-linker {BPF_LINKER_VERSION} for Rust {}: once, a few minutes",
        rustc.release
    ));
    build_bpf_linker(rustc, &root)?;
    ensure!(works(), "the freshly built {} does not start", linker.display());
    Ok(linker)
}

fn build_bpf_linker(rustc: &Rustc, root: &Path) -> Result<()> {
    let libs = rustc.sysroot.join("lib");
    let llvm = find_libllvm(&libs)?;
    // The linker's build looks for `lib/libLLVM.so` below a prefix; the toolchain has it under another name.
    let prefix = tempfile::tempdir_in(root).context("create scratch directory")?;
    fs::create_dir(prefix.path().join("lib")).context("create scratch directory")?;
    symlink(&llvm, prefix.path().join("lib/libLLVM.so")).context("link libLLVM.so")?;
    // Started in the cache, where the project's own cargo configuration (static binaries) does not apply.
    setup::run_quiet(
        cargo()
            .current_dir(root)
            .env("LLVM_PREFIX", prefix.path())
            .env("CARGO_TARGET_DIR", prefix.path().join("target"))
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                format!("-Clink-arg=-Wl,-rpath,{}", libs.display()),
            )
            .args([
                "install",
                "bpf-linker",
                "--locked",
                "--force",
                "--version",
                BPF_LINKER_VERSION,
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{}", rustc.llvm_major),
                "--root",
            ])
            .arg(root),
    )
}

/// The shared object of LLVM that comes with the toolchain; a small file of that name is only a linker script.
fn find_libllvm(libs: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(libs).with_context(|| format!("list {}", libs.display()))?;
    entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("libLLVM"))
        })
        .find(|path| fs::metadata(path).is_ok_and(|m| m.len() > 1 << 20))
        .with_context(|| {
            format!(
                "find libLLVM in {} (a toolchain installed by rustup has it)",
                libs.display()
            )
        })
}
