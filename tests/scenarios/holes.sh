#!/bin/bash
# Losses that are provoked: what is said while a hole is open, and that it is repaired. One boot:
# `cargo xtask vm run --binaries --disk 1024 --disk 1024 --disk 1024 --usb 3072 --script FILE`.
set -u

a=/dev/guest/disk0 b=/dev/guest/disk1 blank=/dev/guest/disk2
. /opt/job/lib.sh
# The repair of a whole volume takes its time.
patience=240
mkdir -p /a /b /back /medium /spool

# record PATH MEDIUM [OPTION...]
record() { recording 1 attach "$1" --spool /spool --medium "${@:2}"; }

mkfs.btrfs -q -f $a && mkfs.ext4 -q -F $b && mkfs.ext4 -q -F /dev/guest/usb0 || exit 1
mount $a /a && mount $b /b && mount /dev/guest/usb0 /medium || exit 1
mkdir /medium/subvolume /medium/outrun

echo "-- a subvolume that is made while recording is never recorded: its hole stays open, and everybody hears of it"
record /a /medium/subvolume
echo before > /a/file
expect 0 "mark before" recorder mark before
mkdir -p /back/end /back/before
btrfs -q subvolume create /a/home && echo lost > /a/home/file
expect 31 "1 holes are open" recorder mark after
expect 31 "1 holes are open" recorder flush --wait
expect 0 "1 open" recorder status
kill -TERM $recorder_pid
ended 31 "1 holes are open"
expect 0 "before" replayer points --medium /medium/subvolume
expect 31 "hole" replayer restore --medium /medium/subvolume --to /back/end
expect 0 "" replayer restore --medium /medium/subvolume --at mark:before --to /back/before
[ "$(cat /back/before/file 2> "$out")" = before ] && ok || bad "the mark before the hole is not restored"

echo "-- a ring that is outrun: stopped recorder, one MiB of ring, then a load of mapped pages"
head -c 8M /dev/urandom > /b/old
record /b /medium/outrun --ring-mib 1
kill -STOP $recorder_pid
mkdir /b/dir
for i in {1..40}; do head -c 1M /dev/urandom > /b/dir/$i; done
mv /b/dir/7 /b/seven; ln /b/dir/8 /b/eight; rm /b/dir/9; chmod 600 /b/dir/10; truncate -s 100 /b/dir/11
sleep 3
kill -CONT $recorder_pid
expect 0 "durable" recorder flush --wait
[ "$(status '.volumes[0].holes_open')" = 0 ] && ok || bad "holes are open after flush --wait"
oracle digest /b --out /run/outrun > /dev/null
expect 0 "mark outrun" recorder mark outrun
kill -STOP $recorder_pid
python3 - <<'P'
import mmap, os, random, time
random.seed(7)
fd = os.open("/b/mapped", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 64 << 20)
with mmap.mmap(fd, 64 << 20) as pages:
    for number in range(16384):
        pages[(number * 4096 + random.randrange(4000)) % (64 << 20)] = number % 251
    pages.flush()
P
( sleep 2; kill -CONT $recorder_pid ) &
head -c 30M /dev/urandom > /b/meanwhile
expect 0 "durable" recorder flush --wait
oracle digest /b --out /run/mapped > /dev/null
expect 0 "detached" recorder detach
ended 0 ""
replayer dump --medium /medium/outrun --json-lines 2> /dev/null | grep -c '"op":"hole"' > /run/holes
[ "$(cat /run/holes)" -gt 1 ] && ok || { cp /run/holes "$out"; bad "nothing was lost: this proves nothing"; }

# same DIGEST POINT: what is restored equals what was there.
same() {
    expect 0 "" replayer restore --medium /medium/outrun --at "$2" --device $blank --wipe
    mount $blank /mnt && oracle digest /mnt --out /run/restored > /dev/null && umount /mnt
    expect 0 "SAME" oracle compare "$1" /run/restored
}
same /run/outrun mark:outrun
same /run/mapped latest
echo "$(cat /run/holes) holes were journaled"

silent
verdict holes
