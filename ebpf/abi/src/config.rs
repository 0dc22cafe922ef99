//! What the recorder tells the programs at load time, as the read-only global `CONFIG`.

use core::mem::size_of;

/// Byte offsets of kernel struct members, read from the running kernel's BTF. `u32::MAX` where this kernel has no such member.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `inode.i_sb`
    pub inode_sb: u32,
    /// `inode.i_ino`
    pub inode_ino: u32,
    /// `inode.i_generation`
    pub inode_generation: u32,
    /// `inode.i_mode`
    pub inode_mode: u32,
    /// `super_block.s_dev`
    pub sb_dev: u32,
    /// Zero.
    pub pad: u32,
}

/// Everything that a program must know of this kernel and this volume.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// `s_dev` of the recorded superblock in the kernel's encoding (major << 20 | minor); 0 records nothing.
    pub device: u32,
    /// Address of the kernel variable `vmemmap_base`, from kallsyms.
    pub vmemmap_base_address: u64,
    /// Address of the kernel variable `page_offset_base`, from kallsyms.
    pub page_offset_base_address: u64,
    /// Bits of [`features`].
    pub features: u64,
    /// Member offsets.
    pub offsets: Offsets,
}

/// Bits of [`Config::features`].
pub mod features {
    /// Folios know their order in `_flags_1` (6.5 and later), not in `_folio_order`.
    pub const FOLIO_ORDER_IN_FLAGS: u64 = 1;
}

const _: () = assert!(size_of::<Config>() % 8 == 0);
