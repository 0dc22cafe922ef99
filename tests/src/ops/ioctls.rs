//! The file systems' own ioctls that change files, and the older ones that all of them share.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};

use super::declare::{Context, FileSystem, Limit, Operation, operation};
use super::sys::{self, Request, request_code};
use super::util::{content, expect, filled, shell};

use FileSystem::{Btrfs, Ext4, Xfs};

const ONLY_EXT4: Limit = Limit::never(
    &[Xfs, Btrfs],
    &[libc::ENOTTY, libc::EOPNOTSUPP],
    "an ioctl of ext4",
);
const ONLY_XFS: Limit = Limit::never(
    &[Ext4, Btrfs],
    &[libc::ENOTTY, libc::EOPNOTSUPP],
    "an ioctl of XFS",
);
const ONLY_BTRFS: Limit = Limit::never(
    &[Ext4, Xfs],
    &[libc::ENOTTY, libc::EOPNOTSUPP],
    "an ioctl of btrfs",
);

/// Ranges by ioctl: captured as fallocate is.
pub(super) const RANGES: &[Operation] = &[
    operation("ioctl-resvsp", "FS_IOC_RESVSP: fallocate by ioctl", |c| {
        preallocate(c, RESVSP)
    }),
    operation("ioctl-unresvsp", "FS_IOC_UNRESVSP: a hole by ioctl", |c| {
        preallocate(c, UNRESVSP)
    }),
    operation("ioctl-zero-range", "FS_IOC_ZERO_RANGE: zeros by ioctl", |c| {
        preallocate(c, ZERO_RANGE)
    }),
];

/// What changes content or identity in ways of its own.
pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "ioctl-setversion",
        "FS_IOC_SETVERSION: another generation",
        set_version,
    )
    .limited(&[
        Limit::never(
            &[Ext4],
            &[libc::ENOTTY],
            "not with metadata checksums, as mkfs makes it",
        ),
        Limit::never(&[Xfs, Btrfs], &[libc::ENOTTY], "an ioctl of ext4"),
    ]),
    operation(
        "ext4-move-ext",
        "EXT4_IOC_MOVE_EXT: blocks exchanged with a donor",
        move_extents,
    )
    .limited(&[ONLY_EXT4]),
    operation(
        "ext4-swap-boot",
        "EXT4_IOC_SWAP_BOOT: content exchanged with the boot loader's inode",
        swap_boot,
    )
    .limited(&[ONLY_EXT4]),
    operation(
        "ext4-migrate",
        "a file taken from extents to blocks and back",
        migrate,
    )
    .limited(&[Limit::never(
        &[Xfs, Btrfs],
        &[libc::EOPNOTSUPP],
        "an attribute of ext4",
    )]),
    operation(
        "xfs-swapext",
        "XFS_IOC_SWAPEXT: content exchanged, as xfs_fsr does it",
        swap_extents,
    )
    .limited(&[ONLY_XFS]),
    operation("xfs-exchange-range", "XFS_IOC_EXCHANGE_RANGE", exchange_range).limited(&[
        Limit::below(&[Xfs], (6, 10), &[libc::ENOTTY], "since Linux 6.10"),
        ONLY_XFS,
    ]),
    operation(
        "xfs-attrmulti",
        "XFS_IOC_ATTRMULTI_BY_HANDLE: attributes set and removed past the VFS",
        attributes_by_handle,
    )
    .limited(&[ONLY_XFS]),
    operation(
        "btrfs-encoded-write",
        "BTRFS_IOC_ENCODED_WRITE: compressed bytes",
        encoded_write,
    )
    .limited(&[ONLY_BTRFS]),
    operation("btrfs-defrag", "BTRFS_IOC_DEFRAG, with compression", defrag).limited(&[ONLY_BTRFS]),
];

/// `struct space_resv`.
#[repr(C)]
struct SpaceReserve {
    kind: i16,
    whence: i16,
    pad: u32,
    start: i64,
    bytes: i64,
    sysid: i32,
    pid: u32,
    reserved: [i32; 4],
}

const RESVSP: u8 = 42;
const UNRESVSP: u8 = 43;
const ZERO_RANGE: u8 = 57;

fn preallocate(context: &Context, number: u8) -> Result<()> {
    // SAFETY: SpaceReserve has the layout of struct space_resv, which all three take.
    let request: Request<SpaceReserve> = unsafe { Request::new(request_code(1, b'X', number, 48)) };
    for (name, start, bytes) in [("inside", 8192, 40_960), ("over-the-end", 90_000, 50_000)] {
        let file = filled(name, context.seed, 100_000)?;
        let mut argument = SpaceReserve {
            kind: 0,
            whence: 0,
            pad: 0,
            start,
            bytes,
            sysid: 0,
            pid: 0,
            reserved: [0; 4],
        };
        request.call(&file, &mut argument).context("reserve space")?;
        file.write_all_at(b"afterwards", 20_000).context("write")?;
        let zeros = number != RESVSP;
        let mut got = [1; 1000];
        file.read_exact_at(&mut got, 30_000).context("read")?;
        ensure!(
            name != "inside" || (got == [0; 1000]) == zeros,
            "the ioctl did something else"
        );
    }
    Ok(())
}

fn set_version(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 1000)?;
    sys::set_generation(&file, 4711).context("FS_IOC_SETVERSION")?;
    file.write_all_at(b"afterwards", 100).context("write")
}

/// `struct move_extent`.
#[repr(C)]
struct MoveExtent {
    reserved: u32,
    donor: u32,
    start: u64,
    donor_start: u64,
    blocks: u64,
    moved: u64,
}

// SAFETY: MoveExtent has the layout of struct move_extent.
const MOVE_EXT: Request<MoveExtent> = unsafe { Request::new(request_code(3, b'f', 15, 40)) };

fn move_extents(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 200_000)?;
    // The donor has what the file has, as a defragmenter sees to it; or not, then only the file's content counts.
    let donor = filled("donor", context.seed ^ 1, 200_000)?;
    for file in [&file, &donor] {
        file.sync_all().context("fsync")?;
    }
    let donor_fd = u32::try_from(donor.as_raw_fd()).context("descriptor")?;
    let mut argument = MoveExtent {
        reserved: 0,
        donor: donor_fd,
        start: 0,
        donor_start: 0,
        blocks: 10,
        moved: 0,
    };
    MOVE_EXT.call(&file, &mut argument).context("EXT4_IOC_MOVE_EXT")?;
    ensure!(argument.moved > 0, "nothing was moved");
    file.write_all_at(b"afterwards", 5000).context("write")?;
    expect(&file, 0, &content(context.seed, 5000))
}

fn swap_boot(context: &Context) -> Result<()> {
    // SAFETY: this ioctl has no argument; the kernel does not look at the one it is given.
    let request: Request<u64> = unsafe { Request::new(request_code(0, b'f', 17, 0)) };
    for (name, bytes) in [("first", 50_000), ("second", 9_000)] {
        let file = filled(name, context.seed ^ bytes, usize::try_from(bytes)?)?;
        file.sync_all().context("fsync")?;
        request.call(&file, &mut 0).context("EXT4_IOC_SWAP_BOOT")?;
    }
    // What the first gave away is now in the second.
    let second = File::open("second").context("open")?;
    expect(&second, 0, &content(context.seed ^ 50_000, 50_000))
}

fn migrate(context: &Context) -> Result<()> {
    const EXTENTS: u64 = 0x8_0000;
    let file = filled("to-blocks", context.seed, 30_000)?;
    file.sync_all().context("fsync")?;
    if context.fs != Ext4 {
        // The flag is set nowhere else, so that taking it away is no test.
        return sys::add_flags(&file, EXTENTS);
    }
    sys::remove_flags(&file, EXTENTS)?;
    ensure!(sys::flags(&file)? & EXTENTS == 0, "the file still has extents");
    file.write_all_at(&content(context.seed ^ 1, 10_000), 25_000)
        .context("write")?;
    let back = filled("and-back", context.seed ^ 2, 30_000)?;
    back.sync_all().context("fsync")?;
    sys::remove_flags(&back, EXTENTS)?;
    sys::add_flags(&back, EXTENTS)?;
    back.write_all_at(b"afterwards", 40_000).context("write")
}

fn swap_extents(context: &Context) -> Result<()> {
    if context.fs != Xfs {
        return Err(io::Error::from_raw_os_error(libc::ENOTTY)).context("there is no such file system");
    }
    // Only the tool knows the old layout of the stat inside; it wants a file that nobody changed since.
    filled("one", context.seed, 65_536)?.sync_all().context("fsync")?;
    filled("two", context.seed ^ 1, 65_536)?
        .sync_all()
        .context("fsync")?;
    shell("before=$(cksum < two); xfs_io -c 'swapext two' one; [ \"$(cksum < one)\" = \"$before\" ]")?;
    let one = super::util::reopen("one", 0)?;
    one.write_all_at(b"afterwards", 1000).context("write")
}

/// `struct xfs_exchange_range`.
#[repr(C)]
struct ExchangeRange {
    file: i32,
    pad: u32,
    offset1: u64,
    offset2: u64,
    bytes: u64,
    flags: u64,
}

// SAFETY: ExchangeRange has the layout of struct xfs_exchange_range.
const EXCHANGE_RANGE: Request<ExchangeRange> = unsafe { Request::new(request_code(1, b'X', 129, 40)) };

fn exchange_range(context: &Context) -> Result<()> {
    let one = filled("one", context.seed, 131_072)?;
    let two = filled("two", context.seed ^ 1, 131_072)?;
    let fd = two.as_raw_fd();
    let mut argument = ExchangeRange {
        file: fd,
        pad: 0,
        offset1: 65_536,
        offset2: 8192,
        bytes: 32_768,
        flags: 0,
    };
    EXCHANGE_RANGE
        .call(&one, &mut argument)
        .context("XFS_IOC_EXCHANGE_RANGE")?;
    one.write_all_at(b"afterwards", 20_000).context("write")?;
    expect(&one, 8192, &content(context.seed ^ 1, 131_072)[65_536..70_000])
}

/// `struct xfs_fsop_handlereq`.
#[repr(C)]
struct HandleRequest {
    fd: u32,
    path: u64,
    open_flags: u32,
    handle: u64,
    handle_bytes: u32,
    out_handle: u64,
    out_bytes: u64,
}

/// `struct xfs_attr_multiop`.
#[repr(C)]
struct AttributeChange {
    what: u32,
    error: i32,
    name: u64,
    value: u64,
    bytes: u32,
    flags: u32,
}

/// `struct xfs_fsop_attrmulti_handlereq`.
#[repr(C)]
struct AttributeRequest {
    handle: HandleRequest,
    count: u32,
    changes: u64,
}

// SAFETY: HandleRequest has the layout of struct xfs_fsop_handlereq; its addresses are valid where it is called.
const FD_TO_HANDLE: Request<HandleRequest> = unsafe { Request::new(request_code(3, b'X', 106, 56)) };
// SAFETY: AttributeRequest has the layout of struct xfs_fsop_attrmulti_handlereq; as above.
const ATTRMULTI: Request<AttributeRequest> = unsafe { Request::new(request_code(1, b'X', 123, 72)) };

fn attributes_by_handle(context: &Context) -> Result<()> {
    const SET: u32 = 2;
    const REMOVE: u32 = 3;
    const TRUSTED: u32 = 2;
    let file = filled("file", context.seed, 1000)?;
    xattr::set("file", "user.goes", b"soon").context("set")?;
    // Handles are looked up by a directory of the file system.
    let here = File::open(".").context("open directory")?;
    let mut handle = [0u64; 8];
    let mut handle_bytes = 0u32;
    let mut request = HandleRequest {
        fd: u32::try_from(file.as_raw_fd()).context("descriptor")?,
        path: 0,
        open_flags: 0,
        handle: 0,
        handle_bytes: 0,
        out_handle: handle.as_mut_ptr() as u64,
        out_bytes: (&raw mut handle_bytes) as u64,
    };
    FD_TO_HANDLE
        .call(&file, &mut request)
        .context("XFS_IOC_FD_TO_HANDLE")?;
    let value = content(context.seed, 200);
    let change = |what, name: &std::ffi::CStr, flags| AttributeChange {
        what,
        error: 0,
        name: name.as_ptr() as u64,
        value: if what == SET { value.as_ptr() as u64 } else { 0 },
        bytes: if what == SET { 200 } else { 0 },
        flags,
    };
    let mut changes = [
        change(SET, c"by-handle", 0),
        change(SET, c"root", TRUSTED),
        change(REMOVE, c"goes", 0),
    ];
    let mut request = AttributeRequest {
        handle: HandleRequest {
            handle: handle.as_ptr() as u64,
            handle_bytes,
            out_handle: 0,
            out_bytes: 0,
            ..request
        },
        count: 3,
        changes: changes.as_mut_ptr() as u64,
    };
    ATTRMULTI
        .call(&here, &mut request)
        .context("XFS_IOC_ATTRMULTI_BY_HANDLE")?;
    let errors: Vec<i32> = changes.iter().map(|change| change.error).collect();
    ensure!(errors == [0, 0, 0], "the changes ended with {errors:?}");
    let got = xattr::get("file", "user.by-handle").context("get")?;
    ensure!(got.as_deref() == Some(&value[..]), "the attribute is not there");
    ensure!(
        xattr::get("file", "user.goes").context("get")?.is_none(),
        "the attribute is still there"
    );
    Ok(())
}

/// `struct btrfs_ioctl_encoded_io_args`.
#[repr(C)]
struct EncodedIo {
    parts: u64,
    part_count: u64,
    offset: i64,
    flags: u64,
    bytes: u64,
    unencoded_bytes: u64,
    unencoded_offset: u64,
    compression: u32,
    encryption: u32,
    reserved: [u8; 64],
}

// SAFETY: EncodedIo has the layout of struct btrfs_ioctl_encoded_io_args; `parts` is valid where it is called.
const ENCODED_WRITE: Request<EncodedIo> = unsafe { Request::new(request_code(1, 0x94, 64, 128)) };

/// A zlib stream of 128 KiB of the letter a.
fn zlib_stream() -> Result<Vec<u8>> {
    shell("python3 -c \"import zlib; open('/tmp/ops-zlib', 'wb').write(zlib.compress(b'a' * 131072))\"")?;
    std::fs::read("/tmp/ops-zlib").context("read the zlib stream")
}

fn encoded_write(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 300_000)?;
    file.sync_all().context("fsync")?;
    let stream = zlib_stream()?;
    let part = libc::iovec {
        iov_base: stream.as_ptr().cast_mut().cast(),
        iov_len: stream.len(),
    };
    for offset in [0, 524_288] {
        let mut argument = EncodedIo {
            parts: (&raw const part) as u64,
            part_count: 1,
            offset,
            flags: 0,
            bytes: 131_072,
            unencoded_bytes: 131_072,
            unencoded_offset: 0,
            compression: 1,
            encryption: 0,
            reserved: [0; 64],
        };
        ENCODED_WRITE
            .call(&file, &mut argument)
            .context("BTRFS_IOC_ENCODED_WRITE")?;
        expect(&file, u64::try_from(offset)?, &[b'a'; 1000])?;
    }
    file.write_all_at(b"afterwards", 1000).context("write")
}

fn defrag(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 100_000)?;
    for i in 0..10 {
        file.write_all_at(&content(i, 500), i * 9000).context("write")?;
        file.sync_all().context("fsync")?;
    }
    if context.fs != Btrfs {
        return Err(io::Error::from_raw_os_error(libc::ENOTTY)).context("there is no such file system");
    }
    shell("btrfs filesystem defragment -czlib -f file")?;
    file.write_all_at(b"afterwards", 500).context("write")
}
