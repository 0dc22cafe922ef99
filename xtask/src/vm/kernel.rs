//! The kernels that the VMs boot: Debian's own, and one built from its sources, laid out once in the cache.
//!
//! Owns which kernels there are, which of their modules the guest gets, and the order in which those needed for the
//! start are loaded. Fetching packages is the business of `debian`, building a kernel that of `lockdep`.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use super::cpio::Archive;
use super::{lockdep, root};
use crate::{debian, setup};

/// Raised when what lies in the cache changes its form.
const CACHE_VERSION: u32 = 3;

/// Modules that the guest needs before it has a root: disks, ports, the root's file system.
const MODULES_AT_START: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "crc32c_generic",
    "crc32c_intel",
    "crc32c",
    "ext4",
    "xhci_pci",
    "xhci_hcd",
    "usb_storage",
    "uas",
    "sd_mod",
];

/// Modules that jobs may ask for (`modprobe`, `mount`).
const MODULES_ON_REQUEST: &[&str] = &[
    "xfs",
    "btrfs",
    "f2fs",
    "nilfs2",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "nls_utf8",
    "isofs",
    "udf",
    "overlay",
    "fuse",
    "virtiofs",
    "9p",
    "9pnet_virtio",
    "nfs",
    "nfsv3",
    "nfsv4",
    "nfsd",
    "loop",
    "brd",
    "null_blk",
    "dm_mod",
    "dm_log_writes",
    "dm_flakey",
    "dm_snapshot",
    "dm_delay",
    "dm_crypt",
    "virtio_scsi",
    "virtio_net",
    "scsi_debug",
    "st",
    "sg",
    "sr_mod",
    "cdrom",
    "ehci_pci",
    "aes_generic",
    "aesni_intel",
    "sha256_generic",
    "xxhash_generic",
    "blake2b_generic",
    "binfmt_misc",
    "configfs",
    "autofs4",
    "efivarfs",
    "ip_tables",
    "nf_tables",
    "af_packet",
    "tun",
    "dummy",
    "quota_v2",
    "mbcache",
];

/// A line of kernels that tapeworm is tried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum KernelLine {
    /// Debian 12 (bookworm)
    #[value(name = "6.1")]
    K6_1,
    /// Debian 13 (trixie)
    #[value(name = "6.12")]
    K6_12,
    /// Debian 13 backports
    #[value(name = "7.3")]
    K7_3,
    /// Debian 13's sources, built to watch their own locking: slow, and only where it is asked for
    #[value(name = "6.12-lockdep")]
    K6_12Lockdep,
}

impl fmt::Display for KernelLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl KernelLine {
    /// Those that Debian ships, which is what everything is tried on. One that watches itself is none of them: it takes a build, and
    /// several times as long.
    pub(crate) const SHIPPED: &[Self] = &[Self::K6_1, Self::K6_12, Self::K7_3];

    /// As the user writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::K6_1 => "6.1",
            Self::K6_12 => "6.12",
            Self::K7_3 => "7.3",
            Self::K6_12Lockdep => "6.12-lockdep",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::K6_1 => "bookworm",
            Self::K6_12 | Self::K6_12Lockdep => "trixie",
            Self::K7_3 => "trixie-backports",
        }
    }

    /// Name of its directory in the cache: one that is built is another one with another configuration.
    fn cache_name(self) -> String {
        match self {
            Self::K6_12Lockdep => {
                let config = root::fnv(lockdep::CONFIG.as_bytes());
                format!("{self}-v{CACHE_VERSION}-{config:016x}")
            }
            Self::K6_1 | Self::K6_12 | Self::K7_3 => format!("{self}-v{CACHE_VERSION}"),
        }
    }
}

/// A kernel ready to boot.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The compressed image.
    pub(crate) image: PathBuf,
    /// cpio archive: modules, `modules.load` with those to load at start.
    pub(crate) modules: PathBuf,
    /// Full version, as `uname -r` prints it.
    pub(crate) release: String,
}

/// A kernel as it was unpacked or built, with all its modules.
pub(super) struct Parts {
    /// The compressed image.
    pub(super) image: PathBuf,
    /// The directory `RELEASE` of modules, with their index files.
    pub(super) modules: PathBuf,
    /// Full version, as `uname -r` prints it.
    pub(super) release: String,
}

/// Returns the kernel from the cache; fetches and unpacks it first when it is not there, or builds it.
///
/// # Errors
/// When Debian's archive cannot be reached, the package is not of the expected form, or the build fails.
pub(crate) fn ensure_kernel(line: KernelLine) -> Result<Kernel> {
    let kernels = setup::cache_dir()?.join("kernels");
    let dir = kernels.join(line.cache_name());
    if !dir.join("release").exists() {
        fs::create_dir_all(&kernels).context("create kernel cache")?;
        // Runs side by side need it at the same time: one of them makes it.
        let lock = File::create(kernels.join(format!("{line}.lock"))).context("create lock of a kernel")?;
        lock.lock().context("lock a kernel")?;
        if !dir.join("release").exists() {
            let work = tempfile::tempdir_in(&kernels).context("create kernel work directory")?;
            prepare(line, work.path()).with_context(|| format!("prepare kernel {line}"))?;
            fs::rename(work.path().join("out"), &dir).context("move kernel into the cache")?;
        }
    }
    let release = fs::read_to_string(dir.join("release")).context("read kernel release")?;
    Ok(Kernel {
        image: dir.join("vmlinuz"),
        modules: dir.join("modules.cpio"),
        release,
    })
}

fn prepare(line: KernelLine, work: &Path) -> Result<()> {
    setup::say(&format!("fetching Debian's kernel {line} ({})", line.suite()));
    setup::ensure_packages(&["kmod", "xz-utils", "zstd"])?;
    let Parts {
        image,
        modules,
        release,
    } = match line {
        KernelLine::K6_12Lockdep => lockdep::build(line.suite(), work)?,
        KernelLine::K6_1 | KernelLine::K6_12 | KernelLine::K7_3 => unpack(line, &work.join("unpacked"))?,
    };
    let out = work.join("out");
    fs::create_dir_all(&out).context("create output directory")?;
    fs::copy(image, out.join("vmlinuz")).context("copy kernel image")?;
    let picked = pick_modules(&modules, &release, work)?;
    write_modules(&picked, &release, &out.join("modules.cpio"))?;
    fs::write(out.join("release"), &release).context("write kernel release")
}

/// Fetches and unpacks the packages of a kernel that Debian ships.
fn unpack(line: KernelLine, unpacked: &Path) -> Result<Parts> {
    let package = newest_package(line)?;
    let release = package
        .strip_prefix("linux-image-")
        .context("name of the kernel package")?
        .to_string();
    let image = debian::download(line.suite(), &[&package])?
        .pop()
        .context("no kernel package")?;
    // Newer kernels are split: the image package then only names those with the files.
    let needs = setup::output(Command::new("dpkg-deb").arg("--field").arg(&image).arg("Depends"))?;
    let parts: Vec<String> = ["binary", "modules", "base"]
        .iter()
        .map(|part| format!("linux-{part}-{release}"))
        .collect();
    let parts: Vec<&str> = parts
        .iter()
        .map(String::as_str)
        .filter(|p| needs.split([',', '|', ' ']).any(|word| word == *p))
        .collect();
    for deb in debian::download(line.suite(), &parts)?.iter().chain([&image]) {
        debian::extract(deb, unpacked)?;
    }
    let usr = unpacked.join("usr/lib/modules").join(&release);
    let modules = if usr.is_dir() {
        usr
    } else {
        unpacked.join("lib/modules").join(&release)
    };
    ensure!(modules.is_dir(), "package {package} has no modules directory");
    let images = [
        unpacked.join(format!("boot/vmlinuz-{release}")),
        modules.join("vmlinuz"),
    ];
    let image = images
        .into_iter()
        .find(|path| path.is_file())
        .context("the kernel package holds no kernel image")?;
    Ok(Parts {
        image,
        modules,
        release,
    })
}

/// The image package with the highest version within the line, in its ordinary flavour.
fn newest_package(line: KernelLine) -> Result<String> {
    let prefix = format!("linux-image-{line}.");
    let mut found: Vec<(Vec<u64>, String)> = Vec::new();
    for name in debian::package_names(line.suite(), &prefix)? {
        let Some(version) = name
            .strip_prefix("linux-image-")
            .and_then(|n| n.strip_suffix("-amd64"))
        else {
            continue;
        };
        if ["-cloud", "-rt", "-unsigned"]
            .iter()
            .all(|flavour| !version.ends_with(flavour))
        {
            let numbers = version
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|n| n.parse().ok())
                .collect();
            found.push((numbers, name));
        }
    }
    found.sort();
    let (_, name) = found
        .pop()
        .with_context(|| format!("Debian {} has no kernel {line}", line.suite()))?;
    Ok(name)
}

/// Decompressed modules with their index files, and what to load at start.
struct Picked {
    /// `lib/modules/RELEASE` with everything that goes to the guest.
    dir: PathBuf,
    /// Paths inside the guest.
    load: Vec<String>,
}

/// Copies the wanted modules and what they depend on, decompressed, and indexes them.
fn pick_modules(all: &Path, release: &str, work: &Path) -> Result<Picked> {
    let whole = work.join("whole/lib/modules").join(release);
    fs::create_dir_all(work.join("whole/lib/modules")).context("create directory")?;
    fs::rename(all, &whole).context("move modules")?;
    depmod(&work.join("whole"), release)?;
    let index = Index::read(&whole)?;
    let dir = work.join("some/lib/modules").join(release);
    let mut wanted = BTreeSet::new();
    for name in MODULES_AT_START.iter().chain(MODULES_ON_REQUEST) {
        wanted.extend(index.with_dependencies(name));
    }
    for path in &wanted {
        let to = dir.join(path);
        fs::create_dir_all(to.parent().context("module path")?).context("create module directory")?;
        fs::copy(whole.join(path), &to).with_context(|| format!("copy module {path}"))?;
        match to.extension().and_then(|e| e.to_str()) {
            Some("xz") => setup::run_quiet(Command::new("xz").arg("--decompress").arg(&to))?,
            Some("zst") => setup::run_quiet(
                Command::new("zstd")
                    .args(["--decompress", "--rm", "--quiet"])
                    .arg(&to),
            )?,
            _ => {}
        }
    }
    for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(whole.join(name), dir.join(name)).with_context(|| format!("copy {name}"))?;
    }
    depmod(&work.join("some"), release)?;
    let index = Index::read(&dir)?;
    let mut load: Vec<String> = Vec::new();
    for name in MODULES_AT_START {
        for path in index.with_dependencies(name) {
            let path = format!("/lib/modules/{release}/{path}");
            if !load.contains(&path) {
                load.push(path);
            }
        }
    }
    Ok(Picked { dir, load })
}

fn depmod(base: &Path, release: &str) -> Result<()> {
    // Not in every user's PATH.
    let program = ["/usr/sbin/depmod", "/sbin/depmod"]
        .into_iter()
        .find(|p| Path::new(p).exists())
        .unwrap_or("depmod");
    setup::run_quiet(Command::new(program).arg("--basedir").arg(base).arg(release))
}

/// `modules.dep`, by module name.
struct Index {
    by_name: HashMap<String, Vec<String>>,
}

impl Index {
    fn read(dir: &Path) -> Result<Self> {
        let text = fs::read_to_string(dir.join("modules.dep")).context("read modules.dep")?;
        let mut by_name = HashMap::new();
        for line in text.lines() {
            let (path, needs) = line.split_once(':').context("line of modules.dep")?;
            // Last in the line is needed first.
            let mut paths: Vec<String> = needs.split_whitespace().rev().map(str::to_string).collect();
            paths.push(path.to_string());
            by_name.insert(module_name(path), paths);
        }
        Ok(Self { by_name })
    }

    /// Paths in the order in which to load them; empty for a module that is built in or unknown to this kernel.
    fn with_dependencies(&self, name: &str) -> Vec<String> {
        self.by_name.get(name).cloned().unwrap_or_default()
    }
}

/// `kernel/drivers/usb/storage/usb-storage.ko.xz` is the module `usb_storage`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn write_modules(picked: &Picked, release: &str, to: &Path) -> Result<()> {
    let file = File::create(to).with_context(|| format!("create {}", to.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    for dir in ["lib", "lib/modules"] {
        archive.directory(dir)?;
    }
    archive.tree(&picked.dir, &format!("lib/modules/{release}"))?;
    archive.bytes("modules.load", 0o644, picked.load.join("\n").as_bytes())?;
    archive.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_are_those_of_modprobe() {
        assert_eq!(
            module_name("kernel/drivers/usb/storage/usb-storage.ko.xz"),
            "usb_storage"
        );
        assert_eq!(module_name("kernel/fs/ext4/ext4.ko"), "ext4");
    }

    #[test]
    fn only_the_kernel_that_watches_itself_is_left_out() {
        let all = KernelLine::value_variants().iter();
        let left_out: Vec<_> = all.filter(|line| !KernelLine::SHIPPED.contains(line)).collect();
        assert_eq!(left_out, [&KernelLine::K6_12Lockdep]);
    }

    #[test]
    fn dependencies_come_before_the_module() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("modules.dep"),
            "a/x.ko: a/y.ko a/z.ko\na/y.ko: a/z.ko\na/z.ko:\n",
        )
        .unwrap();
        let index = Index::read(dir.path()).unwrap();
        assert_eq!(index.with_dependencies("x"), ["a/z.ko", "a/y.ko", "a/x.ko"]);
        assert!(index.with_dependencies("none").is_empty());
    }
}
