//! Puts the eBPF object where the recorder's sources can include it: `include_bytes!(env!("TAPEWORM_BPF_OBJECT"))`.
//!
//! The object is built by `cargo xtask build`, never from here: checking and unit-testing the recorder must work
//! without the BPF tools. Where there is no object an empty one is included, and the recorder says so at run time.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Set from outside, names the object to include; without it, the place where `cargo xtask build` puts it.
const VARIABLE: &str = "TAPEWORM_BPF_OBJECT";

fn main() -> io::Result<()> {
    let variable = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .ok_or_else(|| io::Error::other(name.to_owned()))
    };
    let built = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../target/bpf/tapeworm.bpf.o");
    let object = env::var_os(VARIABLE).map_or(built, PathBuf::from);
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed={}", object.display());
    let included = variable("OUT_DIR")?.join("tapeworm.bpf.o");
    match fs::read(&object) {
        Ok(bytes) => fs::write(&included, bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && env::var_os(VARIABLE).is_none() => {
            fs::write(&included, b"")?;
        }
        Err(error) => return Err(io::Error::other(format!("read {}: {error}", object.display()))),
    }
    println!("cargo::rustc-env={VARIABLE}={}", included.display());
    Ok(())
}
