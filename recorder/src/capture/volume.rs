//! From a path to the volume that it names: which superblock, which file system, which uuid.

mod subvolumes;
mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

pub(crate) use support::{SUPPORT, Support};

/// Subvolumes that a refusal names.
const SUBVOLUMES_NAMED: usize = 8;

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
        mount.check(&mounts)?;
        let Mount {
            device,
            mount_point,
            fs_type,
            ..
        } = mount;
        let Superblock { uuid, label } = Superblock::read(mount)?;
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
    /// Whether what is mounted here can be recorded, as far as the mount table and the kernel tell.
    fn check(&self, mounts: &[Self]) -> Result<()> {
        let Self {
            mount_point, fs_type, ..
        } = self;
        let path = mount_point.display();
        if let Some(why) = support::refusal(fs_type) {
            bail!("{path} is {fs_type}, which cannot be recorded: {why}");
        }
        if fs_type == "btrfs" {
            self.check_subvolumes()?;
        }
        self.check_part(mounts)?;
        self.check_options()
    }

    /// Only a whole file system can be recorded: the programs tell file systems apart, not mounts.
    fn check_part(&self, mounts: &[Self]) -> Result<()> {
        let Self {
            mount_point,
            root,
            device,
            source,
            ..
        } = self;
        if root == "/" {
            return Ok(());
        }
        let whole = mounts
            .iter()
            .find(|other| other.device == *device && other.root == "/" && !other.has("idmapped"));
        let remedy = whole.map_or_else(
            || format!("mount the whole of it (mount {source} DIRECTORY) and record that"),
            |whole| {
                format!(
                    "record {}, where the whole of it is mounted",
                    whole.mount_point.display()
                )
            },
        );
        bail!(
            "{} shows only {root} of its file system (a bind mount): {remedy}",
            mount_point.display()
        );
    }

    fn check_subvolumes(&self) -> Result<()> {
        let (found, more) = subvolumes::list(&self.mount_point, SUBVOLUMES_NAMED)?;
        if found.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = found
            .iter()
            .map(|subvolume| format!("{} (id {})", subvolume.name, subvolume.id))
            .collect();
        bail!(
            "{} is a btrfs with subvolumes or snapshots, which cannot be recorded yet: {}{}; delete them (btrfs subvolume delete), or \
             keep what is to be recorded on a file system of its own",
            self.mount_point.display(),
            names.join(", "),
            if more { " and more" } else { "" }
        )
    }

    /// Whether an option is set, of the mount or of the file system.
    fn has(&self, name: &str) -> bool {
        self.options.split(',').any(|option| option == name)
    }

    fn check_options(&self) -> Result<()> {
        let path = self.mount_point.display();
        ensure!(
            !self.has("ro"),
            "{path} is mounted read-only: there is nothing to record; mount it with rw"
        );
        ensure!(
            !self.has("idmapped"),
            "{path} is an idmapped mount, where owners look different: record the file system where it is mounted without"
        );
        for (name, remedy) in [
            ("data=journal", "data=ordered"),
            ("dax=always", "dax=never"),
            ("dax", "dax=never"),
        ] {
            ensure!(
                !self.has(name),
                "{path} is mounted with {name}, past the page cache: mount it with {remedy}"
            );
        }
        let quota_file = self
            .options
            .split(',')
            .find(|option| option.starts_with("usrjquota=") || option.starts_with("grpjquota="));
        if let Some(option) = quota_file {
            bail!("{path} is mounted with {option}: {}", visible_quota(&self.source));
        }
        ensure!(
            self.fs_type != "btrfs" || !self.has("space_cache"),
            "{path} keeps its free-space cache in inodes that look like files of the volume: mount it once with space_cache=v2"
        );
        Ok(())
    }

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

/// Why visible quota files are refused.
fn visible_quota(source: &str) -> String {
    format!(
        "its quotas are kept in visible files that the kernel writes past the page cache; unmount it, run `tune2fs -O quota {source}`, \
         mount it without the option"
    )
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
    /// Reads it from the device, and refuses what only it tells.
    fn read(mount: &Mount) -> Result<Self> {
        let Mount {
            device: number,
            source,
            fs_type,
            ..
        } = mount;
        // Offsets of magic, uuid and label in bytes from the start of the device; see the file systems' on-disk formats.
        let (magic_at, magic, uuid_at, label_at, label_bytes): (u64, &[u8], u64, u64, usize) =
            match fs_type.as_str() {
                "ext4" => (1024 + 0x38, &[0x53, 0xef], 1024 + 0x68, 1024 + 0x78, 16),
                "xfs" => (0, b"XFSB", 32, 108, 12),
                _ => (0x10000 + 0x40, b"_BHRfS_M", 0x10000 + 0x20, 0x10000 + 0x12b, 256),
            };
        // The root file system may be named by what no longer exists (/dev/root): then by number. Btrfs has no number of a device.
        let by_number = PathBuf::from(format!("/dev/block/{}:{}", number >> 20, number & 0xf_ffff));
        let device = match Path::new(source) {
            named if named.exists() => named,
            _ if by_number.exists() => &by_number,
            named => named,
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
            const RO_COMPAT_QUOTA: u32 = 0x100;
            let word = |at: u64| -> Result<u32> {
                Ok(u32::from_le_bytes(read(at, 4)?.try_into().unwrap_or_default()))
            };
            ensure!(
                word(1024 + 0x60)? & INCOMPAT_INLINE_DATA == 0,
                "{} has the ext4 feature inline_data, whose writes cannot be captured yet",
                device.display()
            );
            let quotas = ["usrquota", "grpquota", "quota"]
                .into_iter()
                .find(|option| mount.has(option));
            if let Some(option) = quotas
                && word(1024 + 0x64)? & RO_COMPAT_QUOTA == 0
            {
                bail!(
                    "{} is mounted with {option}: {}",
                    mount.mount_point.display(),
                    visible_quota(source)
                );
            }
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

    fn mount(line: &str) -> Mount {
        Mount::parse(line).unwrap()
    }

    #[test]
    fn what_the_mount_table_tells_is_refused_with_what_to_do() {
        let whole = mount("40 35 8:1 / /whole rw - ext4 /dev/sda1 rw");
        for (line, why) in [
            (
                "1 2 0:30 / /x rw - tmpfs tmpfs rw",
                "x is tmpfs, which cannot be recorded",
            ),
            (
                "1 2 0:30 / /x rw - overlay overlay rw,lowerdir=/a",
                "record the one that holds the upper",
            ),
            ("1 2 0:30 / /x rw - nfs4 server:/x rw", "where its disk is"),
            (
                "1 2 0:30 / /x rw - fuse.sshfs a:/b rw",
                "a program keeps its content",
            ),
            (
                "1 2 8:1 /sub /x rw - ext4 /dev/sda1 rw",
                "record /whole, where the whole of it",
            ),
            (
                "1 2 8:2 /sub /x rw - ext4 /dev/sda2 rw",
                "mount /dev/sda2 DIRECTORY",
            ),
            ("1 2 8:1 / /x ro,noatime - ext4 /dev/sda1 rw", "read-only"),
            ("1 2 8:1 / /x rw - ext4 /dev/sda1 ro", "read-only"),
            ("1 2 8:1 / /x rw,idmapped - ext4 /dev/sda1 rw", "idmapped"),
            ("1 2 8:1 / /x rw - ext4 /dev/sda1 rw,data=journal", "data=ordered"),
            ("1 2 8:1 / /x rw - xfs /dev/sda1 rw,dax=always", "dax=never"),
            (
                "1 2 8:1 / /x rw - ext4 /dev/sda1 rw,jqfmt=vfsv1,usrjquota=aquota.user",
                "tune2fs -O quota /dev/sda1",
            ),
        ] {
            let error = mount(line)
                .check(std::slice::from_ref(&whole))
                .unwrap_err()
                .to_string();
            assert!(error.contains(why) && error.contains("/x"), "{line}: {error}");
        }
        mount("1 2 8:1 / /x rw,relatime - xfs /dev/sda1 rw,attr2,inode64,noquota")
            .check(&[])
            .unwrap();
    }

    #[test]
    fn what_is_no_mount_point_is_refused() {
        let error = Volume::resolve(Path::new("/proc/self")).unwrap_err();
        assert!(error.to_string().contains("no mount point"), "{error}");
    }
}
