//! From a path to the volume that it names: which superblock, which file system, which uuid.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// A mounted file system that can be recorded.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    /// Where it is mounted.
    pub(crate) mount_point: PathBuf,
    /// `s_dev` in the kernel's encoding (major << 20 | minor). For btrfs not what stat shows.
    pub(crate) device: u32,
    /// ext4, xfs or btrfs.
    pub(crate) fs_type: String,
    /// Its uuid, lower case with dashes.
    pub(crate) uuid: String,
    /// Its label; empty if none.
    pub(crate) label: String,
}

/// A line of /proc/self/mountinfo.
struct Mount {
    device: u32,
    root: String,
    mount_point: PathBuf,
    options: String,
    fs_type: String,
    source: String,
}

impl Volume {
    /// Finds the volume mounted at `path`.
    ///
    /// # Errors
    /// A path that is no mount point, a part of a file system, or a file system that cannot be recorded: said clearly.
    pub(crate) fn resolve(path: &Path) -> Result<Self> {
        let path = fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
        let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        let mounts: Vec<Mount> = table.lines().filter_map(Mount::parse).collect();
        let Some(mount) = mounts.iter().rfind(|mount| mount.mount_point == path) else {
            let around = mounts.iter().rfind(|mount| path.starts_with(&mount.mount_point));
            let hint = around.map_or_else(String::new, |mount| {
                format!("; it lies on {}", mount.mount_point.display())
            });
            bail!(
                "{} is no mount point{hint}: whole file systems are recorded, name the mount point",
                path.display()
            );
        };
        let Mount {
            device,
            root,
            mount_point,
            options,
            fs_type,
            source,
        } = mount;
        ensure!(
            matches!(fs_type.as_str(), "ext4" | "xfs" | "btrfs"),
            "{} is {fs_type}: ext4, xfs and btrfs can be recorded",
            path.display()
        );
        ensure!(
            root == "/",
            "{} shows only {root} of its file system: record it where its root is mounted",
            path.display()
        );
        let option = |name: &str| options.split(',').any(|option| option == name);
        for (name, remedy) in [
            ("data=journal", "data=ordered"),
            ("dax=always", "dax=never"),
            ("dax", "dax=never"),
        ] {
            ensure!(
                !option(name),
                "{} is mounted with {name}, past the page cache: mount it with {remedy}",
                path.display()
            );
        }
        ensure!(
            fs_type != "btrfs" || !option("space_cache"),
            "{} keeps its free-space cache in inodes that look like files of the volume: mount it once with space_cache=v2",
            path.display()
        );
        let Superblock { uuid, label } = Superblock::read(Path::new(source), fs_type)?;
        Ok(Self {
            mount_point: mount_point.clone(),
            device: *device,
            fs_type: fs_type.clone(),
            uuid,
            label,
        })
    }
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (major, minor) = left.get(2)?.split_once(':')?;
        let device = (major.parse::<u32>().ok()? << 20) | minor.parse::<u32>().ok()?;
        let options = format!("{},{}", left.get(5)?, right.get(2)?);
        Some(Self {
            device,
            root: unescape(left.get(3)?),
            mount_point: PathBuf::from(unescape(left.get(4)?)),
            options,
            fs_type: (*right.first()?).to_owned(),
            source: unescape(right.get(1)?),
        })
    }
}

/// Undoes the octal escapes of mountinfo (space, tab, newline, backslash).
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| {
            text.replace(escape, plain)
        })
}

/// What identifies a file system, from its superblock on the device.
struct Superblock {
    uuid: String,
    label: String,
}

impl Superblock {
    fn read(device: &Path, fs_type: &str) -> Result<Self> {
        // Offsets of magic, uuid and label in bytes from the start of the device; see the file systems' on-disk formats.
        let (magic_at, magic, uuid_at, label_at, label_bytes): (u64, &[u8], u64, u64, usize) = match fs_type {
            "ext4" => (1024 + 0x38, &[0x53, 0xef], 1024 + 0x68, 1024 + 0x78, 16),
            "xfs" => (0, b"XFSB", 32, 108, 12),
            _ => (0x10000 + 0x40, b"_BHRfS_M", 0x10000 + 0x20, 0x10000 + 0x12b, 256),
        };
        let context = || format!("read the superblock on {}", device.display());
        let file = File::open(device).with_context(context)?;
        let read = |at: u64, bytes: usize| -> Result<Vec<u8>> {
            let mut buffer = vec![0; bytes];
            file.read_exact_at(&mut buffer, at).with_context(context)?;
            Ok(buffer)
        };
        ensure!(
            read(magic_at, magic.len())? == magic,
            "{} does not begin as {fs_type} does",
            device.display()
        );
        if fs_type == "ext4" {
            const INCOMPAT_INLINE_DATA: u32 = 0x8000;
            let flags = read(1024 + 0x60, 4)?;
            let flags = u32::from_le_bytes(flags.try_into().unwrap_or_default());
            ensure!(
                flags & INCOMPAT_INLINE_DATA == 0,
                "{} has the ext4 feature inline_data, whose writes cannot be captured yet",
                device.display()
            );
        }
        let hex: String = read(uuid_at, 16)?
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let uuid = format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        );
        let label = read(label_at, label_bytes)?;
        let label = label.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(Self {
            uuid,
            label: String::from_utf8_lossy(label).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let line = r"36 35 98:3 / /mnt/a\040b rw,noatime master:1 - ext4 /dev/vda rw,data=journal";
        let mount = Mount::parse(line).unwrap();
        assert_eq!(mount.device, (98 << 20) | 3);
        assert_eq!(
            (mount.root.as_str(), mount.mount_point.as_path()),
            ("/", Path::new("/mnt/a b"))
        );
        assert!(mount.options.split(',').any(|option| option == "data=journal"));
    }

    #[test]
    fn what_is_no_mount_point_is_refused() {
        let error = Volume::resolve(Path::new("/proc/self")).unwrap_err();
        assert!(error.to_string().contains("no mount point"), "{error}");
    }
}
