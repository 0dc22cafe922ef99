//! Programs of Debian's stable release, whatever release this host runs: unpacked into the cache with everything that they need, and started with
//! their own loader and libraries.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{debian, setup};

const SUITE: &str = "trixie";
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// Where some lie.
pub(crate) struct Programs {
    root: PathBuf,
}

impl Programs {
    /// Provides these packages; `version` is to be raised when they change, or the way in which they are unpacked.
    ///
    /// # Errors
    /// When they are not in the cache and cannot be downloaded.
    pub(crate) fn ensure(name: &str, packages: &[&str], version: u32) -> Result<Self> {
        let base = setup::cache_dir()?.join("programs");
        fs::create_dir_all(&base).with_context(|| format!("create {}", base.display()))?;
        let root = base.join(format!("{name}-{SUITE}-v{version}"));
        let path = base.join(format!("{name}.lock"));
        let lock = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        lock.lock().with_context(|| format!("lock {}", path.display()))?;
        if !root.exists() {
            let work = tempfile::tempdir_in(&base).context("create scratch directory")?;
            debian::unpack_with_dependencies(SUITE, packages, work.path())?;
            fs::rename(work.keep(), &root).with_context(|| format!("move {name} into the cache"))?;
        }
        Ok(Self { root })
    }

    /// A directory of theirs, as `usr/share/NAME`.
    pub(crate) fn dir(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Starts one of them, as `usr/bin/NAME`.
    ///
    /// # Errors
    /// When it, or the loader, is not there.
    pub(crate) fn command(&self, path: &str) -> Result<Command> {
        let loader = ["usr/lib64", "lib64"]
            .map(|dir| self.root.join(dir).join("ld-linux-x86-64.so.2"))
            .into_iter()
            .find(|path| path.exists())
            .with_context(|| format!("find the loader below {}", self.root.display()))?;
        let libraries = LIBRARIES.map(|dir| self.root.join(dir).display().to_string());
        let program = self.dir(path);
        let program = fs::canonicalize(&program).with_context(|| format!("find {}", program.display()))?;
        let mut cmd = Command::new(loader);
        cmd.arg("--library-path").arg(libraries.join(":")).arg(program);
        Ok(cmd)
    }
}
