//! The list of all kinds of operations, with how often each is drawn.

use rustix::io::Errno;

use super::world::Step;
use super::{attributes, content, names, queued, ranges};

/// What an operation came to.
pub(super) type Done = Result<(), Errno>;

/// A kind of operation.
#[derive(Debug)]
pub struct Kind {
    /// As in plans, traces and counts.
    pub name: &'static str,
    /// How often it is drawn, relative to the others.
    pub(super) weight: u64,
    /// Executes one.
    pub(super) act: fn(&mut Step<'_>) -> Done,
}

const fn kind(name: &'static str, weight: u64, act: fn(&mut Step<'_>) -> Done) -> Kind {
    Kind { name, weight, act }
}

/// Every kind. The order is part of what a seed means.
pub static KINDS: &[Kind] = &[
    kind("open", 12, names::open),
    kind("close", 4, names::close),
    kind("pwrite", 10, content::pwrite),
    kind("writev", 4, content::writev),
    kind("append", 5, content::append),
    kind("append-flag", 3, content::append_flag),
    kind("sync-write", 2, content::sync_write),
    kind("direct-write", 8, content::direct_write),
    kind("direct-unaligned", 2, content::direct_unaligned),
    kind("far-write", 1, content::far_write),
    kind("map", 6, content::map),
    kind("store", 10, content::store),
    kind("msync", 2, content::msync_some),
    kind("unmap", 2, content::unmap),
    kind("fsync", 1, content::fsync),
    kind("uring-write", 4, queued::uring_write),
    kind("uring-fixed", 2, queued::uring_fixed),
    kind("aio-write", 3, queued::aio_write),
    kind("sendfile", 3, ranges::sendfile),
    kind("splice", 2, ranges::splice),
    kind("vmsplice", 2, ranges::vmsplice),
    kind("copy-range", 3, ranges::copy_range),
    kind("clone", 2, ranges::clone),
    kind("clone-range", 4, ranges::clone_range),
    kind("dedupe", 2, ranges::dedupe),
    kind("truncate", 3, ranges::truncate),
    kind("ftruncate", 5, ranges::ftruncate),
    kind("allocate", 2, ranges::allocate),
    kind("allocate-keep-size", 2, ranges::allocate_keep_size),
    kind("punch-hole", 3, ranges::punch_hole),
    kind("zero-range", 3, ranges::zero_range),
    kind("zero-keep-size", 1, ranges::zero_keep_size),
    kind("collapse", 2, ranges::collapse),
    kind("insert", 2, ranges::insert),
    kind("unshare", 1, ranges::unshare),
    kind("mknod-fifo", 1, names::mknod_fifo),
    kind("mknod-socket", 1, names::mknod_socket),
    kind("mknod-character", 1, names::mknod_character),
    kind("mknod-block", 1, names::mknod_block),
    kind("mknod-file", 1, names::mknod_file),
    kind("mkdir", 7, names::mkdir),
    kind("symlink", 2, names::symlink),
    kind("link", 5, names::link),
    kind("tmpfile", 3, names::tmpfile),
    kind("link-open", 3, names::link_open),
    kind("unlink", 6, names::unlink),
    kind("rmdir", 2, names::rmdir),
    kind("remove-tree", 1, names::remove_tree),
    kind("rename", 7, names::rename),
    kind("rename-noreplace", 2, names::rename_noreplace),
    kind("rename-exchange", 3, names::rename_exchange),
    kind("rename-whiteout", 2, names::rename_whiteout),
    kind("rename-directory", 4, names::rename_directory),
    kind("exchange-directory", 2, names::exchange_directory),
    kind("chmod", 3, attributes::chmod),
    kind("fchmod", 2, attributes::fchmod),
    kind("chown", 3, attributes::chown),
    kind("utimens", 4, attributes::utimens),
    kind("set-user-xattr", 3, attributes::set_user_xattr),
    kind("set-trusted-xattr", 2, attributes::set_trusted_xattr),
    kind("set-security-xattr", 1, attributes::set_security_xattr),
    kind("set-capability", 1, attributes::set_capability),
    kind("remove-xattr", 3, attributes::remove_xattr),
    kind("set-acl", 3, attributes::set_acl),
    kind("set-default-acl", 3, attributes::set_default_acl),
    kind("remove-acl", 2, attributes::remove_acl),
    kind("set-flags", 2, attributes::set_flags),
    kind("append-only", 1, attributes::append_only),
];
