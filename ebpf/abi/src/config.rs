//! What the recorder tells the programs at load time, as the read-only global `CONFIG`.

use core::mem::size_of;

/// Stands for a struct member that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($($field:ident: $structure:literal . $member:literal,)*) => {
        /// Byte offsets of kernel struct members, read from the running kernel's BTF; [`ABSENT`] where it has no such member.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Offsets {
            $(
                #[doc = concat!("`", $structure, ".", $member, "`")]
                pub $field: u32,
            )*
        }

        impl Offsets {
            /// Struct and member of every field, in order: several spellings of a member are separated by '|'.
            pub const MEMBERS: &[(&'static str, &'static str)] = &[$(($structure, $member),)*];

            /// The offsets from values in the order of [`Offsets::MEMBERS`]; missing values are [`ABSENT`].
            pub fn from_values(values: &[u32]) -> Self {
                let mut values = values.iter().copied();
                Self { $($field: values.next().unwrap_or(ABSENT),)* }
            }
        }
    };
}

offsets! {
    inode_sb: "inode" . "i_sb",
    inode_ino: "inode" . "i_ino",
    inode_generation: "inode" . "i_generation",
    inode_mode: "inode" . "i_mode",
    inode_uid: "inode" . "i_uid",
    inode_gid: "inode" . "i_gid",
    inode_rdev: "inode" . "i_rdev",
    inode_nlink: "inode" . "i_nlink",
    inode_flags: "inode" . "i_flags",
    inode_size: "inode" . "i_size",
    inode_acl: "inode" . "i_acl",
    inode_default_acl: "inode" . "i_default_acl",
    inode_atime: "inode" . "i_atime|__i_atime",
    inode_mtime: "inode" . "i_mtime|__i_mtime",
    inode_ctime: "inode" . "i_ctime|__i_ctime",
    inode_atime_sec: "inode" . "i_atime_sec",
    inode_atime_nsec: "inode" . "i_atime_nsec",
    inode_mtime_sec: "inode" . "i_mtime_sec",
    inode_mtime_nsec: "inode" . "i_mtime_nsec",
    inode_ctime_sec: "inode" . "i_ctime_sec",
    inode_ctime_nsec: "inode" . "i_ctime_nsec",
    sb_dev: "super_block" . "s_dev",
    dentry_parent: "dentry" . "d_parent",
    dentry_inode: "dentry" . "d_inode",
    dentry_name: "dentry" . "d_name|__d_name",
    qstr_len: "qstr" . "len",
    qstr_name: "qstr" . "name",
    folio_mapping: "folio" . "mapping",
    folio_index: "folio" . "index",
    folio_flags: "folio" . "flags",
    folio_order: "folio" . "_folio_order",
    folio_flags_1: "folio" . "_flags_1",
    page_compound_head: "page" . "compound_head|compound_info",
    mapping_host: "address_space" . "host",
    file_inode: "file" . "f_inode",
    fault_vma: "vm_fault" . "vma",
    vma_file: "vm_area_struct" . "vm_file",
    iter_inode: "iomap_iter" . "inode",
    iter_pos: "iomap_iter" . "pos",
    iter_len: "iomap_iter" . "len",
    iter_flags: "iomap_iter" . "flags",
    dio_iocb: "iomap_dio" . "iocb",
    dio_size: "iomap_dio" . "size",
    dio_flags: "iomap_dio" . "flags",
    dio_error: "iomap_dio" . "error",
    kiocb_file: "kiocb" . "ki_filp",
    kiocb_pos: "kiocb" . "ki_pos",
    bio_opf: "bio" . "bi_opf",
    bio_io_vec: "bio" . "bi_io_vec",
    bio_iter: "bio" . "bi_iter",
    bvec_iter_size: "bvec_iter" . "bi_size",
    bvec_iter_idx: "bvec_iter" . "bi_idx",
    bvec_iter_done: "bvec_iter" . "bi_bvec_done|bi_offset",
    rename_old_dentry: "renamedata" . "old_dentry",
    rename_flags: "renamedata" . "flags",
    acl_count: "posix_acl" . "a_count",
    acl_entries: "posix_acl" . "a_entries",
}

/// Where a file system keeps what the VFS inode does not have: byte offsets in its own inode struct, from its module's BTF;
/// [`ABSENT`] where it has no such member.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Private {
    /// The VFS inode.
    pub inode: u32,
    /// Flags that chattr sets, in the file system's own encoding.
    pub flags: u32,
    /// Which of their bits a new file may have got from its directory.
    pub flags_mask: u32,
    /// Bytes of the flags: 2 or 4.
    pub flags_bytes: u32,
    /// Project id (u32).
    pub project: u32,
    /// btrfs: pointer to the root of the subvolume.
    pub root: u32,
    /// btrfs: number of the subvolume (u64) in that root.
    pub root_id: u32,
    /// xfs: the two files (`struct file *`) in the argument of an exchange of ranges.
    pub exchange_files: [u32; 2],
    /// Zero.
    pub pad: u32,
}

impl Default for Private {
    fn default() -> Self {
        Self {
            inode: ABSENT,
            flags: ABSENT,
            flags_mask: 0,
            flags_bytes: 4,
            project: ABSENT,
            root: ABSENT,
            root_id: ABSENT,
            exchange_files: [ABSENT; 2],
            pad: 0,
        }
    }
}

/// Most bytes of an inode that are read at once; a power of two.
pub const INODE_BYTES_MAX: u32 = 512;

impl Offsets {
    /// How many bytes of an inode hold all of its members but the superblock, the generation and the ACLs; a multiple of 8.
    pub fn inode_bytes(&self) -> u32 {
        const TIMESPEC_BYTES: u32 = 16;
        let ends = [
            (self.inode_ino, 8),
            (self.inode_mode, 2),
            (self.inode_uid, 4),
            (self.inode_gid, 4),
            (self.inode_rdev, 4),
            (self.inode_nlink, 4),
            (self.inode_flags, 4),
            (self.inode_size, 8),
            (self.inode_atime, TIMESPEC_BYTES),
            (self.inode_mtime, TIMESPEC_BYTES),
            (self.inode_ctime, TIMESPEC_BYTES),
            (self.inode_atime_sec, 8),
            (self.inode_atime_nsec, 4),
            (self.inode_mtime_sec, 8),
            (self.inode_mtime_nsec, 4),
            (self.inode_ctime_sec, 8),
            (self.inode_ctime_nsec, 4),
        ];
        let there = ends.iter().filter(|(offset, _)| *offset != ABSENT);
        let end = there.map(|(offset, bytes)| offset.saturating_add(*bytes)).max();
        end.unwrap_or(0).min(INODE_BYTES_MAX).next_multiple_of(8)
    }
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
    /// Number of the recorded btrfs subvolume; 0 where there are none.
    pub subvolume: u64,
    /// Bit number of `PG_head` in the flags of a folio.
    pub pg_head_bit: u32,
    /// Bit number of `PG_uptodate`.
    pub pg_uptodate_bit: u32,
    /// Of the file system's own inode.
    pub private: Private,
    /// Member offsets.
    pub offsets: Offsets,
    /// Bytes from the begin of an inode that hold all of its members but the superblock, the generation and the ACLs; a multiple of 8, below [`INODE_BYTES_MAX`].
    pub inode_bytes: u32,
    /// Zero.
    pub pad: [u32; 6],
}

/// Bits of [`Config::features`].
pub mod features {
    /// A folio knows its order in the low byte of `_flags_1`, not in `_folio_order`.
    pub const FOLIO_ORDER_IN_FLAGS: u64 = 1 << 0;
    /// Inode times are a `struct timespec64` each, not seconds and nanoseconds apart.
    pub const INODE_TIMES_ARE_STRUCTS: u64 = 1 << 1;
    /// Write-end functions are given pages, which may be tails of a folio.
    pub const WRITE_END_TAKES_PAGES: u64 = 1 << 2;
    /// Some inodes are excluded: look each up.
    pub const HAS_EXCLUDED: u64 = 1 << 3;
    /// A security module labels new inodes past all hooks.
    pub const CREATES_ARE_LABELLED: u64 = 1 << 4;
}

const _: () = assert!(size_of::<Config>().is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_read_up_to_the_last_member_that_is_told() {
        let near = Offsets {
            inode_size: 80,
            inode_ctime_nsec: 124,
            inode_ctime: ABSENT,
            inode_generation: 500,
            ..Offsets::default()
        };
        assert_eq!(near.inode_bytes(), 128);
        let structs = Offsets {
            inode_ctime: 120,
            ..near
        };
        assert_eq!(structs.inode_bytes(), 136);
        let far = Offsets {
            inode_uid: ABSENT - 1,
            ..near
        };
        assert_eq!(far.inode_bytes(), INODE_BYTES_MAX);
    }
}
