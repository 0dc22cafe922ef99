//! The doctor: what this host can record, and why not.
//!
//! Owns the examination and its text. With a path it attaches for a moment and lets the canary prove every hook.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramType;
use serde::Serialize;

use crate::canary::{self, Proof};
use crate::capture::{self, Capture, CaptureOptions, Hook, Kernel, SUPPORT, Support, Volume};

/// File systems that can be recorded.
const FS_TYPES: [&str; 3] = ["ext4", "xfs", "btrfs"];
/// Ring for the moment of a proof, in bytes.
const PROOF_RING_BYTES: u32 = 4 << 20;

/// What a file system needs, and the hook that serves it.
type Need = (&'static str, Option<Hook>);

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether this host can record, and what is mounted at the path that was asked for.
    pub(crate) able: bool,
    /// `uname -r`.
    kernel: String,
    /// Why this host cannot, and what to do.
    problem: Option<String>,
    /// Facts about the kernel: name and value.
    facts: Vec<(&'static str, String)>,
    /// Which file systems can be recorded, and why others cannot.
    file_systems: &'static [Support],
    /// Per file system, what is needed and the kernel function that serves it (`null`: this kernel has none, or its module is not
    /// loaded).
    hooks: Vec<(&'static str, Vec<Need>)>,
    /// What was asked for.
    place: Option<Place>,
}

/// A path, and whether what is mounted there can be recorded.
#[derive(Debug, Default, Serialize)]
struct Place {
    /// As given.
    path: PathBuf,
    /// Whether every hook was proved.
    able: bool,
    /// Why not, and what to do.
    problem: Option<String>,
    /// Type of the file system.
    fs_type: Option<String>,
    /// Its uuid.
    uuid: Option<String>,
    /// What the canary did and saw.
    proof: Option<Proof>,
}

/// Examines the host; with a path, proves the hooks on its file system.
pub(crate) fn examine(path: Option<&Path>) -> Report {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut report = Report {
        able: false,
        problem: None,
        facts: facts(&kernel),
        kernel,
        file_systems: SUPPORT,
        hooks: Vec::new(),
        place: None,
    };
    if let Err(error) = look(&mut report) {
        report.problem = Some(format!("{error:#}"));
        return report;
    }
    report.able = true;
    if let Some(path) = path {
        let place = report.place.insert(Place {
            path: path.to_owned(),
            ..Place::default()
        });
        match prove(place) {
            Ok(()) => place.able = true,
            Err(error) => place.problem = Some(format!("{error:#}")),
        }
        report.able = place.able;
    }
    report
}

fn look(report: &mut Report) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root can look into the kernel: run `sudo recorder doctor`"
    );
    programs_allowed()?;
    let kernel = Kernel::read()?;
    kernel.check_usable()?;
    report.hooks = FS_TYPES
        .map(|fs_type| (fs_type, capture::survey(&kernel, fs_type)))
        .into();
    let bpffs = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    ensure!(
        bpffs
            .lines()
            .any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")),
        "the BPF file system is not mounted: run `mount -t bpf bpf /sys/fs/bpf`"
    );
    Ok(())
}

/// Whether the kernel takes the programs that the recorder is made of: asked by loading the smallest one.
fn programs_allowed() -> Result<()> {
    const REMEDY: &str = "boot a kernel with CONFIG_BPF_SYSCALL, CONFIG_KPROBES, CONFIG_BPF_EVENTS and CONFIG_DEBUG_INFO_BTF \
                          (every Debian kernel has them), without lockdown=confidentiality";
    match aya::sys::is_program_supported(ProgramType::KProbe) {
        Ok(true) => {}
        Ok(false) => anyhow::bail!("this kernel refuses tracing programs: {REMEDY}"),
        Err(error) => {
            return Err(anyhow::Error::from(error))
                .with_context(|| format!("this kernel refuses tracing programs: {REMEDY}"));
        }
    }
    let kprobes = Path::new("/sys/bus/event_source/devices/kprobe").exists();
    ensure!(
        kprobes,
        "this kernel refuses tracing programs (it has no kprobes): {REMEDY}"
    );
    Ok(())
}

fn facts(kernel: &str) -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let mut facts = vec![
        ("BTF", yes_no(Path::new("/sys/kernel/btf/vmlinux").exists())),
        (
            "lockdown",
            read("/sys/kernel/security/lockdown").unwrap_or_else(|_| "not there".to_owned()),
        ),
        (
            "security modules",
            read("/sys/kernel/security/lsm").unwrap_or_else(|_| "unknown".to_owned()),
        ),
        (
            "preemption",
            read("/sys/kernel/debug/sched/preempt").unwrap_or_else(|_| "unknown".to_owned()),
        ),
        (
            "kptr_restrict",
            read("/proc/sys/kernel/kptr_restrict").unwrap_or_else(|_| "unknown".to_owned()),
        ),
    ];
    if xfs_loses_on_unshare(kernel) {
        let fault = "Linux 5.10 to 6.11 lose data by themselves where a part of a cloned file is unshared (fallocate --unshare) before other parts \
                     are written back (unless mended by 4390f019ad78): the journal has it, the disk has not";
        facts.push(("XFS", fault.to_owned()));
    }
    facts
}

/// From 46afb0628b86 to 4390f019ad78, by the release as `uname -r` gives it: whether its kernel was mended later is not told.
fn xfs_loses_on_unshare(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => ((5, 10)..(6, 12)).contains(&(major, minor)),
        _ => false,
    }
}

/// Attaches for a moment and does everything once.
fn prove(place: &mut Place) -> Result<()> {
    let volume = Volume::resolve(&place.path)?;
    place.fs_type = Some(volume.fs_type.clone());
    place.uuid = Some(volume.uuid.clone());
    ensure!(
        !capture::has_pins(&volume.uuid),
        "it is being recorded, or was by a recorder that died: see `recorder status`; its hooks were proved when it was attached"
    );
    let options = CaptureOptions {
        ring_bytes: PROOF_RING_BYTES,
        excluded_inodes: Vec::new(),
    };
    let mut capture = Capture::attach(&volume, &options).inspect_err(|_| {
        if capture::has_pins(&volume.uuid)
            && let Err(error) = capture::remove_stale_pins(&volume.uuid)
        {
            tracing::error!("remove programs: {error:#}");
        }
    })?;
    let proof = capture
        .take_ring()
        .and_then(|mut ring| canary::prove(&volume.mount_point, &volume.fs_type, &mut ring));
    let hooks = capture.hooks().to_vec();
    capture.detach()?;
    place.proof.insert(proof?).require(&hooks)
}

impl Report {
    /// For people. On a kernel that cannot record it is one line; with a path the first line is about that.
    pub(crate) fn as_text(&self) -> String {
        let Self {
            able: _,
            kernel,
            problem,
            facts,
            file_systems,
            hooks,
            place,
        } = self;
        if let Some(problem) = problem {
            return format!("kernel {kernel} cannot record: {problem}");
        }
        let mut lines = place.as_ref().map_or_else(Vec::new, Place::as_lines);
        lines.push(format!("kernel {kernel} can record"));
        lines.extend(facts.iter().map(|(name, value)| format!("  {name:<18}{value}")));
        for (title, supported) in [("can be recorded", true), ("are refused", false)] {
            lines.push(format!("file systems that {title}"));
            let chosen = file_systems.iter().filter(|known| known.supported == supported);
            lines.extend(chosen.map(|known| format!("  {:<18}{}", known.fs_type, known.remark)));
        }
        for (fs_type, needs) in hooks {
            // Most hooks are the kernel's own, so only what is missing tells whether the module is there.
            lines.push(format!("hooks on {fs_type}"));
            for (what, hook) in needs {
                let function = hook
                    .as_ref()
                    .map_or("absent, or its module is not loaded", |hook| hook.function);
                lines.push(format!("  {what:<34}{function}"));
            }
        }
        lines.join("\n")
    }
}

impl Place {
    fn as_lines(&self) -> Vec<String> {
        let Self {
            path,
            able: _,
            problem,
            fs_type,
            uuid,
            proof,
        } = self;
        let what = match (fs_type, uuid) {
            (Some(fs_type), Some(uuid)) => format!(" ({fs_type}, volume {uuid})"),
            _ => String::new(),
        };
        let path = path.display();
        let mut lines = vec![match problem {
            Some(problem) => format!("{path}{what} cannot be recorded: {problem}"),
            None => format!("{path}{what} can be recorded"),
        }];
        if let Some(Proof {
            proved,
            missing,
            unsupported,
        }) = proof
        {
            lines.push(format!("  proved by doing    {}", proved.join(", ")));
            if !unsupported.is_empty() {
                lines.push(format!("  not supported here {}", unsupported.join(", ")));
            }
            if !missing.is_empty() {
                lines.push(format!("  NOT SEEN           {}", missing.join(", ")));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_refuses_gives_one_line_with_what_to_do() {
        let report = Report {
            problem: Some("this kernel refuses tracing programs: boot another".to_owned()),
            ..report(None)
        };
        assert_eq!(
            report.as_text(),
            "kernel 6.18 cannot record: this kernel refuses tracing programs: boot another"
        );
    }

    fn report(place: Option<Place>) -> Report {
        Report {
            able: false,
            kernel: "6.18".to_owned(),
            problem: None,
            facts: facts("6.18"),
            file_systems: SUPPORT,
            hooks: Vec::new(),
            place,
        }
    }

    #[test]
    fn a_path_that_is_refused_comes_first_and_does_not_blame_the_kernel() {
        let place = Place {
            path: "/x".into(),
            problem: Some("it is tmpfs".to_owned()),
            ..Place::default()
        };
        let text = report(Some(place)).as_text();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("/x cannot be recorded: it is tmpfs"));
        assert_eq!(lines.next(), Some("kernel 6.18 can record"));
        for part in [
            "file systems that can be recorded",
            "  ext4",
            "file systems that are refused",
            "  overlay",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn kernels_whose_xfs_loses_data_are_told() {
        let loses = ["5.10.0", "6.1.0-50-amd64", "6.11.9"];
        let sound = ["5.9.16", "6.12.117+deb13-amd64", "7.3.4", "unknown", ""];
        assert!(loses.into_iter().all(xfs_loses_on_unshare));
        assert!(!sound.into_iter().any(xfs_loses_on_unshare));
    }

    #[test]
    fn what_was_not_seen_is_named() {
        let proof = Proof {
            missing: vec!["rename"],
            ..Proof::default()
        };
        let error = proof.require(&[]).unwrap_err().to_string();
        assert!(error.contains("rename"), "{error}");
    }
}
