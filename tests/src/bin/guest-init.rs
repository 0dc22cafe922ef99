//! The first process of every test VM: from the initramfs to the job in the Debian guest root.
//!
//! Owns the guest's start: it loads the modules, mounts the root disk and the usual kernel file systems, runs the job,
//! and reports its exit code as the last line on the control port. It knows nothing of recording or restoring; that is
//! the job's own business. Started as process 1 it brings the guest up; started as `guest-init job` it runs the job,
//! which is how the systemd unit of `--systemd` does it.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{WaitOptions, chdir, chroot, wait};
use serde::{Deserialize, Serialize};

/// Where the Debian root is mounted before it becomes `/`.
const NEW_ROOT: &str = "/newroot";
/// Survives the change of root: a tmpfs, also under systemd, which keeps a `/run` that is already mounted.
const RUN_DIR: &str = "/run/guest";
/// How long a disk may take to appear.
const DISK_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long output of left-over background processes is still collected after the job ended.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// What the host wants done; written by xtask as `/job.json` into the initramfs.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    /// Program and arguments, started as root.
    argv: Vec<String>,
    /// Additional environment.
    env: Vec<(String, String)>,
    /// Working directory, created when absent.
    cwd: String,
    /// Whether systemd is the guest's process 1.
    systemd: bool,
    /// Serial number of the root disk.
    root_serial: String,
    /// Serial number of the disk with a cpio archive to unpack over the root.
    input_serial: Option<String>,
    /// Serial number of the disk that takes a tar archive of `/results` at the end.
    results_serial: Option<String>,
    /// Names of the virtio disks, which are their serial numbers: linked at `/dev/guest/NAME`.
    disks: Vec<String>,
    /// Names of the USB disks in the order of their ports.
    usb_disks: Vec<String>,
}

fn main() {
    let as_job = std::env::args().nth(1).is_some_and(|arg| arg == "job");
    let outcome = if as_job { run_job_and_report() } else { start() };
    if let Err(error) = outcome {
        eprintln!("guest-init: error: {error:#}");
        _ = report(125);
    }
    power_off();
}

/// Brings the guest up as process 1; returns only when the job has ended.
fn start() -> Result<()> {
    // /dev and /proc may already be there when process 1 is started by something else than our kernel.
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(target).with_context(|| format!("create {target}"))?;
        mount_kind(kind, target, MountFlags::empty(), "")?;
    }
    if Path::new("/probe").exists() {
        kernel_says("GUEST-PROBE-OK");
        power_off();
    }
    let job: Job = serde_json::from_slice(&fs::read("/job.json").context("read /job.json")?)
        .context("parse /job.json")?;
    load_modules(Path::new("/modules.load"))?;
    let root = disk_by_serial(&job.root_serial)?;
    fs::create_dir_all(NEW_ROOT).context("create mount point of the root")?;
    mount(&root, NEW_ROOT, "ext4", MountFlags::NOATIME, None)
        .with_context(|| format!("mount {}", root.display()))?;
    enter_new_root()?;
    if let Some(serial) = &job.input_serial {
        unpack_input(&disk_by_serial(serial)?)?;
    }
    if job.systemd {
        hand_over_to_systemd()?;
    }
    let own = std::env::args_os().next().unwrap_or_default();
    prepare_plain_guest()?;
    let child = Command::new(Path::new(RUN_DIR).join("guest-init"))
        .arg("job")
        .spawn()
        .with_context(|| format!("start the job stage of {}", own.display()))?;
    reap_until(child.id())
}

/// Mounts one of the kernel's own file systems.
fn mount_kind(kind: &str, target: &str, flags: MountFlags, data: &str) -> Result<()> {
    let data = CString::new(data).context("mount options")?;
    mount(kind, target, kind, flags, data.as_c_str()).with_context(|| format!("mount {kind} on {target}"))
}

/// Loads the modules that the list names, one path a line, in its order.
fn load_modules(list: &Path) -> Result<()> {
    for path in fs::read_to_string(list)
        .with_context(|| format!("read {}", list.display()))?
        .lines()
    {
        let module = File::open(path).with_context(|| format!("open module {path}"))?;
        match rustix::system::finit_module(&module, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            // A module for hardware that is not there (a CRC instruction, say) is no reason to stop.
            Err(rustix::io::Errno::NODEV) => {}
            Err(error) => bail!("load module {path}: {error}"),
        }
    }
    Ok(())
}

/// Waits for the virtio disk with the serial number and returns its device node.
fn disk_by_serial(serial: &str) -> Result<PathBuf> {
    wait_for(&format!("disk with serial number {serial}"), || {
        for entry in fs::read_dir("/sys/block").ok()?.flatten() {
            if fs::read_to_string(entry.path().join("serial")).is_ok_and(|s| s.trim() == serial) {
                return Some(Path::new("/dev").join(entry.file_name()));
            }
        }
        None
    })
}

/// Waits for `count` USB disks and returns their device nodes, ordered by port.
fn usb_disks(count: usize) -> Result<Vec<PathBuf>> {
    wait_for(&format!("{count} USB disks"), || {
        let mut found = Vec::new();
        for entry in fs::read_dir("/sys/block").ok()?.flatten() {
            let device = fs::read_link(entry.path()).ok()?;
            // A disk that is announced but not yet read shows the size 0.
            let ready = fs::read_to_string(entry.path().join("size")).is_ok_and(|s| s.trim() != "0");
            if device.to_string_lossy().contains("/usb") && ready {
                found.push((device, Path::new("/dev").join(entry.file_name())));
            }
        }
        found.sort();
        (found.len() >= count).then(|| found.into_iter().map(|(_, node)| node).collect())
    })
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(
            start.elapsed() < DISK_WAIT_MAX,
            "no {what} after {DISK_WAIT_MAX:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Makes the mounted Debian root the root directory of everything that follows.
fn enter_new_root() -> Result<()> {
    let new = Path::new(NEW_ROOT);
    let modules = new.join("usr/lib/modules");
    fs::create_dir_all(&modules).context("create /usr/lib/modules")?;
    mount_bind("/lib/modules", &modules).context("bind the modules into the root")?;
    for (kind, target) in [
        ("proc", "proc"),
        ("sysfs", "sys"),
        ("devtmpfs", "dev"),
        ("tmpfs", "run"),
    ] {
        mount_kind(kind, &new.join(target).to_string_lossy(), MountFlags::empty(), "")?;
    }
    let run = new.join(RUN_DIR.trim_start_matches('/'));
    fs::create_dir_all(&run).context("create the run directory")?;
    fs::copy("/init", run.join("guest-init")).context("copy guest-init")?;
    fs::copy("/job.json", run.join("job.json")).context("copy the job")?;
    chdir(new).context("enter the new root")?;
    mount_move(".", "/").context("move the new root")?;
    chroot(".").context("change root")?;
    chdir("/").context("enter /")
}

/// Unpacks the files that came with the job; the guest root has cpio.
fn unpack_input(disk: &Path) -> Result<()> {
    let input = File::open(disk).with_context(|| format!("open {}", disk.display()))?;
    let status = Command::new("/usr/bin/cpio")
        .args([
            "--extract",
            "--make-directories",
            "--unconditional",
            "--quiet",
            "--no-absolute-filenames",
        ])
        .current_dir("/")
        .stdin(input)
        .status()
        .context("start cpio")?;
    ensure!(status.success(), "unpack the files of the job: {status}");
    Ok(())
}

/// Writes the unit that starts the job once the system is up, and becomes systemd. Returns only on failure.
fn hand_over_to_systemd() -> Result<()> {
    let unit = format!(
        "[Unit]\nDescription=Job of the test VM\nAfter=multi-user.target\n\
         [Service]\nType=simple\nExecStart={RUN_DIR}/guest-init job\nStandardError=journal+console\n\
         KillMode=process\nTimeoutStopSec=5\nDelegate=yes\n"
    );
    let units = Path::new("/run/systemd/system");
    fs::create_dir_all(units.join("multi-user.target.wants")).context("create unit directory")?;
    fs::write(units.join("guest-job.service"), unit).context("write unit of the job")?;
    symlink(
        units.join("guest-job.service"),
        units.join("multi-user.target.wants/guest-job.service"),
    )
    .context("enable unit of the job")?;
    let error = std::os::unix::process::CommandExt::exec(Command::new("/sbin/init").env("container", ""));
    bail!("start systemd: {error}")
}

/// What systemd would do: the remaining kernel file systems, links in /dev, loopback.
fn prepare_plain_guest() -> Result<()> {
    for dir in ["/dev/pts", "/dev/shm"] {
        fs::create_dir_all(dir).with_context(|| format!("create {dir}"))?;
    }
    mount_kind("devpts", "/dev/pts", MountFlags::empty(), "mode=620,ptmxmode=666")?;
    mount_kind("tmpfs", "/dev/shm", MountFlags::empty(), "mode=1777")?;
    mount_kind("tmpfs", "/tmp", MountFlags::empty(), "mode=1777")?;
    mount_kind("cgroup2", "/sys/fs/cgroup", MountFlags::empty(), "")?;
    mount_kind("bpf", "/sys/fs/bpf", MountFlags::empty(), "mode=700")?;
    mount_kind("tracefs", "/sys/kernel/tracing", MountFlags::empty(), "")?;
    mount_kind("debugfs", "/sys/kernel/debug", MountFlags::empty(), "")?;
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        symlink(target, link).with_context(|| format!("link {link}"))?;
    }
    fs::write("/proc/sys/kernel/hostname", "guest").context("set host name")?;
    let loopback = Command::new("/usr/sbin/ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("start ip")?;
    ensure!(loopback.success(), "bring up loopback: {loopback}");
    Ok(())
}

/// Collects every process that ends, as process 1 must, until the job stage does.
fn reap_until(pid: u32) -> Result<()> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, _))) if u32::try_from(ended.as_raw_nonzero().get()).is_ok_and(|p| p == pid) => {
                return Ok(());
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!("wait for the job: {error}"),
        }
    }
}

/// Runs the job with its output on the ports, saves its results, reports its exit code.
fn run_job_and_report() -> Result<()> {
    let job: Job =
        serde_json::from_slice(&fs::read(Path::new(RUN_DIR).join("job.json")).context("read job")?)
            .context("parse job")?;
    link_disks(&job)?;
    fs::create_dir_all("/results").context("create /results")?;
    tell_host("GUEST-JOB")?;
    let code = run_job(&job)?;
    if let Some(serial) = &job.results_serial {
        save_results(&disk_by_serial(serial)?)?;
    }
    // Nothing may be left in the page cache of a disk that the job did not unmount.
    rustix::fs::sync();
    report(code)
}

/// Gives every disk its name under /dev/guest.
fn link_disks(job: &Job) -> Result<()> {
    let dir = Path::new("/dev/guest");
    fs::create_dir_all(dir).context("create /dev/guest")?;
    for name in &job.disks {
        symlink(disk_by_serial(name)?, dir.join(name)).with_context(|| format!("link disk {name}"))?;
    }
    for (name, node) in job.usb_disks.iter().zip(usb_disks(job.usb_disks.len())?) {
        symlink(node, dir.join(name)).with_context(|| format!("link disk {name}"))?;
    }
    Ok(())
}

fn run_job(job: &Job) -> Result<u8> {
    let (program, args) = job.argv.split_first().context("the job names no program")?;
    fs::create_dir_all(&job.cwd).with_context(|| format!("create {}", job.cwd))?;
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .envs([
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            ("TERM", "dumb"),
        ])
        .envs(job.env.iter().map(|(k, v)| (k, v)))
        .current_dir(&job.cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    // The ports can be opened only once, so the job gets pipes, which it may open again through /dev/stdout.
    let (done, wait_done) = mpsc::channel();
    let mut relays = 0;
    for (from, port) in [
        (child.stdout.take().map(std::os::fd::OwnedFd::from), "stdout"),
        (child.stderr.take().map(std::os::fd::OwnedFd::from), "stderr"),
    ] {
        let (from, mut to, done) = (
            from.context("no pipe from the job")?,
            open_port(port)?,
            done.clone(),
        );
        relays += 1;
        thread::spawn(move || {
            if let Err(error) = relay(File::from(from), &mut to) {
                eprintln!("guest-init: error: relay output: {error}");
            }
            _ = done.send(());
        });
    }
    let status = child.wait().context("wait for the job")?;
    let end = Instant::now() + OUTPUT_GRACE;
    for _ in 0..relays {
        if wait_done
            .recv_timeout(end.saturating_duration_since(Instant::now()))
            .is_err()
        {
            break;
        }
    }
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    Ok(match (status.code(), signal) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, signal) => u8::try_from(128 + signal.unwrap_or(127)).unwrap_or(u8::MAX),
    })
}

fn relay(mut from: File, to: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens the virtio port that the host gave this name.
fn open_port(name: &str) -> Result<File> {
    let node = wait_for(&format!("port {name}"), || {
        for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
            if fs::read_to_string(entry.path().join("name")).is_ok_and(|s| s.trim() == name) {
                return Some(Path::new("/dev").join(entry.file_name()));
            }
        }
        None
    })?;
    OpenOptions::new()
        .write(true)
        .open(&node)
        .with_context(|| format!("open {}", node.display()))
}

/// Writes `/results` as a tar archive straight onto the disk.
fn save_results(disk: &Path) -> Result<()> {
    let status = Command::new("/usr/bin/tar")
        .arg("--create")
        .arg("--file")
        .arg(disk)
        .args(["--directory", "/results", "."])
        .status()
        .context("start tar")?;
    ensure!(status.success(), "save the results: {status}");
    let device = File::open(disk).with_context(|| format!("open {}", disk.display()))?;
    device
        .sync_all()
        .with_context(|| format!("sync {}", disk.display()))
}

/// The last line that the host waits for; without it the host takes the run for failed.
fn report(code: u8) -> Result<()> {
    tell_host(&format!("GUEST-EXIT {code}"))
}

fn tell_host(line: &str) -> Result<()> {
    let mut port = open_port("control")?;
    port.write_all(format!("{line}\n").as_bytes())
        .with_context(|| format!("tell the host {line:?}"))
}

/// Puts a line on the console through the kernel log, which works before any port exists.
fn kernel_says(line: &str) {
    match OpenOptions::new().write(true).open("/dev/kmsg") {
        Ok(mut log) => _ = log.write_all(format!("<0>{line}\n").as_bytes()),
        Err(error) => eprintln!("{line} ({error})"),
    }
}

/// Ends the machine. QEMU runs with -no-reboot, so a restart ends it where switching off is not possible.
fn power_off() -> ! {
    rustix::fs::sync();
    _ = io::stderr().flush();
    _ = io::stderr().as_raw_fd();
    _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}
