//! Answers the kernel. Owns the passage from the protocol of FUSE to the view and to reading, and nothing of what they say.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use tracing::info;

use super::reading::Past;
use super::view::{BLOCK_BYTES, NAME_BYTES_MAX, Space};

/// How long the kernel may remember what it was told: the past does not change.
const FOR_GOOD: Duration = Duration::from_secs(365 * 24 * 3600);
/// Inodes are never used again.
const GENERATION: Generation = Generation(0);
/// Files have no state of their own.
const HANDLE: FileHandle = FileHandle(0);
/// What is asked of the kernel, where it can: listings with attributes, listings side by side, link targets remembered, ACLs obeyed.
const CAPABILITIES: [InitFlags; 5] = [
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_POSIX_ACL,
];
/// `FS_IOC_GETFLAGS`, `FS_IOC_FSGETXATTR`: `lsattr` and `lsattr -p` ask so.
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
/// Of file flags (`FS_*_FL`) the bit that means the same in `fsx_xflags`: immutable, append only, synchronous, no access time, no dump,
/// children inherit the project.
const XFLAGS: [(u32, u32); 6] = [
    (0x10, 0x8),
    (0x20, 0x10),
    (0x8, 0x20),
    (0x80, 0x40),
    (0x40, 0x80),
    (0x2000_0000, 0x200),
];

/// A moment that the kernel asks about. What lives as long as the process is what `fuser` wants.
pub(super) struct Served(pub(super) &'static Past<'static>);

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            let _what_it_lacks_is_done_without = config.add_capabilities(capability);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        info!("unmounted; {} row groups were unpacked", self.0.cache.unpacked());
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let view = &self.0.view;
        let found = view
            .node_of(parent)
            .and_then(|directory| view.lookup(directory, name.as_bytes()));
        match found {
            Ok(node) => reply.entry(&FOR_GOOD, &view.attributes(node), GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.view.node_of(ino) {
            Ok(node) => reply.attr(&FOR_GOOD, &self.0.view.attributes(node)),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let view = &self.0.view;
        match view.node_of(ino).and_then(|node| view.link_target(node)) {
            Ok(target) => reply.data(target),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _request: &Request, _ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() == OpenAccMode::O_RDONLY {
            reply.opened(HANDLE, FopenFlags::FOPEN_KEEP_CACHE);
        } else {
            reply.error(Errno::EROFS);
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let node = self.0.view.node_of(ino);
        match node.and_then(|node| self.0.read(node, offset, size)) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    /// There is nothing to write when a file is closed.
    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(HANDLE, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let view = &self.0.view;
        match view.node_of(ino).and_then(|node| view.entries(node, offset)) {
            Ok(entries) => {
                for entry in entries {
                    let ino = view.ino_of(entry.node);
                    if reply.add(ino, entry.next, entry.kind(view), OsStr::from_bytes(entry.name)) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let view = &self.0.view;
        match view.node_of(ino).and_then(|node| view.entries(node, offset)) {
            Ok(entries) => {
                for entry in entries {
                    let attributes = view.attributes(entry.node);
                    let name = OsStr::from_bytes(entry.name);
                    if reply.add(
                        attributes.ino,
                        entry.next,
                        name,
                        &FOR_GOOD,
                        &attributes,
                        GENERATION,
                    ) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let Space { blocks, inodes } = self.0.view.space();
        reply.statfs(blocks, 0, 0, inodes, 0, BLOCK_BYTES, NAME_BYTES_MAX, BLOCK_BYTES);
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let view = &self.0.view;
        match view
            .node_of(ino)
            .and_then(|node| view.xattr(node, name.as_bytes()))
        {
            Ok(value) => sized(value, size, reply),
            Err(error) => reply.error(error),
        }
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let view = &self.0.view;
        match view.node_of(ino) {
            Ok(node) => sized(&view.xattr_names(node, request.uid() == 0), size, reply),
            Err(error) => reply.error(error),
        }
    }

    fn ioctl(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        command: u32,
        _input: &[u8],
        output_bytes: u32,
        reply: ReplyIoctl,
    ) {
        let flags = self.0.view.node_of(ino).map(|node| self.0.view.flags(node));
        match flags.and_then(|(flags, project)| answer(command, flags, project)) {
            Ok(mut output) => {
                // The kernel wants as much as it asked for: of the flags, 4 bytes or a `long`.
                output.resize(output_bytes.min(FSXATTR_BYTES) as usize, 0);
                reply.ioctl(0, &output);
            }
            Err(error) => reply.error(error),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let view = &self.0.view;
        match view.node_of(ino).and_then(|node| view.seek(node, offset, whence)) {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(error),
        }
    }
}

/// Bytes of `struct fsxattr`.
const FSXATTR_BYTES: u32 = 28;

/// What an ioctl gives, in the processor's byte order as all of the protocol.
fn answer(command: u32, flags: u32, project: u32) -> Result<Vec<u8>, Errno> {
    match command {
        FS_IOC_GETFLAGS => Ok(flags.to_ne_bytes().to_vec()),
        FS_IOC_FSGETXATTR => {
            let of = |(flag, xflag): (u32, u32)| if flags & flag == 0 { 0 } else { xflag };
            let xflags: u32 = XFLAGS.into_iter().map(of).sum();
            // Flags, extent size, extents, project; the rest is zero.
            let words = [xflags, 0, 0, project];
            Ok(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// Answers with a value, or where none of it is wanted with its length.
fn sized(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

#[cfg(test)]
mod tests {
    use fuser::Errno;

    use super::{FS_IOC_FSGETXATTR, FS_IOC_GETFLAGS, answer};

    #[test]
    fn flags_and_projects_are_told_as_the_kernel_has_them() {
        let (immutable_and_no_dump, project) = (0x10 | 0x40, 0x0102_0304);
        assert_eq!(
            answer(FS_IOC_GETFLAGS, immutable_and_no_dump, project).expect("known"),
            (0x50_u32).to_ne_bytes()
        );
        let all = answer(FS_IOC_FSGETXATTR, immutable_and_no_dump, project).expect("known");
        assert_eq!(all[..4], (0x8_u32 | 0x80).to_ne_bytes());
        assert_eq!(all[12..16], project.to_ne_bytes());
        assert_eq!(answer(0x1234, 0, 0).expect_err("unknown"), Errno::ENOTTY);
    }
}
