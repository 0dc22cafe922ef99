//! Finds out, once a machine, whether KVM runs an ordinary guest here.
//!
//! A `/dev/kvm` that can be opened is not enough: under nested virtualisation it may exist and fail. So a kernel is
//! booted with it, and the answer kept in the cache.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use super::kernel::Kernel;
use super::machine::guest_init;
use super::qemu::{KERNEL_ARGS, emulator};
use crate::setup;

/// A guest under working KVM needs a second or two.
const PROBE_TIME_MAX: Duration = Duration::from_secs(20);

/// Whether to run guests under KVM.
///
/// # Errors
/// Only when the probe itself cannot be made; KVM that does not work is the answer `false`.
pub(super) fn usable(kernel: &Kernel) -> Result<bool> {
    if OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(false);
    }
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let answer = setup::cache_dir()?.join(format!("kvm-{}-{}", name.trim(), host.trim()));
    if let Ok(known) = fs::read_to_string(&answer) {
        return Ok(known.trim() == "yes");
    }
    setup::say("trying whether KVM runs a guest here (once)");
    let works = probe(kernel)?;
    setup::say(if works {
        "KVM works"
    } else {
        "KVM does not run a guest: using emulation, which is slower"
    });
    fs::write(&answer, if works { "yes\n" } else { "no\n" }).context("keep the answer about KVM")?;
    Ok(works)
}

fn probe(kernel: &Kernel) -> Result<bool> {
    let dir = tempfile::tempdir().context("create directory for the KVM probe")?;
    let mut out =
        BufWriter::new(File::create(dir.path().join("initramfs")).context("create probe initramfs")?);
    io::copy(
        &mut File::open(&kernel.modules).context("open modules archive")?,
        &mut out,
    )
    .context("copy modules")?;
    let mut archive = Archive::new(out);
    archive.tree(&guest_init()?, "init")?;
    archive.bytes("probe", 0o644, b"")?;
    archive.finish()?;
    let mut qemu = emulator()?
        .args([
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-smp",
            "2",
            "-m",
            "1024M",
            "-nodefaults",
            "-no-user-config",
        ])
        .args([
            "-no-reboot",
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            "file:console.log",
        ])
        .arg("-kernel")
        .arg(&kernel.image)
        .args(["-initrd", "initramfs", "-append", KERNEL_ARGS])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start QEMU")?;
    let started = Instant::now();
    while matches!(qemu.try_wait(), Ok(None)) && started.elapsed() < PROBE_TIME_MAX {
        std::thread::sleep(Duration::from_millis(100));
    }
    _ = qemu.kill();
    _ = qemu.wait();
    let console = fs::read(dir.path().join("console.log")).unwrap_or_default();
    Ok(String::from_utf8_lossy(&console).contains("GUEST-PROBE-OK"))
}
