//! How much memory this process may use, and sizes on the command line.

use std::fs;
use std::path::{Component, Path};

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Bytes of memory that this process may use: what the machine has, or its control group may take.
pub(super) fn usable_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    let physical = system.totalram.saturating_mul(system.mem_unit.into());
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = limit_of(&group, |path| {
        fs::read_to_string(Path::new(CGROUPS).join(path)).ok()
    });
    physical.min(limit.unwrap_or(u64::MAX))
}

/// The smallest `memory.max` of a control group and those above it. `groups` is `/proc/self/cgroup`; `read` reads below the mount point.
fn limit_of(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let parts = Path::new(group).components();
    // Seen from within a container, a group may lie above what is mounted.
    let path: std::path::PathBuf = parts
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    path.ancestors()
        .filter_map(|path| read(&path.join("memory.max"))?.trim().parse().ok())
        .min()
}

/// Parses a size in bytes, or in binary multiples of them: `1500000`, `512M`, `8G`.
///
/// # Errors
/// What it should be.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        Some(b'T' | b't') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| {
        "a number of bytes, or with K, M, G or T (powers of 1024), as in 512M or 8G".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("1500000"), Ok(1_500_000));
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("8g"), Ok(8 << 30));
        for wrong in ["", "M", "1.5G", "-1", "8GiB", "16777216T", "\u{e4}"] {
            assert!(parse_size(wrong).is_err(), "{wrong} passed");
        }
    }

    #[test]
    fn the_smallest_limit_above_counts() {
        let read = |path: &Path| {
            let limit = match path.to_str()? {
                "a/b/memory.max" => "max\n",
                "a/memory.max" => "4096\n",
                "memory.max" => "8192\n",
                _ => return None,
            };
            Some(limit.to_owned())
        };
        assert_eq!(limit_of("4:memory:/x\n0::/a/b\n", read), Some(4096));
        assert_eq!(limit_of("0::/\n", read), Some(8192));
        assert_eq!(limit_of("0::/../../other\n", read), Some(8192));
        assert_eq!(limit_of("0::/a/b\n", |_| None), None);
        assert_eq!(limit_of("4:memory:/x\n", read), None);
        assert!(usable_bytes() > 1 << 20);
    }
}
