#!/usr/bin/env python3
"""Every way a program can change a file's content that this issue covers, each with bytes of its own."""
import ctypes
import mmap
import os
import random
import subprocess

BLOCK = 4096
rng = random.Random(20261124)


def new(name, size=0):
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    if size:
        os.write(fd, rng.randbytes(size))
    return fd


def mark(name):
    subprocess.run(["MARK", name], check=True)


fd = new("pwrite", 300_000)
for _ in range(200):
    os.pwrite(fd, rng.randbytes(rng.randrange(1, 9000)), rng.randrange(0, 400_000))
fd = new("writev")
os.writev(fd, [rng.randbytes(n) for n in (1, 4095, 4097, 70_000)])
fd = os.open("append", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for _ in range(100):
    os.write(fd, rng.randbytes(77))
fd = new("sparse")
os.pwrite(fd, b"far", 9_000_000)
os.ftruncate(fd, 9_500_000)
mark("writes")

source = new("source", 500_000)
target = new("sendfile")
offset = 0
while sent := os.sendfile(target, source, offset, 500_000 - offset):
    offset += sent
target = new("copied")
offset = 0
while done := os.copy_file_range(source, target, 400_000, 50_000 + offset, offset):
    offset += done
    if offset >= 400_000:
        break
reader, writer = os.pipe()
target = new("spliced")
for _ in range(20):
    os.write(writer, rng.randbytes(5000))
    os.splice(reader, target, 5000)
mark("kernel-copies")

fd = new("mapped", 64 * BLOCK)
with mmap.mmap(fd, 64 * BLOCK) as view:
    for _ in range(300):
        at = rng.randrange(0, 64 * BLOCK - 100)
        view[at:at + 100] = rng.randbytes(100)
    view.flush()
mark("mapped")

fd = os.open("direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
aligned = mmap.mmap(-1, 16 * BLOCK)
for at in (0, 16, 8, 40):
    aligned[:] = rng.randbytes(16 * BLOCK)
    os.pwritev(fd, [aligned], at * BLOCK)
mark("direct")

fd = new("shrunk", 100_000)
os.ftruncate(fd, 12_345)
os.ftruncate(fd, 50_000)
libc = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400


def check(code):
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fallocate(fd, mode, offset, length):
    check(libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


fd = new("punched", 40 * BLOCK)
fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 3 * BLOCK + 7, 5 * BLOCK)
fallocate(fd, ZERO_RANGE, 20 * BLOCK, 4 * BLOCK + 100)
fallocate(fd, 0, 39 * BLOCK, 10 * BLOCK)
fd = new("beyond", 1000)
fallocate(fd, KEEP_SIZE, 0, 200_000)

fd = os.open(".", os.O_RDWR | os.O_TMPFILE, 0o600)
os.write(fd, rng.randbytes(20_000))
# os.link has no way to follow the link in /proc.
check(libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, b"from-nowhere", AT_SYMLINK_FOLLOW))
fd = os.open("deleted-while-open", os.O_RDWR | os.O_CREAT)
os.unlink("deleted-while-open")
os.write(fd, rng.randbytes(10_000))
