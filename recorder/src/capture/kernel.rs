//! What the running kernel is like: struct offsets and signatures from its BTF, addresses from kallsyms.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};

use abi::{ABSENT, Offsets, Private};
use anyhow::{Context, Result, bail, ensure};
use btf_rs::{Btf, BtfType, Struct, Type};

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";
/// The file systems that can be recorded.
const FS_TYPES: [&str; 3] = ["ext4", "xfs", "btrfs"];
/// Depth of anonymous structs inside structs.
const NESTING_MAX: u32 = 8;

/// Members that some kernels have and others do without: the programs are told which.
const DEPENDS_ON_VERSION: &[&str] = &[
    "i_atime|__i_atime",
    "i_mtime|__i_mtime",
    "i_ctime|__i_ctime",
    "i_atime_sec",
    "i_atime_nsec",
    "i_mtime_sec",
    "i_mtime_nsec",
    "i_ctime_sec",
    "i_ctime_nsec",
    "_folio_order",
    "_flags_1",
    "compound_head|compound_info",
];

/// Functions whose signature decides between programs.
const SIGNATURES: &[&str] = &["block_write_end", "iomap_write_end", "set_posix_acl"];

/// Flags of an inode that its file system lets a new file have from its directory, in its own encoding: `EXT4_*_FL`.
const EXT4_FLAGS: u32 = 0x6203_c0ff;
/// `XFS_DIFLAG_*`: immutable, append, sync, noatime, nodump, projinherit.
const XFS_FLAGS: u32 = 0x2f8;
/// `BTRFS_INODE_*`: nodatacow, nocompress, sync, immutable, append, nodump, noatime, dirsync, compress.
const BTRFS_FLAGS: u32 = 0xfea;

/// The running kernel.
pub(crate) struct Kernel {
    /// `uname -r`.
    pub(crate) release: String,
    /// Struct member offsets.
    pub(crate) offsets: Offsets,
    /// Address of `vmemmap_base`.
    pub(crate) vmemmap_base_address: u64,
    /// Address of `page_offset_base`.
    pub(crate) page_offset_base_address: u64,
    /// Bit number of `PG_head`.
    pub(crate) pg_head_bit: u32,
    /// Bit number of `PG_uptodate`.
    pub(crate) pg_uptodate_bit: u32,
    /// Whether block_write_end is given a page, not a folio.
    pub(crate) write_end_takes_pages: bool,
    missing_members: Vec<String>,
    functions: HashSet<String>,
    parameters: HashMap<&'static str, Vec<String>>,
    private: HashMap<&'static str, Private>,
}

impl Kernel {
    /// Reads BTF and kallsyms.
    ///
    /// # Errors
    /// What this kernel does not offer.
    pub(crate) fn read() -> Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("read the kernel's release")?
            .trim()
            .to_owned();
        let btf = Btf::from_file(BTF_PATH).with_context(|| {
            format!("read {BTF_PATH}: the kernel must be built with CONFIG_DEBUG_INFO_BTF")
        })?;
        let symbols = Symbols::read()?;
        let mut missing_members = Vec::new();
        let mut offsets = Vec::with_capacity(Offsets::MEMBERS.len());
        for (structure, members) in Offsets::MEMBERS {
            let offset = members
                .split('|')
                .find_map(|member| offset_of(&btf, structure, member));
            if offset.is_none() && !DEPENDS_ON_VERSION.contains(members) {
                missing_members.push(format!("{structure}.{members}"));
            }
            offsets.push(offset.unwrap_or(ABSENT));
        }
        let mut parameters = HashMap::new();
        let mut write_end_takes_pages = false;
        for &function in SIGNATURES {
            if let Some(types) = parameter_types(&btf, function) {
                write_end_takes_pages |=
                    function == "block_write_end" && types.iter().any(|name| name == "page");
                parameters.insert(function, types);
            }
        }
        Ok(Self {
            release,
            offsets: Offsets::from_values(&offsets),
            vmemmap_base_address: symbols.vmemmap_base,
            page_offset_base_address: symbols.page_offset_base,
            pg_head_bit: enum_value(&btf, "pageflags", "PG_head")?,
            pg_uptodate_bit: enum_value(&btf, "pageflags", "PG_uptodate")?,
            write_end_takes_pages,
            missing_members,
            functions: symbols.functions,
            parameters,
            private: FS_TYPES
                .iter()
                .filter_map(|&fs_type| Some((fs_type, private_of(&btf, fs_type)?)))
                .collect(),
        })
    }

    /// Where a file system keeps what is its own.
    ///
    /// # Errors
    /// A file system whose module is not loaded, or whose BTF lacks what must be known.
    pub(crate) fn private(&self, fs_type: &str) -> Result<Private> {
        self.private.get(fs_type).copied().with_context(|| {
            format!(
                "kernel {}: there is no usable BTF of {fs_type} in /sys/kernel/btf (CONFIG_DEBUG_INFO_BTF_MODULES)",
                self.release
            )
        })
    }

    /// Whether a function is there, modules included.
    pub(crate) fn has_function(&self, name: &str) -> bool {
        self.functions.contains(name)
    }

    /// What a function's parameters point to (empty for what is no pointer to a struct), for those whose signature matters.
    pub(crate) fn parameters(&self, name: &str) -> Option<&[String]> {
        self.parameters.get(name).map(Vec::as_slice)
    }

    /// Whether programs can be trusted here.
    ///
    /// # Errors
    /// What to change.
    pub(crate) fn check_usable(&self) -> Result<()> {
        ensure!(
            self.vmemmap_base_address != 0 && self.page_offset_base_address != 0,
            "/proc/kallsyms shows no addresses: run as root, with sysctl kernel.kptr_restrict at 0 or 1"
        );
        let preempt = fs::read_to_string("/sys/kernel/debug/sched/preempt").unwrap_or_default();
        if self.release.starts_with("6.1.") && preempt.contains("(full)") {
            bail!(
                "kernel {} runs with preempt=full, where it skips probes without counting: boot with preempt=voluntary",
                self.release
            );
        }
        ensure!(
            self.missing_members.is_empty(),
            "kernel {}: its BTF has no {}: this recorder does not know this kernel yet",
            self.release,
            self.missing_members.join(", ")
        );
        Ok(())
    }
}

struct Symbols {
    functions: HashSet<String>,
    vmemmap_base: u64,
    page_offset_base: u64,
}

impl Symbols {
    fn read() -> Result<Self> {
        let file = File::open("/proc/kallsyms").context("open /proc/kallsyms")?;
        let mut symbols = Self {
            functions: HashSet::new(),
            vmemmap_base: 0,
            page_offset_base: 0,
        };
        for line in BufReader::new(file).lines() {
            let line = line.context("read /proc/kallsyms")?;
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            match name {
                "vmemmap_base" => symbols.vmemmap_base = u64::from_str_radix(address, 16).unwrap_or(0),
                "page_offset_base" => {
                    symbols.page_offset_base = u64::from_str_radix(address, 16).unwrap_or(0);
                }
                _ if matches!(kind, "t" | "T") => {
                    symbols.functions.insert(name.to_owned());
                }
                _ => {}
            }
        }
        Ok(symbols)
    }
}

/// The layout of a file system's own inode; `None` where its module is not loaded or does not have what is needed.
fn private_of(kernel: &Btf, fs_type: &str) -> Option<Private> {
    // A file system that is built in has its types in the kernel's own BTF.
    let module = Btf::from_split_file(format!("/sys/kernel/btf/{fs_type}"), kernel).ok();
    let btf = module.as_ref().unwrap_or(kernel);
    let member = |structure, member| offset_of(btf, structure, member);
    let optional = |structure, name| member(structure, name).unwrap_or(ABSENT);
    Some(match fs_type {
        "ext4" => Private {
            inode: member("ext4_inode_info", "vfs_inode")?,
            flags: member("ext4_inode_info", "i_flags")?,
            flags_mask: EXT4_FLAGS,
            project: member("ext4_inode_info", "i_projid")?,
            ..Private::default()
        },
        "xfs" => Private {
            inode: member("xfs_inode", "i_vnode")?,
            flags: member("xfs_inode", "i_diflags")?,
            flags_mask: XFS_FLAGS,
            flags_bytes: 2,
            project: member("xfs_inode", "i_projid")?,
            exchange_files: [
                optional("xfs_exchrange", "file1"),
                optional("xfs_exchrange", "file2"),
            ],
            ..Private::default()
        },
        _ => Private {
            inode: member("btrfs_inode", "vfs_inode")?,
            flags: member("btrfs_inode", "flags")?,
            flags_mask: BTRFS_FLAGS,
            root: member("btrfs_inode", "root")?,
            // A key begins with the number.
            root_id: member("btrfs_root", "root_key")?,
            ..Private::default()
        },
    })
}

fn offset_of(btf: &Btf, structure: &str, member: &str) -> Option<u32> {
    btf.resolve_types_by_name(structure)
        .ok()?
        .into_iter()
        .find_map(|found| match found {
            Type::Struct(found) | Type::Union(found) => member_offset(btf, &found, member, 0),
            _ => None,
        })
}

fn member_offset(btf: &Btf, structure: &Struct, wanted: &str, depth: u32) -> Option<u32> {
    if depth > NESTING_MAX {
        return None;
    }
    structure.members.iter().find_map(|member| {
        let here = member.bit_offset() / 8;
        let name = btf.resolve_name(member).unwrap_or_default();
        if name == wanted {
            return Some(here);
        }
        if !name.is_empty() {
            return None;
        }
        let inner = unqualified(btf, btf.resolve_chained_type(member).ok()?)?;
        member_offset(btf, &inner, wanted, depth + 1).map(|offset| here + offset)
    })
}

/// The struct or union behind qualifiers.
fn unqualified(btf: &Btf, mut found: Type) -> Option<Struct> {
    for _ in 0..NESTING_MAX {
        found = match found {
            Type::Struct(found) | Type::Union(found) => return Some(found),
            Type::Const(found) => btf.resolve_chained_type(&found).ok()?,
            Type::Volatile(found) => btf.resolve_chained_type(&found).ok()?,
            _ => return None,
        };
    }
    None
}

fn enum_value(btf: &Btf, name: &str, member: &str) -> Result<u32> {
    for found in btf
        .resolve_types_by_name(name)
        .with_context(|| format!("find enum {name}"))?
    {
        if let Type::Enum(found) = found {
            for item in &found.members {
                if btf.resolve_name(item).is_ok_and(|found| found == member) {
                    return Ok(item.val());
                }
            }
        }
    }
    bail!("the kernel's BTF has no {member}")
}

/// Names of the structs that a function's parameters point to, empty for others.
fn parameter_types(btf: &Btf, function: &str) -> Option<Vec<String>> {
    let found = btf
        .resolve_types_by_name(function)
        .ok()?
        .into_iter()
        .find_map(|found| match found {
            Type::Func(function) => Some(function),
            _ => None,
        })?;
    let Type::FuncProto(proto) = btf.resolve_chained_type(&found).ok()? else {
        return None;
    };
    Some(
        proto
            .parameters
            .iter()
            .map(|parameter| pointed_to(btf, parameter).unwrap_or_default())
            .collect(),
    )
}

fn pointed_to(btf: &Btf, parameter: &dyn BtfType) -> Option<String> {
    let Type::Ptr(pointer) = btf.resolve_chained_type(parameter).ok()? else {
        return None;
    };
    match btf.resolve_chained_type(&pointer).ok()? {
        Type::Struct(found) => btf.resolve_name(&found).ok(),
        _ => None,
    }
}
