//! A blank block device as the target: proves that it is blank and large enough, makes the file system, mounts it where
//! nobody else sees it, and unmounts it. Knows nothing of journals or trees.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::fs::{major, minor};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::UnshareFlags;

use crate::exit::integrity;

/// Bytes looked at, and with `--wipe` zeroed, at both ends of a device: every known signature lies there.
const END_BYTES: u64 = 1 << 20;
/// Where the tools lie when PATH does not say.
const TOOL_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// File systems that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FsType {
    /// ext4, by mkfs.ext4.
    Ext4,
    /// XFS, by mkfs.xfs.
    Xfs,
    /// btrfs, by mkfs.btrfs.
    Btrfs,
}

impl FsType {
    /// The kernel's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// From the name in the journal.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Ext4, Self::Xfs, Self::Btrfs]
            .into_iter()
            .find(|fs| fs.name() == name)
    }

    fn tool(self) -> (&'static str, &'static str) {
        match self {
            Self::Ext4 => ("mkfs.ext4", "e2fsprogs"),
            Self::Xfs => ("mkfs.xfs", "xfsprogs"),
            Self::Btrfs => ("mkfs.btrfs", "btrfs-progs"),
        }
    }

    /// Bytes of the longest label.
    fn label_bytes_max(self) -> usize {
        match self {
            Self::Ext4 => 16,
            Self::Xfs => 12,
            Self::Btrfs => 255,
        }
    }
}

/// What to make on the device.
#[derive(Clone, Debug)]
pub(crate) struct FsOptions {
    /// Type.
    pub(crate) fs_type: FsType,
    /// Recorded label; may be empty.
    pub(crate) label: String,
    /// Recorded uuid.
    pub(crate) uuid: String,
    /// Inodes that will be made.
    pub(crate) inodes: u64,
    /// Whether some of them have a project id.
    pub(crate) projects: bool,
}

impl FsOptions {
    /// Fails when what the medium says cannot be given to mkfs safely, or mkfs is not here: asked before anything is wiped.
    pub(crate) fn check(&self) -> Result<()> {
        let shape = |at: usize, byte: u8| {
            if matches!(at, 8 | 13 | 18 | 23) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        };
        if self.uuid.len() != 36 || !self.uuid.bytes().enumerate().all(|(at, byte)| shape(at, byte)) {
            return Err(integrity(format!("the recorded uuid {:?} is none", self.uuid)));
        }
        if self.label.contains('\0') {
            return Err(integrity(format!("the recorded label {:?} is none", self.label)));
        }
        find_mkfs(self.fs_type).map(|_| ())
    }
}

/// A block device, held exclusively: nothing can mount it meanwhile.
pub(crate) struct Device {
    path: PathBuf,
    file: File,
    size_bytes: u64,
}

impl Device {
    /// Opens a device and proves that nobody uses it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let metadata =
            std::fs::metadata(path).with_context(|| format!("examine device {}", path.display()))?;
        if !metadata.file_type().is_block_device() {
            bail!(
                "{} is not a block device (to restore into a directory use --to)",
                path.display()
            );
        }
        let path =
            std::fs::canonicalize(path).with_context(|| format!("examine device {}", path.display()))?;
        if let Some(place) = mounted_at(&path, metadata.rdev()) {
            bail!("{} is mounted on {place}: unmount it first", path.display());
        }
        let opened = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL | libc::O_CLOEXEC)
            .open(&path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                bail!(
                    "{} is in use (a partition of it is mounted, or it is swap, RAID, LVM or encrypted): free it first",
                    path.display()
                )
            }
            Err(error) => {
                return Err(error).with_context(|| format!("open device {} for writing", path.display()));
            }
        };
        let size_bytes = file
            .seek(SeekFrom::End(0))
            .with_context(|| format!("measure device {}", path.display()))?;
        Ok(Self {
            path,
            file,
            size_bytes,
        })
    }

    /// What lies on the device already, in words; `None` when it is blank.
    pub(crate) fn occupied_by(&mut self) -> Result<Option<String>> {
        let head = self.read_end(0)?;
        let tail_start = self.size_bytes.saturating_sub(END_BYTES);
        let tail = self.read_end(tail_start)?;
        if let Some(name) = signature(&head, &tail) {
            return Ok(Some(self.described(name)));
        }
        if let Some(found) = probe_by_blkid(&self.path) {
            return Ok(Some(found));
        }
        let first = head.iter().position(|byte| *byte != 0).map(|at| at as u64);
        let last = tail
            .iter()
            .position(|byte| *byte != 0)
            .map(|at| tail_start + at as u64);
        Ok(first
            .or(last)
            .map(|at| format!("data of no known kind (a byte that is not zero at offset {at})")))
    }

    /// Fails when the data alone is larger than the device; nothing has been written yet.
    pub(crate) fn check_size(&self, needed_bytes: u64) -> Result<()> {
        if needed_bytes > self.size_bytes {
            bail!(
                "{} is too small: the tree needs {needed_bytes} bytes of data, the device has {}; nothing was written, take a larger one",
                self.path.display(),
                self.size_bytes
            );
        }
        Ok(())
    }

    /// Zeroes both ends, so that no old signature is found beside the new file system.
    pub(crate) fn wipe(&mut self) -> Result<()> {
        let length = usize::try_from(END_BYTES.min(self.size_bytes)).unwrap_or(0);
        let zeros = vec![0_u8; length];
        for offset in [0, self.size_bytes - length as u64] {
            self.file
                .seek(SeekFrom::Start(offset))
                .and_then(|_| self.file.write_all(&zeros))
                .with_context(|| format!("wipe device {} at {offset}", self.path.display()))?;
        }
        self.file
            .sync_all()
            .with_context(|| format!("wipe device {}", self.path.display()))
    }

    /// Makes the file system and mounts it. Gives the mount and what could not be made as recorded.
    pub(crate) fn make_and_mount(self, options: &FsOptions) -> Result<(PrivateMount, Vec<String>)> {
        let Self {
            path,
            file,
            size_bytes,
        } = self;
        // mkfs wants the device for itself.
        drop(file);
        let mut notes = Vec::new();
        let mut label = options.label.clone();
        if label.len() > options.fs_type.label_bytes_max() {
            notes.push(format!(
                "label {label:?} is too long for {}: made without a label",
                options.fs_type.name()
            ));
            label.clear();
        }
        make_fs(&path, size_bytes, options, &label)?;
        let mount = match PrivateMount::new(&path, options.fs_type) {
            // A kernel without quotas mounts no ext4 that holds project ids: the tree is worth more than they are.
            Err(error) if options.projects && options.fs_type == FsType::Ext4 => {
                notes.push(format!(
                    "made without project ids, which this kernel does not mount: {error:#}"
                ));
                let plain = FsOptions {
                    projects: false,
                    ..options.clone()
                };
                make_fs(&path, size_bytes, &plain, &label)?;
                PrivateMount::new(&path, options.fs_type)?
            }
            mounted => mounted?,
        };
        Ok((mount, notes))
    }

    fn described(&self, name: &str) -> String {
        match probe_by_blkid(&self.path) {
            Some(found) => found,
            None => name.to_owned(),
        }
    }

    fn read_end(&mut self, offset: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file
            .seek(SeekFrom::Start(offset))
            .with_context(|| format!("read device {}", self.path.display()))?;
        (&mut self.file)
            .take(END_BYTES)
            .read_to_end(&mut bytes)
            .with_context(|| format!("read device {} at {offset}", self.path.display()))?;
        Ok(bytes)
    }
}

/// Where a device is mounted: by number, or by name (btrfs shows another number).
fn mounted_at(path: &Path, rdev: u64) -> Option<String> {
    let number = format!("{}:{}", major(rdev), minor(rdev));
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let separator = fields.iter().position(|field| *field == "-")?;
        let by_number = *fields.get(2)? == number;
        let by_name = Path::new(fields.get(separator + 2)?) == path;
        (by_number || by_name).then(|| (*fields.get(4).unwrap_or(&"?")).to_owned())
    })
}

/// Names what the first and the last bytes of a device show; the well-known few, for hosts without blkid.
fn signature(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    const AT_HEAD: [(usize, &[u8], &str); 12] = [
        (0x438, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
        (0, b"XFSB", "an xfs file system"),
        (0x1_0040, b"_BHRfS_M", "a btrfs file system"),
        (0xff6, b"SWAPSPACE2", "swap space"),
        (0, b"LUKS\xba\xbe", "an encrypted (LUKS) volume"),
        (0x218, b"LVM2 001", "an LVM physical volume"),
        (0x1000, b"\xfc\x4e\x2b\xa9", "a RAID member"),
        (0x400, b"\x10\x20\xf5\xf2", "an f2fs file system"),
        (3, b"NTFS    ", "an NTFS file system"),
        (0x8001, b"CD001", "an ISO 9660 file system"),
        (0x200, b"EFI PART", "a GPT partition table"),
        (
            0x1fe,
            b"\x55\xaa",
            "a partition table, a FAT file system or a boot sector",
        ),
    ];
    let found = AT_HEAD
        .iter()
        .find(|(at, magic, _)| head.get(*at..at + magic.len()) == Some(*magic));
    let backup_gpt = tail.len() >= 512 && tail[tail.len() - 512..].starts_with(b"EFI PART");
    found
        .map(|(_, _, name)| *name)
        .or_else(|| backup_gpt.then_some("a backup GPT partition table"))
}

/// What blkid finds, in its words; `None` also where there is no blkid.
fn probe_by_blkid(path: &Path) -> Option<String> {
    let blkid = find_tool("blkid")?;
    let output = Command::new(blkid)
        .args(["-p", "-o", "export"])
        .arg(path)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    let kind = value("TYPE")
        .map(|kind| format!("{kind} (by blkid)"))
        .or_else(|| value("PTTYPE").map(|kind| format!("a {kind} partition table (by blkid)")))?;
    let label = value("LABEL")
        .map(|label| format!(" label {label:?}"))
        .unwrap_or_default();
    let uuid = value("UUID")
        .map(|uuid| format!(" uuid {uuid}"))
        .unwrap_or_default();
    Some(format!("{kind}{label}{uuid}"))
}

/// A tool of the host, by PATH and the usual places.
fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(TOOL_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// The tool that makes a file system: its name, and where it lies here.
fn find_mkfs(fs_type: FsType) -> Result<(&'static str, PathBuf)> {
    let (name, package) = fs_type.tool();
    match find_tool(name) {
        Some(tool) => Ok((name, tool)),
        None => bail!(
            "{name} is not installed here: install the package {package}, or choose another type with --mkfs; nothing was written"
        ),
    }
}

fn make_fs(path: &Path, size_bytes: u64, options: &FsOptions, label: &str) -> Result<()> {
    let (name, tool) = find_mkfs(options.fs_type)?;
    let mut command = Command::new(tool);
    match options.fs_type {
        FsType::Ext4 => {
            command.args(["-q", "-F", "-U", &options.uuid]);
            if !label.is_empty() {
                command.args(["-L", label]);
            }
            if options.projects {
                command.args(["-O", "project"]);
            }
            // mke2fs makes one inode for 16 KiB by default; many small files need more.
            let needed = options.inodes + options.inodes / 10 + 1024;
            if needed > size_bytes / 16384 {
                command.args(["-N", &needed.to_string()]);
            }
        }
        FsType::Xfs => {
            command.args(["-q", "-f", "-m", &format!("uuid={}", options.uuid)]);
            if !label.is_empty() {
                command.args(["-L", label]);
            }
        }
        FsType::Btrfs => {
            command.args(["-q", "-f", "-U", &options.uuid]);
            if !label.is_empty() {
                command.args(["-L", label]);
            }
        }
    }
    command.arg("--").arg(path).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("run {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} failed on {} ({}): {}",
            path.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// A file system mounted on a temporary directory that only this process sees; gone with the process, whatever happens.
pub(crate) struct PrivateMount {
    directory: PathBuf,
    mounted: bool,
}

impl PrivateMount {
    fn new(device: &Path, fs_type: FsType) -> Result<Self> {
        // SAFETY: only the file-system view of this thread changes, which shares no mount namespace state with others by
        // reference; no descriptor becomes invalid.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
            .context("make a private mount namespace (restoring to a device needs root)")?;
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
            .context("make mounts private")?;
        let directory = temporary_directory()?;
        let mut made = Self {
            directory,
            mounted: false,
        };
        // A copy of a volume whose original is mounted on this host: xfs refuses the uuid otherwise.
        let data = if fs_type == FsType::Xfs { c"nouuid" } else { c"" };
        mount(device, &made.directory, fs_type.name(), MountFlags::empty(), data).with_context(|| {
            format!(
                "mount {} as {} (does this kernel have {}?)",
                device.display(),
                fs_type.name(),
                fs_type.name()
            )
        })?;
        made.mounted = true;
        Ok(made)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// Unmounts: everything is on the device when this returns.
    pub(crate) fn unmount(mut self) -> Result<()> {
        unmount(&self.directory, UnmountFlags::empty()).context("unmount the restored file system")?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        if self.mounted {
            let _gone_with_the_process = unmount(&self.directory, UnmountFlags::DETACH);
        }
        let _only_an_empty_directory = std::fs::remove_dir(&self.directory);
    }
}

/// A new empty directory that only root may enter.
fn temporary_directory() -> Result<PathBuf> {
    let bases = [std::env::temp_dir(), PathBuf::from("/run"), PathBuf::from("/tmp")];
    let mut last = None;
    for base in bases {
        let path = base.join(format!("replayer-{}-{:08x}", std::process::id(), clock_bits()));
        match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).context("make a temporary directory to mount on"),
        None => bail!("make a temporary directory to mount on"),
    }
}

fn clock_bits() -> u32 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::signature;

    #[test]
    fn known_signatures_are_named() {
        let mut head = vec![0_u8; 1 << 20];
        assert_eq!(signature(&head, &[]), None);
        head[0x438] = 0x53;
        head[0x439] = 0xef;
        assert_eq!(signature(&head, &[]), Some("an ext2, ext3 or ext4 file system"));
        let mut tail = vec![0_u8; 4096];
        tail[4096 - 512..4096 - 504].copy_from_slice(b"EFI PART");
        assert_eq!(signature(&[0; 64], &tail), Some("a backup GPT partition table"));
    }
}
