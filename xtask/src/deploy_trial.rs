//! The trial of `deploy`: a virtual machine with systemd, to which this very program deploys, both ways.
//!
//! Owns the machine of the trial and its verdict. The steps inside the guest are in `deploy_trial.sh`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::build::{self, Profile};
use crate::setup;
use crate::vm::kernel::{self, KernelLine};
use crate::vm::machine::{Machine, Shown};
use crate::vm::{self, DiskSource, root};

const SCRIPT: &str = include_str!("deploy_trial.sh");
/// Where everything that is brought in lies in the guest.
const GUEST_DIR: &str = "/opt/trial";
/// Room on each of the two disks: the recorded file system, the medium. Sparse.
const DISK_MIB: u64 = 1024;
const TIME_MAX: Duration = Duration::from_secs(600);

/// Deploys in a virtual machine: first to an untouched host, then over ssh with a volume configured; passes when what
/// is recorded there can be restored.
///
/// # Errors
/// When anything on the way fails.
pub(crate) fn pass() -> Result<()> {
    let kernel = kernel::ensure_kernel(KernelLine::K6_12)?;
    let root = root::ensure_root(&[])?;
    build::build_all(Profile::Dev)?;
    let dir = vm::run_dir("deploy")?;
    let script = dir.join("trial.sh");
    fs::write(&script, SCRIPT).context("write the trial's script")?;
    let library = setup::workspace_root().join("tests/scenarios/lib.sh");
    let itself = std::env::current_exe().context("find this program")?;
    let mut files = vec![
        (script, format!("{GUEST_DIR}/trial.sh")),
        (itself, format!("{GUEST_DIR}/xtask")),
        (library, format!("{GUEST_DIR}/lib.sh")),
    ];
    for name in ["recorder", "replayer", "oracle"] {
        files.push((vm::stripped(name)?, format!("{GUEST_DIR}/bin/{name}")));
    }
    let disk = |name: &str, usb: bool| DiskSource::Blank { mib: DISK_MIB }.open(&dir, name, usb);
    let machine = Machine {
        kernel: &kernel,
        root: &root,
        disks: vec![disk("origin", false)?, disk("medium", true)?],
        files,
        argv: ["/bin/bash", &format!("{GUEST_DIR}/trial.sh")]
            .map(str::to_owned)
            .to_vec(),
        env: Vec::new(),
        cwd: "/root".into(),
        systemd: true,
        mem_mib: 2048,
        timeout: TIME_MAX,
        dir: dir.clone(),
        kernel_args: String::new(),
        in_turns: false,
    };
    let ended = machine.run(&mut Shown)?;
    ensure!(
        ended.code == 0,
        "the trial ended with {}; its logs are in {}",
        ended.code,
        dir.display()
    );
    vm::finish(&dir, None::<PathBuf>.as_deref())?;
    setup::say(&format!(
        "the trial of deploy took {:.0} s",
        ended.took.as_secs_f64()
    ));
    Ok(())
}
