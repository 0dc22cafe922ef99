//! What every command of xtask needs: narration, the cache directory, child processes, system packages.
//!
//! Owns no policy about what is built or tested. Downloads that come from Debian's archive are in `debian`, the
//! Rust tools for eBPF in `toolchain`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};

/// Age after which the package lists of the system count as old.
const PACKAGE_LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Tells the user, on stderr, what happens next.
pub(crate) fn say(text: &str) {
    eprintln!("[xtask] {text}");
}

/// The root of the work tree.
pub(crate) fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// `$XDG_CACHE_HOME/tapeworm`, created on first use: downloads, tools and guest images, shared by all clones.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let home = env::var_os("HOME")
                .filter(|v| !v.is_empty())
                .context("neither XDG_CACHE_HOME nor HOME is set")?;
            PathBuf::from(home).join(".cache")
        }
    };
    ensure!(
        base.is_absolute(),
        "cache directory {} is not absolute",
        base.display()
    );
    let dir = base.join("tapeworm");
    fs::create_dir_all(&dir).with_context(|| format!("create cache directory {}", dir.display()))?;
    Ok(dir)
}

/// A command line as a user would type it, for messages.
fn shown(cmd: &Command) -> String {
    let words = std::iter::once(cmd.get_program()).chain(cmd.get_args());
    words
        .map(|w| w.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command with our own stderr; its stdout goes to stderr too, which is where progress belongs.
///
/// # Errors
/// When it cannot be started, or ends with anything but success.
pub(crate) fn run(cmd: &mut Command) -> Result<()> {
    let status = cmd
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("start {}", shown(cmd)))?;
    ensure!(status.success(), "`{}` ended with {status}", shown(cmd));
    Ok(())
}

/// Runs a command and returns its stdout; stderr is part of the error when it fails.
///
/// # Errors
/// When it cannot be started, ends with anything but success, or prints something that is not UTF-8.
pub(crate) fn output(cmd: &mut Command) -> Result<String> {
    let out = cmd
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", shown(cmd)))?;
    ensure!(
        out.status.success(),
        "`{}` ended with {}: {}",
        shown(cmd),
        out.status,
        String::from_utf8_lossy(&out.stderr).trim()
    );
    String::from_utf8(out.stdout).with_context(|| format!("read output of {}", shown(cmd)))
}

/// Runs a command quietly: nothing is shown when it succeeds, all of its output when it fails.
///
/// # Errors
/// When it cannot be started, or ends with anything but success.
pub(crate) fn run_quiet(cmd: &mut Command) -> Result<()> {
    let out = cmd
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", shown(cmd)))?;
    if !out.status.success() {
        eprint!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        bail!("`{}` ended with {}", shown(cmd), out.status);
    }
    Ok(())
}

/// Installs those of the named system packages that are missing, and names them before it does.
///
/// # Errors
/// When the packages are missing and cannot be installed: no apt-get here, no rights, no such package.
pub(crate) fn ensure_packages(names: &[&str]) -> Result<()> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing system packages: {}", missing.join(" ")));
    if package_lists_old()? || apt_get(&["--simulate", "--quiet=2", "install"], &missing, true).is_err() {
        say("refreshing the package lists");
        apt_get(&["--quiet=2", "update"], &[], false)?;
        fs::write(lists_stamp()?, "").context("write time stamp of the package lists")?;
    }
    apt_get(
        &["--quiet=2", "--yes", "--no-install-recommends", "install"],
        &missing,
        false,
    )
    .with_context(|| format!("install packages {}", missing.join(" ")))
}

fn is_installed(name: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", name])
        .output();
    query.is_ok_and(|out| out.status.success() && out.stdout == b"installed")
}

fn lists_stamp() -> Result<PathBuf> {
    Ok(cache_dir()?.join("system-package-lists.stamp"))
}

fn package_lists_old() -> Result<bool> {
    let Ok(updated) = fs::metadata(lists_stamp()?).and_then(|m| m.modified()) else {
        return Ok(true);
    };
    Ok(SystemTime::now()
        .duration_since(updated)
        .is_ok_and(|age| age > PACKAGE_LISTS_AGE_MAX))
}

/// Runs apt-get, through sudo when we are not root.
fn apt_get(options: &[&str], packages: &[&str], quiet: bool) -> Result<()> {
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let mut cmd = if root {
        Command::new("env")
    } else {
        Command::new("sudo")
    };
    cmd.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
        .args(options)
        .args(packages);
    if quiet {
        cmd.stdout(Stdio::null()).stderr(Stdio::null());
        let status = cmd.status().with_context(|| format!("start {}", shown(&cmd)))?;
        ensure!(status.success(), "`{}` ended with {status}", shown(&cmd));
        return Ok(());
    }
    run(&mut cmd)
}

/// The commit that is tried now, with a mark when the work tree holds anything else (besides the results), and the date.
///
/// # Errors
/// When git or date cannot tell.
pub(crate) fn stamp(results: &[&str]) -> Result<(String, String)> {
    let root = workspace_root();
    let git = |args: &[String]| output(Command::new("git").current_dir(&root).args(args));
    let mut commit = git(&["rev-parse", "--short=10", "HEAD"].map(String::from))?
        .trim()
        .to_string();
    let mut changed = ["status", "--porcelain", "--", "."].map(String::from).to_vec();
    changed.extend(results.iter().map(|path| format!(":!{path}")));
    if !git(&changed)?.trim().is_empty() {
        commit.push('+');
    }
    let date = output(Command::new("date").args(["--utc", "+%Y-%m-%d"])).context("ask for the date")?;
    Ok((commit, date.trim().to_owned()))
}

/// Writes results for programs as JSON, and the page made from them; both by their paths in the workspace.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn keep_results(
    (json, results): (&str, &impl serde::Serialize),
    (page, text): (&str, &str),
) -> Result<()> {
    let root = workspace_root();
    let mut document = serde_json::to_string_pretty(results).with_context(|| format!("write {json}"))?;
    document.push('\n');
    fs::write(root.join(json), document).with_context(|| format!("write {json}"))?;
    fs::create_dir_all(root.join("docs")).context("create docs")?;
    fs::write(root.join(page), text).with_context(|| format!("write {page}"))
}
