//! Packages of any Debian suite, whatever suite this machine runs, through a private apt state in the cache.
//!
//! Owns the private apt directories and the downloaded packages. Mirrors and proxies are those of the machine's own
//! apt configuration; everything is checked against the Debian keyring. Nothing is installed on this machine, and
//! the machine's own apt state is not touched; that is `setup::ensure_packages`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};

use crate::setup::{self, say};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Age after which the list of a suite's packages is fetched again, if anything has to be downloaded at all.
const LISTS_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Parts of the machine's apt configuration that say how to reach its mirrors.
const INHERITED: [&str; 8] = [
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::Force",
    "Acquire::Max-FutureTime",
    "Acquire::Min-ValidTime",
    "Dir::Bin::methods",
];

/// Downloads packages of a suite (`trixie`, `trixie-backports`, `sid`, `bookworm-security`, ...) into the cache.
///
/// A package may carry a version, as for apt-get: `linux-image-amd64` or `rust-src=1.95*`. Returns the `.deb` files
/// in the order asked for. What the cache already holds is not fetched again.
///
/// # Errors
/// No Debian mirror known to this machine, no such suite or package, or no network.
pub(crate) fn download(suite: &str, packages: &[&str]) -> Result<Vec<PathBuf>> {
    let apt = PrivateApt::open(suite)?;
    let _lock = apt.lock()?;
    apt.retry_with_fresh_lists(|apt| {
        packages
            .iter()
            .map(|package| {
                let files = apt.fetch(&["download", package])?;
                files
                    .into_iter()
                    .next()
                    .with_context(|| format!("apt names no file for package {package}"))
            })
            .collect()
    })
    .with_context(|| format!("download {} of Debian {suite}", packages.join(" ")))
}

/// Unpacks packages and all that they depend on into a directory, as if nothing were installed; without running their scripts.
///
/// # Errors
/// As for [`download`], and when `dir` cannot be written.
pub(crate) fn unpack_with_dependencies(suite: &str, packages: &[&str], dir: &Path) -> Result<()> {
    let apt = PrivateApt::open(suite)?;
    let _lock = apt.lock()?;
    let action: Vec<&str> = ["install"].iter().chain(packages).copied().collect();
    let debs = apt
        .retry_with_fresh_lists(|apt| apt.fetch(&action))
        .with_context(|| format!("download {} of Debian {suite}", packages.join(" ")))?;
    debs.iter().try_for_each(|deb| extract(deb, dir))
}

/// The newest version of a package in a suite, or `None` when the suite has no such package.
///
/// # Errors
/// As for [`download`].
pub(crate) fn candidate(suite: &str, package: &str) -> Result<Option<String>> {
    let apt = PrivateApt::open(suite)?;
    let _lock = apt.lock()?;
    apt.refresh(false)?;
    let text = setup::output(apt.command("apt-cache").args(["policy", package]))?;
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.filter(|v| *v != "(none)").map(str::to_owned))
}

/// The names of a suite's packages that begin with `prefix`, sorted.
///
/// # Errors
/// As for [`download`].
pub(crate) fn package_names(suite: &str, prefix: &str) -> Result<Vec<String>> {
    let apt = PrivateApt::open(suite)?;
    let _lock = apt.lock()?;
    apt.refresh(false)?;
    let text = setup::output(apt.command("apt-cache").args(["pkgnames", prefix]))?;
    let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// Downloads the upstream source of a package into the cache; returns the `.orig.tar.*` file.
///
/// # Errors
/// As for [`download`], and when the package has no upstream archive.
pub(crate) fn download_source(suite: &str, package: &str) -> Result<PathBuf> {
    let apt = PrivateApt::open_kind(suite, "deb-src")?;
    let _lock = apt.lock()?;
    let dir = setup::cache_dir()?.join("sources").join(package);
    if let Some(found) = orig_archive(&dir) {
        return Ok(found);
    }
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    apt.retry_with_fresh_lists(|apt| {
        say(&format!("downloading the source of {package} of Debian {suite}"));
        let scratch = tempfile::tempdir_in(&dir).context("create scratch directory")?;
        let mut cmd = apt.command("apt-get");
        cmd.args(["--quiet=2", "--download-only", "source", package]);
        setup::run_quiet(cmd.current_dir(scratch.path()))?;
        let orig =
            orig_archive(scratch.path()).with_context(|| format!("{package} has no upstream archive"))?;
        let to = dir.join(orig.file_name().context("name of the upstream archive")?);
        fs::rename(&orig, &to).with_context(|| format!("move source to {}", to.display()))?;
        Ok(to)
    })
    .with_context(|| format!("download the source of {package} of Debian {suite}"))
}

fn orig_archive(dir: &Path) -> Option<PathBuf> {
    let mut names = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    names.find(|path| {
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        name.contains(".orig.tar.") && !name.ends_with(".asc")
    })
}

/// Unpacks a package into a directory, without running its scripts.
///
/// # Errors
/// When `deb` is not a package, or `dir` cannot be written.
pub(crate) fn extract(deb: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    setup::run_quiet(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(dir))
}

/// The root of a Debian mirror that serves `suite`, as this machine's own apt configuration names it.
///
/// # Errors
/// When this machine's apt knows no Debian mirror.
pub(crate) fn mirror(suite: &str) -> Result<String> {
    let targets = setup::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
    ]))?;
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .unwrap_or("sid");
    let is_debian = release.lines().any(|l| l == "ID=debian");
    let found = if is_debian {
        pick_mirror(&targets, codename.trim_matches('"'), suite)
    } else {
        None
    };
    found.context("find a Debian mirror: this machine's apt configuration names none")
}

/// Chooses among `CREATED_BY|REPO_URI|RELEASE|COMPONENT` lines: security suites have mirrors of their own.
fn pick_mirror(targets: &str, codename: &str, suite: &str) -> Option<String> {
    let own: Vec<String> = if suite.ends_with("-security") {
        vec![
            format!("{codename}-security"),
            "stable-security".into(),
            "testing-security".into(),
        ]
    } else {
        [codename, "stable", "testing", "unstable", "sid"]
            .iter()
            .map(|s| (*s).to_owned())
            .collect()
    };
    targets.lines().find_map(|line| {
        let mut fields = line.split('|');
        let (created_by, uri, release, component) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        (created_by == "Packages" && component == "main" && own.iter().any(|o| o == release))
            .then(|| uri.to_owned())
    })
}

/// One suite's apt state: `<cache>/apt/<suite>/`, with packages in `<cache>/debs/`.
struct PrivateApt {
    suite: String,
    kind: &'static str,
    dir: PathBuf,
    debs: PathBuf,
}

impl PrivateApt {
    fn open(suite: &str) -> Result<Self> {
        Self::open_kind(suite, "deb")
    }

    /// `kind` is that of sources.list: `deb` for packages, `deb-src` for their sources, each with a state of its own.
    fn open_kind(suite: &str, kind: &'static str) -> Result<Self> {
        ensure!(
            !suite.is_empty() && suite.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'),
            "{suite:?} is not the name of a Debian suite"
        );
        let cache = setup::cache_dir()?;
        let apt = Self {
            suite: suite.to_owned(),
            kind,
            dir: cache.join("apt").join(if kind == "deb" {
                suite.to_owned()
            } else {
                format!("{suite}-{kind}")
            }),
            debs: cache.join("debs"),
        };
        for dir in [
            apt.dir.join("lists/partial"),
            apt.dir.join("archives/partial"),
            apt.debs.clone(),
        ] {
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        apt.write_config()?;
        Ok(apt)
    }

    /// Keeps two runs of xtask from using the same apt state at once.
    fn lock(&self) -> Result<fs::File> {
        let path = self.dir.join("lock");
        let file = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        file.lock().with_context(|| format!("lock {}", path.display()))?;
        Ok(file)
    }

    fn write_config(&self) -> Result<()> {
        let dir = self.dir.to_str().context("cache directory is not UTF-8")?;
        let mut text = setup::output(Command::new("apt-config").arg("dump"))?
            .lines()
            .filter(|line| INHERITED.iter().any(|prefix| line.starts_with(prefix)))
            .fold(String::new(), |text, line| text + line + "\n");
        // Neither hooks nor sources nor pins of the machine take part, and it looks as if nothing were installed.
        for (key, value) in [
            ("Dir::Etc::main", "/dev/null"),
            ("Dir::Etc::parts", "/dev/null"),
            ("Dir::Etc::sourcelist", &format!("{dir}/sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null"),
            ("Dir::Etc::preferences", "/dev/null"),
            ("Dir::Etc::preferencesparts", "/dev/null"),
            ("Dir::State", dir),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", &format!("{dir}/status")),
            ("Dir::Cache", dir),
            ("Dir::Cache::archives", "archives"),
            ("APT::Architecture", "amd64"),
            ("APT::Sandbox::User", "root"),
            ("APT::Install-Recommends", "false"),
            ("Acquire::Languages", "none"),
        ] {
            text += &format!("{key} \"{value}\";\n");
        }
        text += "APT::Architectures { \"amd64\"; };\n";
        write_if_changed(&self.dir.join("apt.conf"), &text)?;
        write_if_changed(&self.dir.join("status"), "")?;
        let source = format!(
            "{} [signed-by={KEYRING}] {} {} main\n",
            self.kind,
            mirror(&self.suite)?,
            self.suite
        );
        write_if_changed(&self.dir.join("sources.list"), &source)
    }

    fn command(&self, program: &str) -> Command {
        let mut cmd = Command::new(program);
        cmd.env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C.UTF-8");
        cmd
    }

    /// Fetches the suite's package lists when there are none, when they are old, or when told to.
    fn refresh(&self, always: bool) -> Result<()> {
        let stamp = self.dir.join("lists.stamp");
        let age = fs::metadata(&stamp)
            .and_then(|m| m.modified())
            .ok()
            .map(|at| SystemTime::now().duration_since(at));
        let fresh = matches!(age, Some(Ok(age)) if age < LISTS_AGE_MAX);
        if fresh && !always {
            return Ok(());
        }
        say(&format!("fetching the package lists of Debian {}", self.suite));
        // A plain update succeeds with a warning when a mirror does not answer; that would pin stale lists.
        setup::run_quiet(
            self.command("apt-get")
                .args(["--quiet=2", "--error-on=any", "update"]),
        )?;
        fs::write(&stamp, "").context("write time stamp of the package lists")
    }

    /// Old lists name versions that mirrors no longer have: one more try with new ones.
    fn retry_with_fresh_lists<T>(&self, attempt: impl Fn(&Self) -> Result<T>) -> Result<T> {
        let had_lists = self.dir.join("lists.stamp").exists();
        self.refresh(false)?;
        match attempt(self) {
            Err(_) if had_lists => {
                self.refresh(true)?;
                attempt(self)
            }
            outcome => outcome,
        }
    }

    /// Asks apt which files an action (`download NAME`) needs, and fetches the missing ones.
    fn fetch(&self, action: &[&str]) -> Result<Vec<PathBuf>> {
        let plan = setup::output(
            self.command("apt-get")
                .args(["--yes", "--print-uris", "--quiet=2"])
                .args(action),
        )?;
        let wanted: Vec<Wanted> = plan.lines().filter_map(parse_uri_line).collect();
        let missing: BTreeSet<String> = wanted
            .iter()
            .filter(|w| !w.is_at(&self.debs))
            .map(Wanted::request)
            .collect();
        if !missing.is_empty() {
            let bytes: u64 = wanted
                .iter()
                .filter(|w| !w.is_at(&self.debs))
                .map(|w| w.bytes)
                .sum();
            say(&format!(
                "downloading {} package(s) of Debian {}, {} MiB",
                missing.len(),
                self.suite,
                bytes.div_ceil(1 << 20)
            ));
            self.download_into_cache(&missing)?;
        }
        for file in &wanted {
            ensure!(
                file.is_at(&self.debs),
                "package {} did not arrive whole",
                file.name
            );
        }
        Ok(wanted.iter().map(|w| self.debs.join(&w.name)).collect())
    }

    /// apt checks hashes and signatures; the file gets its place in the cache only when that is done.
    fn download_into_cache(&self, requests: &BTreeSet<String>) -> Result<()> {
        let scratch = tempfile::tempdir_in(&self.dir).context("create scratch directory")?;
        let mut cmd = self.command("apt-get");
        setup::run_quiet(
            cmd.args(["--quiet=2", "download"])
                .args(requests)
                .current_dir(scratch.path()),
        )?;
        for entry in fs::read_dir(scratch.path()).context("list downloaded packages")? {
            let entry = entry.context("list downloaded packages")?;
            let to = self.debs.join(entry.file_name());
            fs::rename(entry.path(), &to).with_context(|| format!("move package to {}", to.display()))?;
        }
        Ok(())
    }
}

/// One file that apt would fetch.
#[derive(Debug, PartialEq)]
struct Wanted {
    /// `name_version_arch.deb`, a colon of the version written `%3a`.
    name: String,
    bytes: u64,
}

impl Wanted {
    fn is_at(&self, dir: &Path) -> bool {
        fs::metadata(dir.join(&self.name)).is_ok_and(|m| m.is_file() && m.len() == self.bytes)
    }

    /// The file as `apt-get download` wants it named: `name=version`.
    fn request(&self) -> String {
        let mut parts = self.name.splitn(3, '_');
        let (package, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        format!("{package}={}", version.replace("%3a", ":"))
    }
}

/// Reads a line of `apt-get --print-uris`: `'URI' file-name size hash`.
fn parse_uri_line(line: &str) -> Option<Wanted> {
    let mut words = line.strip_prefix('\'')?.split_once("' ")?.1.split(' ');
    let name = words
        .next()
        .filter(|n| n.ends_with(".deb") && !n.contains('/'))?
        .to_owned();
    Some(Wanted {
        name,
        bytes: words.next()?.parse().ok()?,
    })
}

/// Leaves an unchanged file alone, so that apt's own caches stay valid.
fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    // Another run may read it at this moment: it must never see half of it.
    let Some(dir) = path.parent() else {
        bail!("{} has no directory", path.display())
    };
    let mut file =
        tempfile::NamedTempFile::new_in(dir).with_context(|| format!("create file in {}", dir.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes())
        .with_context(|| format!("write {}", path.display()))?;
    file.persist(path)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "DEP-11|m:/first/|bookworm|main\nPackages|m:/debian/|bookworm|contrib\n\
        Packages|m:/debian/|bookworm|main\nPackages|m:/security/|bookworm-security|main\nPackages|m:/other/|nodistro|main\n";

    #[test]
    fn mirrors_come_from_the_machines_own_suite() {
        assert_eq!(
            pick_mirror(TARGETS, "bookworm", "trixie-backports").as_deref(),
            Some("m:/debian/")
        );
        assert_eq!(
            pick_mirror(TARGETS, "bookworm", "trixie-security").as_deref(),
            Some("m:/security/")
        );
        assert_eq!(pick_mirror(TARGETS, "noble", "trixie"), None);
    }

    #[test]
    fn uri_lines_give_file_and_size() {
        let line = "'m:/pool/main/r/rustc/rust-src_1%3a1.95_all.deb' rust-src_1%3a1.95_all.deb 123 SHA256:ab";
        let wanted = parse_uri_line(line).expect("a package");
        assert_eq!(
            wanted,
            Wanted {
                name: "rust-src_1%3a1.95_all.deb".into(),
                bytes: 123
            }
        );
        assert_eq!(wanted.request(), "rust-src=1:1.95");
        assert_eq!(parse_uri_line("Reading package lists..."), None);
    }
}
