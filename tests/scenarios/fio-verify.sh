#!/bin/bash
# fio with every engine that writes in a way of its own: buffered and direct at once, verified by fio itself; then some
# that write over each other, where only the journal can be checked.
set -eu
mkdir fio
verify=(--verify=crc32c --verify_fatal=1)
job() {
    local name=$1
    shift
    fio --name="$name" --directory=fio --size=6m --rw=randwrite --bs=4k --randseed=7 "${verify[@]}" \
        --group_reporting --output="/results/fio-$name.log" "$@" || { tail -n 30 "/results/fio-$name.log" >&2; exit 1; }
}
overlapping() { job "$@" --bsrange=512-64k --bs_unaligned=1 --norandommap --numjobs=3 --filename=shared --size=4m; }

job psync --ioengine=psync --bs=3k &
job sync-direct --ioengine=sync --direct=1 --bs=16k
wait $!
job vsync --ioengine=pvsync2 --numjobs=2 --bs=1k --size=1m
job mmap --ioengine=mmap
MARK synchronous

job libaio --ioengine=libaio --iodepth=8 &
job libaio-direct --ioengine=libaio --iodepth=16 --direct=1 --numjobs=2
wait $!
MARK libaio

job uring --ioengine=io_uring --iodepth=8 &
job uring-direct --ioengine=io_uring --iodepth=16 --direct=1 --numjobs=2
wait $!
job uring-fixed --ioengine=io_uring --iodepth=8 --direct=1 --fixedbufs=1 --registerfiles=1 --bs=64k
job uring-fixed-buffered --ioengine=io_uring --iodepth=8 --fixedbufs=1 --bs=12k
MARK uring

job fallocated --ioengine=psync --fallocate=posix --direct=1
job synced --ioengine=psync --fsync=8 --size=1m
verify=()
job appended --ioengine=psync --rw=write --file_append=1 --size=2m
overlapping over-buffered --ioengine=psync
overlapping over-mapped --ioengine=mmap
overlapping over-uring --ioengine=io_uring --iodepth=8
