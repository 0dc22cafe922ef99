//! QEMU's command line for a machine.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::kvm;
use super::machine::Machine;
use crate::programs::Programs;

/// Raised when another QEMU is wanted than the one in the cache.
const CACHE_VERSION: u32 = 1;

impl Machine<'_> {
    /// Everything but starting it: disks by their serial numbers, ports by their names.
    pub(super) fn qemu(&self) -> Result<Command> {
        let accel = if kvm::usable(self.kernel)? {
            ["-accel", "kvm", "-cpu", "host"]
        } else if self.in_turns {
            TCG_IN_TURNS
        } else {
            TCG
        };
        // A machine must not outlive us, however we end: the kernel sees to it, which setpriv asks for.
        let mut cmd = Command::new("setpriv");
        cmd.args(["--pdeathsig", "KILL"]);
        let emulator = emulator()?;
        cmd.arg(emulator.get_program()).args(emulator.get_args());
        cmd.args(accel)
            .args(["-smp", "2", "-m", &format!("{}M", self.mem_mib)]);
        cmd.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-monitor",
            "none",
        ]);
        cmd.arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg("initramfs");
        cmd.args(["-append", &format!("{KERNEL_ARGS} {}", self.kernel_args)]);
        cmd.args([
            "-serial",
            "file:console.log",
            "-device",
            "virtio-rng-pci",
            "-device",
            "virtio-serial-pci",
        ]);
        for port in ["stdout", "stderr", "control"] {
            cmd.args(["-chardev", &format!("file,id={port},path={port}.log")]);
            cmd.args(["-device", &format!("virtserialport,chardev={port},name={port}")]);
        }
        // The job's disks come first, so that they also are vda, vdb, ... in the order given.
        for disk in self.disks.iter().filter(|d| !d.usb) {
            match &disk.write_log {
                Some(log) => add_logged_disk(&mut cmd, &disk.image, &disk.name, log)?,
                None => add_disk(&mut cmd, &disk.image, &disk.name, disk.read_only, false)?,
            }
        }
        add_disk(&mut cmd, self.root, "guest-root", false, true)?;
        add_disk(&mut cmd, Path::new("input.cpio"), "guest-input", true, false)?;
        add_disk(&mut cmd, Path::new("results.tar"), "guest-results", false, false)?;
        if self.disks.iter().any(|d| d.usb) {
            cmd.args(["-device", "qemu-xhci,id=usb"]);
        }
        for disk in self.disks.iter().filter(|d| d.usb) {
            if disk.pluggable {
                // A -drive would go along with its device.
                let node = format!(
                    "driver=raw,node-name={},discard=unmap,file.driver=file,file.filename={}",
                    disk.name,
                    option_value(&disk.image)?
                );
                cmd.args(["-blockdev", &node]);
            } else {
                cmd.arg("-drive")
                    .arg(drive(&disk.image, &disk.name, disk.read_only, false)?);
            }
            cmd.args(["-device", &usb_storage(&disk.name)]);
        }
        if self.disks.iter().any(|d| d.pluggable) {
            cmd.args([
                "-chardev",
                &format!("socket,id=monitor,path={MONITOR},server=on,wait=off"),
            ]);
            cmd.args(["-mon", "chardev=monitor,mode=readline"]);
        }
        let log = File::create(self.log("qemu")).context("create QEMU log")?;
        cmd.current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share QEMU log")?)
            .stderr(log);
        Ok(cmd)
    }
}

/// QEMU without any options but where its firmware lies. Always the one of Debian's stable release, whatever this host has: others take up to three times as
/// long for what a shell does.
pub(super) fn emulator() -> Result<Command> {
    let programs = Programs::ensure("qemu", &["qemu-system-x86"], CACHE_VERSION)?;
    let mut cmd = programs.command("usr/bin/qemu-system-x86_64")?;
    for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        cmd.arg("-L").arg(programs.dir(firmware));
    }
    Ok(cmd)
}

/// Emulation that works everywhere. Without a PMU, which kernels would try to use and fail.
pub(super) const TCG: [&str; 4] = ["-accel", "tcg,thread=multi", "-cpu", "max,pmu=off"];

/// The same, one processor after the other. At once, a processor may translate code after what was translated of it was thrown away and before another one
/// writes it, and run that for ever (QEMU 7.2 invalidated, then stored). Once a kernel that put probes in and out under load went on at address 0, as it does
/// where it meets a breakpoint that it has patched out: that fits, but nobody has shown it.
pub(super) const TCG_IN_TURNS: [&str; 4] = ["-accel", "tcg,thread=single", "-cpu", "max,pmu=off"];

/// Ends the guest on every kernel error, and gives slow emulation more time before it counts as locked up.
pub(super) const KERNEL_ARGS: &str = "console=ttyS0 quiet loglevel=5 panic=-1 oops=panic mitigations=off \
    watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120 usb_storage.delay_use=0 net.ifnames=0 \
    systemd.show_status=false random.trust_cpu=on tsc=reliable no_timer_check";

/// Socket of the monitor in the directory of a run.
pub(super) const MONITOR: &str = "monitor";

/// The device of a disk on a USB port: 512-byte blocks, a name and a serial number, as a stick from the shop.
pub(super) fn usb_storage(name: &str) -> String {
    format!(
        "usb-storage,bus=usb.0,id={},drive={name},serial={name},removable=on",
        usb_device(name)
    )
}

/// What the monitor calls that device.
pub(super) fn usb_device(name: &str) -> String {
    format!("port-{name}")
}

fn drive(image: &Path, name: &str, read_only: bool, snapshot: bool) -> Result<String> {
    let image = option_value(image)?;
    ensure!(
        name.len() <= 20 && !name.contains(','),
        "disk name {name:?} is too long or has a comma"
    );
    let (ro, snap) = (
        if read_only { "on" } else { "off" },
        if snapshot { "on" } else { "off" },
    );
    Ok(format!(
        "id={name},if=none,format=raw,cache=unsafe,discard=unmap,file={image},readonly={ro},snapshot={snap}"
    ))
}

/// A path as a value in one of QEMU's option lists: a comma is written twice.
fn option_value(path: &Path) -> Result<String> {
    let path = path.to_str().context("path of a disk image is not UTF-8")?;
    Ok(path.replace(',', ",,"))
}

/// A virtio disk with QEMU's blklogwrites driver on top: every write goes to the log, too.
fn add_logged_disk(cmd: &mut Command, image: &Path, name: &str, log: &Path) -> Result<()> {
    let (image, log) = (option_value(image)?, option_value(log)?);
    for node in [
        format!("driver=file,node-name={name}-file,filename={image},cache.no-flush=on,discard=unmap"),
        format!("driver=raw,node-name={name}-raw,file={name}-file,discard=unmap"),
        format!("driver=file,node-name={name}-log,filename={log},cache.no-flush=on"),
        // Flushes must reach this one: they make it write down how many entries the log has.
        format!(
            "driver=blklogwrites,node-name={name},file={name}-raw,log={name}-log,log-sector-size=512,discard=unmap"
        ),
    ] {
        cmd.args(["-blockdev", &node]);
    }
    cmd.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name}")]);
    Ok(())
}

fn add_disk(cmd: &mut Command, image: &Path, name: &str, read_only: bool, snapshot: bool) -> Result<()> {
    cmd.args(["-drive", &drive(image, name, read_only, snapshot)?]);
    cmd.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name}")]);
    Ok(())
}
