//! Mounts and unmounts. Owns the way into the kernel, for root and for others, and when a mount ends; knows nothing of trees.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use fuser::{Config, Filesystem, MountOption, Session, SessionACL, SessionUnmounter};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

use crate::exit::{Exit, failure};

const DEVICE: &str = "/dev/fuse";
/// What the list of mounts has as its source, and as its type behind `fuse.`.
const NAME: &str = "tapeworm";
/// Requests that are answered at a time. Each thread has a buffer of 16 MiB of address space, of which it touches what it needs.
const THREADS: usize = 4;

/// A mount that nobody is served by yet.
pub(super) struct Mount<F: Filesystem> {
    session: Session<F>,
    /// Caught from before it was mounted.
    signals: Signals,
    unmounting: Unmounting,
}

/// How it is unmounted.
struct Unmounting {
    directory: PathBuf,
    /// Device numbers of the mounted tree: nobody else's mount is taken away.
    device: Option<(u32, u32)>,
    /// Where it was mounted by `fusermount3`.
    by_helper: Option<SessionUnmounter>,
}

/// Mounts `filesystem` read-only on a directory: as root by the system call, for others by `fusermount3`.
///
/// # Errors
/// Where the kernel has no FUSE, or refuses.
pub(super) fn mount<F: Filesystem>(filesystem: F, directory: &Path) -> Result<Mount<F>> {
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("catch signals")?;
    let mut unmounting = Unmounting {
        directory: directory.to_owned(),
        device: None,
        by_helper: None,
    };
    let device = File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(|error| {
            let what = match error.kind() {
                io::ErrorKind::NotFound => "load the kernel's module with modprobe fuse".to_owned(),
                io::ErrorKind::PermissionDenied => "do it as root, or allow users to open it".to_owned(),
                _ => format!("{error}; is the kernel's module fuse there (modprobe fuse)?"),
            };
            failure(Exit::Failed, format!("{DEVICE} cannot be opened: {what}"))
        })?;
    let session = if rustix::process::geteuid().is_root() {
        as_root(filesystem, device, directory)?
    } else {
        drop(device);
        let mut session = by_helper(filesystem, directory)?;
        unmounting.by_helper = Some(session.unmount_callable());
        session
    };
    unmounting.device = unmounting.device_there();
    Ok(Mount {
        session,
        signals,
        unmounting,
    })
}

/// What both ways say beside the options.
fn config(acl: SessionACL) -> Config {
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(THREADS);
    config
}

fn as_root<F: Filesystem>(filesystem: F, device: File, directory: &Path) -> Result<Session<F>> {
    use std::os::fd::AsRawFd;

    // The owner is root, the root a directory (octal).
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let options = CString::new(options).context("mount options")?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    let (target, fs_type) = (directory, format!("fuse.{NAME}"));
    rustix::mount::mount(NAME, target, fs_type, flags, options.as_c_str())
        .with_context(|| format!("mount on {}", directory.display()))?;
    Session::from_fd(
        filesystem,
        device.into(),
        SessionACL::All,
        config(SessionACL::All),
    )
    .map_err(|error| {
        let _it_is_dead_anyhow = rustix::mount::unmount(directory, UnmountFlags::DETACH);
        anyhow!(error).context("begin to talk with the kernel")
    })
}

fn by_helper<F: Filesystem>(filesystem: F, directory: &Path) -> Result<Session<F>> {
    let mut config = config(SessionACL::Owner);
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::DefaultPermissions,
        MountOption::FSName(NAME.to_owned()),
        MountOption::Subtype(NAME.to_owned()),
    ];
    Session::new(filesystem, directory, &config).map_err(|error| {
        let what = if error.kind() == io::ErrorKind::NotFound {
            "; who is not root needs fusermount3 (package fuse3)"
        } else {
            ""
        };
        failure(
            Exit::Failed,
            format!("mount on {}: {error}{what}", directory.display()),
        )
    })
}

impl<F: Filesystem> Mount<F> {
    /// Unmounts it before anybody is served: whoever came is told that it is gone.
    pub(super) fn unmount(mut self) {
        self.unmounting.unmount();
    }

    /// Answers until it is unmounted: by `umount`, or because of SIGINT, SIGTERM or SIGHUP. What is in use then is detached, and served until
    /// nobody uses it any more, or until a second signal.
    ///
    /// # Errors
    /// What ended it, if it was anything else.
    pub(super) fn serve(self) -> Result<()> {
        let Self {
            session,
            mut signals,
            mut unmounting,
        } = self;
        let handle = signals.handle();
        let waiting = thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut signals = signals.forever();
            if let Some(signal) = signals.next() {
                info!("signal {signal}: unmounting");
                unmounting.unmount();
            }
            if let Some(signal) = signals.next() {
                warn!("signal {signal}: ended while it was in use");
                std::process::exit(128 + signal);
            }
        });
        let waiting = waiting.context("start a thread")?;
        let served = session.run().context("serve the mount");
        handle.close();
        waiting
            .join()
            .map_err(|_| anyhow!("the thread that waits for signals panicked"))?;
        served
    }
}

impl Unmounting {
    fn unmount(&mut self) {
        // Who unmounts it at the same moment has won; what lies below is not ours.
        if self.device.is_none() || self.device_there() != self.device {
            return;
        }
        if let Some(helper) = &mut self.by_helper {
            if let Err(error) = helper.unmount() {
                warn!("unmount {}: {error}", self.directory.display());
            }
            return;
        }
        match rustix::mount::unmount(&self.directory, UnmountFlags::empty()) {
            Ok(()) => {}
            Err(rustix::io::Errno::BUSY) => {
                warn!(
                    "{} is in use: detached, and served until it is not; a second signal ends that",
                    self.directory.display()
                );
                self.unmount_with(UnmountFlags::DETACH);
            }
            Err(error) => warn!("unmount {}: {error}", self.directory.display()),
        }
    }

    fn unmount_with(&self, flags: UnmountFlags) {
        if let Err(error) = rustix::mount::unmount(&self.directory, flags) {
            warn!("unmount {}: {error}", self.directory.display());
        }
    }

    /// The device numbers of what is on the directory now, as the kernel remembers them: nobody needs to answer for it.
    fn device_there(&self) -> Option<(u32, u32)> {
        let flags = AtFlags::from_bits_retain(libc::AT_STATX_DONT_SYNC as u32) | AtFlags::NO_AUTOMOUNT;
        let found = rustix::fs::statx(CWD, &self.directory, flags, StatxFlags::empty()).ok()?;
        Some((found.stx_dev_major, found.stx_dev_minor))
    }
}
