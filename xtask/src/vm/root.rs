//! The Debian root that the guests run in: one file system image in the cache, never changed by a run.
//!
//! Owns which packages every guest has, and how the image is made. Sets with further packages are images of their own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{debian, setup};

/// Raised when the packages or the way the image is made change.
const CACHE_VERSION: u32 = 1;
const SUITE: &str = "trixie";
/// Parts of this machine's apt configuration that say how to reach its mirrors.
const INHERITED: &[&str] = &[
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::Force",
];
/// Apparent size of the image; what is not used takes no room.
const IMAGE_BYTES: u64 = 8 << 30;

/// What real workloads commonly need, so that most run without packages of their own.
const PACKAGES: &[&str] = &[
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "procps",
    "psmisc",
    "iproute2",
    "util-linux",
    "mount",
    "fdisk",
    "e2fsprogs",
    "xfsprogs",
    "btrfs-progs",
    "dosfstools",
    "attr",
    "acl",
    "libcap2-bin",
    "tar",
    "gzip",
    "bzip2",
    "xz-utils",
    "zstd",
    "zip",
    "unzip",
    "cpio",
    "rsync",
    "git",
    "sqlite3",
    "fio",
    "python3",
    "perl",
    "gcc",
    "g++",
    "libc6-dev",
    "make",
    "patch",
    "diffutils",
    "findutils",
    "file",
    "strace",
    "less",
    "ca-certificates",
    "openssh-server",
    "openssh-client",
    "bc",
    "jq",
    "time",
    "moreutils",
];

/// Returns the image with the fixed set of packages and `extra` ones; makes it first when the cache has none.
///
/// # Errors
/// When a package does not exist or Debian's archive cannot be reached.
pub(crate) fn ensure_root(extra: &[String]) -> Result<PathBuf> {
    let mut extra: Vec<&str> = extra.iter().map(String::as_str).collect();
    extra.sort_unstable();
    extra.dedup();
    for name in &extra {
        let plain = name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.:=~".contains(c));
        ensure!(
            plain && !name.is_empty() && !name.starts_with('-'),
            "{name:?} is not the name of a Debian package"
        );
    }
    let roots = setup::cache_dir()?.join("roots");
    fs::create_dir_all(&roots).context("create root cache")?;
    let image = roots.join(image_name(&extra));
    if image.exists() {
        return Ok(image);
    }
    let lock = File::create(roots.join("lock")).context("create lock of the root cache")?;
    lock.lock().context("lock root cache")?;
    if image.exists() {
        return Ok(image);
    }
    let with = if extra.is_empty() {
        String::new()
    } else {
        format!(" with {}", extra.join(" "))
    };
    setup::say(&format!(
        "making the guests' Debian {SUITE} root{with} (about two minutes, once)"
    ));
    setup::ensure_packages(&["mmdebstrap", "e2fsprogs", "fakeroot", "debian-archive-keyring"])?;
    let work = tempfile::tempdir_in(&roots).context("create root work directory")?;
    let archive = work.path().join("root.tar");
    bootstrap(&archive, &extra)?;
    make_image(&archive, work.path())?;
    fs::rename(work.path().join("root.ext4"), &image).context("move root image into the cache")?;
    Ok(image)
}

/// File name of the image; names of packages are part of it as long as they fit, for people who look there.
fn image_name(extra: &[&str]) -> String {
    let mut name = format!("{SUITE}-v{CACHE_VERSION}");
    if !extra.is_empty() {
        let joined = extra.join("+");
        let shown: String = joined
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(40)
            .collect();
        name.push_str(&format!("-{shown}-{:016x}", fnv(joined.as_bytes())));
    }
    name + ".ext4"
}

/// FNV-1a: a stable name for a set of packages or a configuration, nothing more.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Installs Debian into a tar archive. Works as root, and otherwise in a user namespace.
fn bootstrap(archive: &Path, extra: &[&str]) -> Result<()> {
    let packages: Vec<&str> = PACKAGES.iter().chain(extra).copied().collect();
    let mut cmd = Command::new("mmdebstrap");
    cmd.args(["--quiet", "--variant=minbase", "--format=tar"])
        .arg(format!("--include={}", packages.join(",")))
        .args(["--aptopt=Apt::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""])
        // The image is remade from nothing when anything goes wrong: no need to sync every file.
        .arg("--dpkgopt=force-unsafe-io")
        // The modules come with the kernel that a run boots.
        .arg("--customize-hook=mkdir -p \"$1/usr/lib/modules\" \"$1/origin\" \"$1/medium\" \"$1/spool\" \"$1/restored\"");
    for path in ["man", "doc", "locale", "info"] {
        cmd.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
    }
    // Proxies and the like are those of this machine.
    let config = setup::output(Command::new("apt-config").arg("dump"))?;
    for line in config
        .lines()
        .filter(|l| INHERITED.iter().any(|prefix| l.starts_with(prefix)))
    {
        cmd.arg(format!("--aptopt={line}"));
    }
    cmd.arg(SUITE).arg(archive).arg(debian::mirror(SUITE)?);
    setup::run_quiet(&mut cmd).context("install Debian into the guest root")
}

/// Turns the archive into an ext4 image. Without root's rights, fakeroot keeps the owners right.
fn make_image(archive: &Path, work: &Path) -> Result<()> {
    let (tree, image) = (work.join("tree"), work.join("root.ext4"));
    fs::create_dir(&tree).context("create directory for the guest root")?;
    let file = File::create(&image).context("create root image")?;
    file.set_len(IMAGE_BYTES).context("size root image")?;
    drop(file);
    let script = "PATH=$PATH:/usr/sbin:/sbin; tar --extract --numeric-owner --file \"$1\" --directory \"$2\" && \
                  mkfs.ext4 -q -F -L guest-root -O ^has_journal -E lazy_itable_init=1,nodiscard -d \"$2\" \"$3\" && \
                  rm -rf \"$2\"";
    setup::run_quiet(
        Command::new("fakeroot")
            .args(["--", "sh", "-c", script, "sh"])
            .arg(archive)
            .arg(&tree)
            .arg(&image),
    )
    .context("make the image of the guest root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_tell_sets_apart() {
        assert_eq!(image_name(&[]), format!("trixie-v{CACHE_VERSION}.ext4"));
        assert_ne!(image_name(&["lua5.4"]), image_name(&["lua54"]));
    }
}
