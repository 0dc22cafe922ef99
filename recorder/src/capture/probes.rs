//! Probes: puts a program under a kernel function, so that it stays there and its misses are told.
//!
//! Owns the events in tracefs (`kprobe_events`) that the programs hang on. The kernel's other interface for probes gives a return probe
//! ten instances, and the eleventh task that waits in a function returns unseen; before 6.7 it does not even count that. A named event has as many
//! instances as it asks for, and `kprobe_profile` counts what it misses on every kernel.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, mount};

const TRACEFS: &str = "/sys/kernel/tracing";
const GROUP: &str = "tapeworm";
/// Tasks that may be within one function whose return is probed: the most that the kernel allows.
const INSTANCES: u32 = 4096;
/// How long the kernel may take to let go of the probes.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30);
const REMOVAL_PAUSE: Duration = Duration::from_millis(50);

/// Which side of a function a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Its entry.
    Entry,
    /// Its return.
    Return,
}

/// The probes of one volume: their names begin with this.
#[derive(Clone, Debug)]
pub(super) struct Probes {
    prefix: String,
}

impl Probes {
    /// For the volume with this uuid.
    pub(super) fn of(uuid: &str) -> Self {
        let digits: String = uuid
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(12)
            .collect();
        Self {
            prefix: format!("v{digits}_"),
        }
    }

    /// Puts a loaded program under a function and pins the link at `pin`.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub(super) fn attach(
        &self,
        program: BorrowedFd<'_>,
        side: Side,
        name: &str,
        function: &str,
        pin: &Path,
    ) -> Result<()> {
        let event = format!("{}{name}_{function}", self.prefix);
        let kind = match side {
            Side::Entry => "p".to_owned(),
            Side::Return => format!("r{INSTANCES}"),
        };
        write_event(&format!("{kind}:{GROUP}/{event} {function}"))
            .with_context(|| format!("probe {function}"))?;
        let id = fs::read_to_string(format!("{TRACEFS}/events/{GROUP}/{event}/id"))
            .with_context(|| format!("read the number of probe {event}"))?;
        let id = id
            .trim()
            .parse()
            .with_context(|| format!("read the number of probe {event}"))?;
        let probe = open_event(id).with_context(|| format!("open probe {event}"))?;
        let link = link(program, probe.as_fd()).with_context(|| format!("attach {name} to {function}"))?;
        // The pin keeps link and probe; the descriptors are not needed.
        pin_link(link.as_fd(), pin).with_context(|| format!("pin {}", pin.display()))
    }

    /// Times that one of the probes was hit and its program did not run: no free instance, or a probe within a probe.
    ///
    /// # Errors
    /// When tracefs cannot be read.
    pub(super) fn misses(&self) -> Result<u64> {
        let profile =
            fs::read_to_string(format!("{TRACEFS}/kprobe_profile")).context("read kprobe_profile")?;
        Ok(sum_of_misses(&profile, &self.prefix))
    }

    /// Removes the probes, whose links must be gone. The kernel lets go of a link some time after its pin.
    ///
    /// # Errors
    /// When the kernel keeps one for longer than [`REMOVAL_TIMEOUT`]. Without a link it does nothing.
    pub(super) fn remove(&self) -> Result<()> {
        let end = Instant::now() + REMOVAL_TIMEOUT;
        let start = format!("{GROUP}/{}", self.prefix);
        loop {
            let events = match fs::read_to_string(format!("{TRACEFS}/kprobe_events")) {
                Ok(events) => events,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error).context("read kprobe_events"),
            };
            let mut busy = None;
            for event in events
                .lines()
                .filter_map(|line| line.split_once(':')?.1.split(' ').next())
                .filter(|event| event.starts_with(&start))
            {
                match write_event(&format!("-:{event}")) {
                    Err(error) if error.kind() == ErrorKind::ResourceBusy => busy = Some(event),
                    result => result.with_context(|| format!("remove probe {event}"))?,
                }
            }
            let Some(event) = busy else { return Ok(()) };
            ensure!(
                Instant::now() < end,
                "remove probe {event}: the kernel still uses it"
            );
            std::thread::sleep(REMOVAL_PAUSE);
        }
    }
}

/// Makes tracefs available where nobody has.
///
/// # Errors
/// When it cannot be mounted.
pub(super) fn ensure_tracefs() -> Result<()> {
    if Path::new(TRACEFS).join("kprobe_events").exists() {
        return Ok(());
    }
    mount("tracefs", TRACEFS, "tracefs", MountFlags::empty(), None)
        .with_context(|| format!("mount tracefs on {TRACEFS}"))?;
    ensure!(
        Path::new(TRACEFS).join("kprobe_events").exists(),
        "this kernel has no kprobe_events: boot one with CONFIG_KPROBE_EVENTS"
    );
    Ok(())
}

/// Sums the last column of the lines whose event begins so: event, hits, misses.
fn sum_of_misses(profile: &str, prefix: &str) -> u64 {
    profile
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let ours = words.next()?.starts_with(prefix);
            let misses: u64 = words.nth(1)?.parse().ok()?;
            ours.then_some(misses)
        })
        .sum()
}

fn write_event(line: &str) -> io::Result<()> {
    let mut events = OpenOptions::new()
        .append(true)
        .open(format!("{TRACEFS}/kprobe_events"))?;
    events.write_all(format!("{line}\n").as_bytes())
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(result) {
        // SAFETY: the kernel has just given this descriptor to us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens a trace event by its number.
fn open_event(id: u64) -> io::Result<OwnedFd> {
    /// The first version of `struct perf_event_attr`.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        size: u32,
        config: u64,
        sample_period: u64,
        sample_type: u64,
        read_format: u64,
        flags: u64,
        wakeup_events: u32,
        breakpoint_kind: u32,
        config1: u64,
    }
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    const EVERY_TASK: libc::pid_t = -1;
    // A program under an event runs on every processor, whichever the event is opened on.
    const FIRST_PROCESSOR: libc::c_int = 0;
    const NO_GROUP: libc::c_int = -1;
    let attributes = Attributes {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<Attributes>() as u32,
        config: id,
        sample_period: 1,
        sample_type: 0,
        read_format: 0,
        flags: 0,
        wakeup_events: 1,
        breakpoint_kind: 0,
        config1: 0,
    };
    // SAFETY: the attributes live through the call.
    owned(unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            EVERY_TASK,
            FIRST_PROCESSOR,
            NO_GROUP,
            PERF_FLAG_FD_CLOEXEC,
        )
    })
}

/// Links a program to a trace event.
fn link(program: BorrowedFd<'_>, event: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_int = 28;
    const BPF_PERF_EVENT: u32 = 41;
    #[repr(C)]
    struct Attribute {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        rest: [u64; 4],
    }
    let attribute = Attribute {
        program: program.as_raw_fd().cast_unsigned(),
        target: event.as_raw_fd().cast_unsigned(),
        attach_type: BPF_PERF_EVENT,
        flags: 0,
        rest: [0; 4],
    };
    // SAFETY: the attribute lives through the call.
    owned(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_CREATE,
            &raw const attribute,
            size_of::<Attribute>(),
        )
    })
}

fn pin_link(link: BorrowedFd<'_>, pin: &Path) -> Result<()> {
    const BPF_OBJ_PIN: libc::c_int = 6;
    #[repr(C)]
    struct Attribute {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes()).context("path of a pin")?;
    let attribute = Attribute {
        path: path.as_ptr() as u64,
        fd: link.as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    // SAFETY: attribute and path live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_PIN,
            &raw const attribute,
            size_of::<Attribute>(),
        )
    };
    ensure!(result == 0, io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_of_one_volume_are_summed() {
        let probes = Probes::of("0123abcd-4567-89ab-cdef-0123456789ab");
        assert_eq!(probes.prefix, "v0123abcd4567_");
        let profile = "  v0123abcd4567_change_exit_ext4_ioctl      12     3\n  v999999999999_x_y     5    7\n\
                       \n  v0123abcd4567_delete_d_delete      100      1\n  broken";
        assert_eq!(sum_of_misses(profile, &probes.prefix), 4);
    }
}
