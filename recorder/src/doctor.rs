//! The doctor: what this host can record, and why not.
//!
//! Owns the examination and its text. With a path it attaches for a moment and lets the canary prove every hook.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramType;
use serde::Serialize;

use crate::canary::{self, Proof};
use crate::capture::{self, Capture, CaptureOptions, Hook, Kernel, Volume};

/// File systems that can be recorded.
const FS_TYPES: [&str; 3] = ["ext4", "xfs", "btrfs"];
/// Ring for the moment of a proof, in bytes.
const PROOF_RING_BYTES: u32 = 4 << 20;

/// What a file system needs, and the hook that serves it.
type Need = (&'static str, Option<Hook>);

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether this host can record.
    pub(crate) able: bool,
    /// `uname -r`.
    kernel: String,
    /// Why not, and what to do.
    problem: Option<String>,
    /// Facts about the kernel: name and value.
    facts: Vec<(&'static str, String)>,
    /// Per file system, what is needed and the kernel function that serves it (`null`: this kernel has none, or its module is not
    /// loaded).
    hooks: Vec<(&'static str, Vec<Need>)>,
    /// Result of the canary.
    proof: Option<Proof>,
}

/// Examines the host; with a path, proves the hooks on its file system.
pub(crate) fn examine(path: Option<&Path>) -> Report {
    let mut report = Report {
        able: false,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        problem: None,
        facts: facts(),
        hooks: Vec::new(),
        proof: None,
    };
    let result = look(&mut report).and_then(|()| path.map_or(Ok(()), |path| prove(&mut report, path)));
    match result {
        Ok(()) => report.able = true,
        Err(error) => report.problem = Some(format!("{error:#}")),
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

fn facts() -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    vec![
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
    ]
}

fn prove(report: &mut Report, path: &Path) -> Result<()> {
    let volume = Volume::resolve(path)?;
    ensure!(
        !capture::has_pins(&volume.uuid),
        "{} is being recorded: its hooks were proved when it was attached",
        volume.mount_point.display()
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
    let proof = report.proof.insert(proof?);
    proof.require(&hooks)
}

impl Report {
    /// For people. On a kernel that cannot record it is one line.
    pub(crate) fn as_text(&self) -> String {
        let Self {
            able,
            kernel,
            problem,
            facts,
            hooks,
            proof,
        } = self;
        if let (Some(problem), None) = (problem, proof) {
            return format!("kernel {kernel} cannot record: {problem}");
        }
        let mut lines = vec![format!("kernel {kernel} can record")];
        if !able {
            lines = vec![format!(
                "kernel {kernel} cannot record here: {}",
                problem.as_deref().unwrap_or("unknown")
            )];
        }
        lines.extend(facts.iter().map(|(name, value)| format!("  {name:<18}{value}")));
        for (fs_type, needs) in hooks {
            let module_missing = needs.iter().all(|(_, hook)| hook.is_none());
            lines.push(format!(
                "{fs_type}{}",
                if module_missing { ": module not loaded" } else { "" }
            ));
            for (what, hook) in needs {
                let function = hook
                    .as_ref()
                    .map_or("absent (module not loaded?)", |hook| hook.function);
                lines.push(format!("  {what:<34}{function}"));
            }
        }
        if let Some(Proof {
            proved,
            missing,
            unsupported,
        }) = proof
        {
            lines.push(format!("proved by doing: {}", proved.join(", ")));
            if !unsupported.is_empty() {
                lines.push(format!("not supported here: {}", unsupported.join(", ")));
            }
            if !missing.is_empty() {
                lines.push(format!("NOT SEEN: {}", missing.join(", ")));
            }
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_refuses_gives_one_line_with_what_to_do() {
        let report = Report {
            able: false,
            kernel: "6.18".to_owned(),
            problem: Some("this kernel refuses tracing programs: boot another".to_owned()),
            facts: facts(),
            hooks: Vec::new(),
            proof: None,
        };
        let text = report.as_text();
        assert_eq!(
            text,
            "kernel 6.18 cannot record: this kernel refuses tracing programs: boot another"
        );
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
