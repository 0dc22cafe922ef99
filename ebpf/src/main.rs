//! The eBPF programs: kprobes on the VFS paths of one recorded volume.
//!
//! Entries are thin: they find their arguments in the registers of one kernel's signature and call the logic of their family.
//! Every program filters by superblock first. A sequence number is taken under the kernel's lock that orders the
//! operation, and only once the event is certain. The programs know nothing of journals.
#![no_std]
#![no_main]
#![expect(
    internal_features,
    reason = "the target's atomics are only reachable as intrinsics"
)]
#![feature(core_intrinsics)]

mod attributes;
mod changes;
mod complain;
mod data;
mod emit;
mod kernel;
mod maps;
mod names;
mod ranges;
mod throttle;

use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};

/// Defines kprobe entries: `program => handler(argument indexes)`.
macro_rules! entries {
    ($($program:ident => $handler:path[$($argument:literal),*];)*) => {
        $(
            #[kprobe]
            pub fn $program(context: ProbeContext) -> u32 {
                $handler($(context.arg::<u64>($argument).unwrap_or(0)),*);
                0
            }
        )*
    };
}

entries! {
    // Buffered writes. `write_end7`: (.., .., pos, len, copied, page or folio, fsdata).
    write_end7 => data::write_end[2, 3, 4, 5];
    write_end4 => data::write_end[0, 1, 2, 3];
    iomap_write_end5 => data::iomap_write_end_at[0, 1, 2, 3, 4];
    iomap_write_end4 => data::iomap_write_end[0, 1, 2, 3];
    btrfs_dirty_pages => data::btrfs_dirty_pages[1, 3, 4];
    btrfs_dirty_folio => data::btrfs_dirty_folio[1, 2, 3];
    // Shared mappings.
    fault_dirty => data::fault_dirty[0];
    start_writeback => data::start_writeback[0];
    // O_DIRECT.
    dio_submit => data::dio_submit[0, 2, 3];
    dio_complete => data::dio_complete[0];
    dio_write_end => data::dio_write_end[0, 1, 2];
    // Names.
    instantiate => names::instantiate[0, 1];
    tmpfile => names::tmpfile[1];
    link_enter => names::link_enter[0];
    symlink_enter => names::symlink_enter[1, 3];
    rename_enter => names::rename_enter[0];
    new_inode => names::new_inode[0];
    delete => names::delete[0];
    rename => names::rename[0, 1];
    exchange => names::exchange[0, 1];
    evict => names::evict[0];
    // Attributes.
    setattr_dentry0 => attributes::setattr[0, 1];
    setattr_dentry1 => attributes::setattr[1, 2];
    setattr_dentry1_all => attributes::setattr_all[1];
    setxattr => attributes::setxattr[0, 1, 2, 3];
    removexattr => attributes::removexattr[0, 1];
    drop_xattr_enter => attributes::drop_xattr_enter[1, 2];
    cached_acl => attributes::cached_acl[0, 1, 2];
    fifo_enter => attributes::fifo_enter[0];
    times_enter => attributes::times_enter[0];
    times_set => attributes::times_set[0];
    xfs_times_set => attributes::xfs_times_set[1, 2];
    acl_enter_inode1 => attributes::acl_enter[1];
    acl_enter_dentry1 => attributes::acl_enter_dentry[1];
    // What is read anew.
    fileattr => changes::fileattr[1];
    ioctl => changes::ioctl[0, 1];
    two_files => changes::two_files[0, 1];
    two_inodes => changes::two_inodes[0, 1];
    exchange_range => changes::exchange_range[0];
    attribute_by_handle => changes::attribute_by_handle[1, 2];
    encoded_write => changes::encoded_write[0];
    // Ranges.
    fallocate_enter => ranges::fallocate_enter[0, 1, 2, 3];
    file_modified => ranges::file_modified[0];
    dio_wait => ranges::dio_wait[0];
    remap_enter => ranges::remap_enter[0, 1, 2, 3, 4, 5];
}

/// Defines kretprobe entries: `program => handler`, which is given the result.
macro_rules! exits {
    ($($program:ident => $handler:path;)*) => {
        $(
            #[kretprobe]
            pub fn $program(context: RetProbeContext) -> u32 {
                $handler(context.ret::<i64>());
                0
            }
        )*
    };
}

exits! {
    link_exit => names::link_exit;
    drop_xattr_exit => attributes::drop_xattr_exit;
    acl_exit => attributes::acl_exit;
    times_exit => attributes::times_exit;
    change_exit => changes::end;
    fallocate_exit => ranges::fallocate_exit;
    remap_prep_exit => ranges::remap_prep_exit;
    remap_exit => ranges::remap_exit;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
