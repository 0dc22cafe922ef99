//! `cargo xtask vm run`: one machine, one script.
//!
//! Owns the plain form, without recording: what is recorded and restored is the business of `roundtrip`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use super::figures::{Figures, Noted};
use super::kernel::{self, KernelLine};
use super::machine::{Machine, Sink, Through};
use super::{DiskSource, check_script, finish, parse_disk, parse_file, root, run_dir, stripped};
use crate::build::{self, Profile};
use crate::{Outcome, setup};

/// Where the script lies in the guest.
pub(super) const GUEST_SCRIPT: &str = "/opt/job/script";
/// What scripts of one directory share, if there is such a file: the script may source it.
const LIBRARY: &str = "lib.sh";
pub(super) const GUEST_LIBRARY: &str = "/opt/job/lib.sh";

/// Arguments of `cargo xtask vm run`.
#[derive(Args)]
pub(crate) struct RunArgs {
    /// Kernel to boot
    #[arg(long, value_enum)]
    kernel: KernelLine,
    /// Script (or any executable) to run as root; without a first line `#!...` bash runs it. A lib.sh beside it is in the guest
    /// as /opt/job/lib.sh
    #[arg(long)]
    script: PathBuf,
    /// Blank disk of so many MiB, or a raw image; in the guest /dev/guest/disk0, disk1, ... and /dev/vda, vdb, ...
    #[arg(long, value_name = "MIB|IMAGE", value_parser = parse_disk)]
    disk: Vec<DiskSource>,
    /// The same on a USB port: /dev/guest/usb0, usb1, ...
    #[arg(long, value_name = "MIB|IMAGE", value_parser = parse_disk)]
    usb: Vec<DiskSource>,
    /// File or directory to bring into the guest
    #[arg(long, value_name = "HOST:GUEST", value_parser = parse_file)]
    file: Vec<(PathBuf, String)>,
    /// Further Debian package in the guest
    #[arg(long, value_name = "DEB")]
    package: Vec<String>,
    /// Memory, MiB
    #[arg(long, default_value_t = 2048)]
    mem: u32,
    /// Time the whole run may take, seconds
    #[arg(long, value_name = "S", default_value_t = 600)]
    timeout: u64,
    /// Boot systemd, and run the script when the system is up
    #[arg(long)]
    systemd: bool,
    /// Build recorder, replayer and oracle and put them into the guest's /usr/local/bin
    #[arg(long)]
    binaries: bool,
    /// Added to the kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    kernel_args: String,
    /// Emulate the processors in turns, not at once: where probes come and go under load, QEMU may run code that is not there any more
    #[arg(long)]
    in_turns: bool,
    /// Keep disks, logs and what the script left in /results in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(super) fn run(args: RunArgs) -> Outcome {
    boot(&args, &mut Through).map(ExitCode::from)
}

/// A script of the tests in a machine with the project's programs.
pub(crate) struct Scripted<'a> {
    pub(crate) kernel: KernelLine,
    pub(crate) script: PathBuf,
    /// Sizes of blank disks, MiB.
    pub(crate) disks: &'a [u64],
    /// Sizes of blank USB disks, MiB.
    pub(crate) usb: &'a [u64],
    /// Time the whole run may take, seconds.
    pub(crate) timeout: u64,
    /// Added to the kernel's command line.
    pub(crate) kernel_args: String,
    /// Emulate the processors in turns.
    pub(crate) in_turns: bool,
}

/// Runs it; returns its exit code, and the figures that it printed.
///
/// # Errors
/// When the machine cannot be made or does not end by itself.
pub(crate) fn scripted(scripted: Scripted<'_>) -> Result<(u8, Figures)> {
    let Scripted {
        kernel,
        script,
        disks,
        usb,
        timeout,
        kernel_args,
        in_turns,
    } = scripted;
    let blank = |sizes: &[u64]| sizes.iter().map(|&mib| DiskSource::Blank { mib }).collect();
    let mut noted = Noted::new(Through);
    let args = RunArgs {
        kernel,
        script,
        disk: blank(disks),
        usb: blank(usb),
        file: Vec::new(),
        package: Vec::new(),
        mem: 2048,
        timeout,
        systemd: false,
        binaries: true,
        kernel_args,
        in_turns,
        keep: None,
    };
    let code = boot(&args, &mut noted)?;
    Ok((code, noted.figures))
}

/// A script that measures in a machine, with programs that were built for it.
pub(crate) struct Measuring<'a> {
    pub(crate) kernel: KernelLine,
    pub(crate) script: PathBuf,
    /// Host path and guest path of what it needs.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Further Debian packages.
    pub(crate) packages: &'a [&'a str],
    /// Sizes of blank disks, MiB.
    pub(crate) disks: &'a [u64],
    /// Memory, MiB.
    pub(crate) mem: u32,
    /// Time the whole run may take, seconds.
    pub(crate) timeout: u64,
    /// Directory on the host that gets what it left in `/results`, and the logs.
    pub(crate) keep: &'a Path,
}

/// Runs it; what it prints goes to `sink`. Returns its exit code.
///
/// # Errors
/// When the machine cannot be made or does not end by itself.
pub(crate) fn measuring(measuring: Measuring<'_>, sink: &mut dyn Sink) -> Result<u8> {
    let Measuring {
        kernel,
        script,
        files,
        packages,
        disks,
        mem,
        timeout,
        keep,
    } = measuring;
    let args = RunArgs {
        kernel,
        script,
        disk: disks.iter().map(|&mib| DiskSource::Blank { mib }).collect(),
        usb: Vec::new(),
        file: files,
        package: packages.iter().map(ToString::to_string).collect(),
        mem,
        timeout,
        systemd: false,
        binaries: false,
        kernel_args: String::new(),
        in_turns: false,
        keep: Some(keep.to_path_buf()),
    };
    boot(&args, sink)
}

fn boot(args: &RunArgs, sink: &mut dyn Sink) -> Result<u8> {
    check_script(&args.script)?;
    let kernel = kernel::ensure_kernel(args.kernel)?;
    let root = root::ensure_root(&args.package)?;
    build::build_test_program("guest-init")?;
    let dir = run_dir("run")?;
    let mut disks = Vec::new();
    for (usb, sources, prefix) in [(false, &args.disk, "disk"), (true, &args.usb, "usb")] {
        for (number, source) in sources.iter().enumerate() {
            disks.push(source.open(&dir, &format!("{prefix}{number}"), usb)?);
        }
    }
    let mut files = args.file.clone();
    if args.binaries {
        files.extend(project_binaries(None)?);
    }
    files.push((args.script.clone(), GUEST_SCRIPT.into()));
    let library = args.script.with_file_name(LIBRARY);
    if library.is_file() {
        files.push((library, GUEST_LIBRARY.into()));
    }
    let machine = Machine {
        kernel: &kernel,
        root: &root,
        disks,
        files,
        argv: script_command(&args.script)?,
        env: Vec::new(),
        cwd: "/root".into(),
        systemd: args.systemd,
        mem_mib: args.mem,
        timeout: Duration::from_secs(args.timeout),
        dir: dir.clone(),
        kernel_args: args.kernel_args.clone(),
        in_turns: args.in_turns,
    };
    let ended = machine.run(sink)?;
    for warning in &ended.warnings {
        setup::say(&format!("the guest's kernel warns: {warning}"));
    }
    setup::say(&format!(
        "kernel {}: script ended with {} after {:.1} s",
        kernel.release,
        ended.code,
        ended.took.as_secs_f64()
    ));
    finish(&dir, args.keep.as_deref())?;
    Ok(ended.code)
}

/// The project's programs and where they go in the guest: built now, or as they lie in `bin_dir`.
pub(super) fn project_binaries(bin_dir: Option<&Path>) -> Result<Vec<(PathBuf, String)>> {
    match bin_dir {
        Some(_) => build::build_test_program("guest-init")?,
        None => _ = build::build_all(Profile::Dev)?,
    }
    let host = |name: &str| match bin_dir {
        Some(dir) => {
            fs::canonicalize(dir.join(name)).with_context(|| format!("find {name} in {}", dir.display()))
        }
        None => stripped(name),
    };
    ["recorder", "replayer", "oracle"]
        .iter()
        .map(|name| Ok((host(name)?, format!("/usr/local/bin/{name}"))))
        .collect()
}

/// How the guest starts the script: itself when it can, otherwise through bash.
pub(super) fn script_command(script: &Path) -> Result<Vec<String>> {
    let start = fs::read(script).with_context(|| format!("read script {}", script.display()))?;
    let mode = fs::metadata(script)
        .with_context(|| format!("look at {}", script.display()))?
        .permissions()
        .mode();
    let itself = mode & 0o111 != 0 && (start.starts_with(b"#!") || start.starts_with(b"\x7fELF"));
    Ok(if itself {
        vec![GUEST_SCRIPT.into()]
    } else {
        vec!["/bin/bash".into(), GUEST_SCRIPT.into()]
    })
}
