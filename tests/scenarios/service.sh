#!/bin/bash
# The recorder as a service: two volumes on one medium, a spool on a recorded volume, a medium that is pulled, gone or full. One boot:
# `cargo xtask vm run --binaries --disk 1024 --disk 1024 --disk 3072 --usb 2048 --usb 256 --script FILE`.
set -u

a=/dev/guest/disk0 b=/dev/guest/disk1 work=/dev/guest/disk2
. /opt/job/lib.sh
mkdir -p /a /b /work /medium /small /empty

# same UUID POINT DIGEST MEDIUM
same() {
    rm -rf /work/restored && mkdir /work/restored
    expect 0 "" replayer restore --medium "$4" --to /work/restored --volume "$1" --at "$2"
    oracle digest /work/restored --out /run/restored --exclude spool --exclude lost+found > "$out" 2>&1
    check "volume $1 at $2 is not the same" oracle compare "$3" /run/restored
    grep -q '^SAME ' "$out" && echo "$2: $(grep '^SAME' "$out")"
}

some_work() {
    local at=$1 i
    mkdir -p "$at/docs"
    for i in $(seq 1 60); do echo "$at $2 $i" > "$at/docs/$2-$i"; done
    head -c 1000000 /dev/urandom > "$at/blob-$2"
    mv "$at/docs/$2-1" "$at/docs/$2-moved" && rm "$at/docs/$2-2" && ln "$at/docs/$2-3" "$at/link-$2"
    cp -a /etc/default "$at/default-$2"
}

mkfs.ext4 -q -F $a && mkfs.xfs -q -f $b && mkfs.ext4 -q -F $work && mkfs.ext4 -q -F /dev/guest/usb0 && mkfs.ext4 -q -F -m 0 /dev/guest/usb1
mount -t ext4 $a /a && mount -t xfs $b /b && mount $work /work && mount /dev/guest/usb0 /medium || exit 1
mkdir /work/spool /a/spool
attach="--medium /medium --spool /work/spool"

echo "-- two volumes, one medium"
some_work /a before && some_work /b before
recording 2 attach /a /b $attach
expect 11 "already" recorder attach /a $attach
expect 1 "being recorded" recorder doctor /a
expect 10 "not recorded here" recorder detach /work
[ "$(status '[.volumes[] | .path] | join(" ")')" = "/a /b" ] && ok || bad "status does not name both"
some_work /a one &
some_work /b one &
wait $(jobs -p | grep -vx $recorder_pid)
expect 0 "mark both" recorder mark both
digest /b /run/b-both
some_work /a two && some_work /b two
expect 0 "mark only-a" recorder mark only-a --volume /a/docs
digest /a /run/a-only
expect 0 "durable" recorder flush --wait
[ "$(status '[.volumes[] | .holes_open] | add')" = 0 ] && ok || bad "holes"
recorder status > "$out" 2>&1
sed 's/^/    /' "$out"
digest /a /run/a-end
expect 0 "detached /a" recorder detach /a
[ "$(status '[.volumes[] | .path] | join(" ")')" = "/b" ] && ok || bad "status still names /a"
[ "$(ls /sys/fs/bpf/tapeworm)" = "$(uuid $b)" ] && ok || bad "programs of /a stay"
echo "not recorded" > /a/after
some_work /b three
expect 0 "mark late" recorder mark late
digest /b /run/b-late
expect 0 "detached /b" recorder detach
ended 0 ""
[ -z "$(ls -A /sys/fs/bpf/tapeworm)" ] && ok || bad "programs stay"
ua=$(uuid $a) ub=$(uuid $b)
expect 0 "$ub" replayer verify --medium /medium
expect 2 "$ua" replayer restore --medium /medium --to /empty
same $ua mark:only-a /run/a-only /medium
same $ua latest /run/a-end /medium
same $ub mark:both /run/b-both /medium
same $ub latest /run/b-late /medium

echo "-- as a service, its spool on a recorded volume"
cat > /run/service.toml <<END
[[volume]]
path = "/a"
medium = "/medium"
spool = "/a/spool"
ring_mib = 16
[[volume]]
path = "/b"
medium = "/medium"
spool = "/a/spool"
ring_mib = 16
END
recording 2 run --config /run/service.toml
ls /a/spool | grep -q $ua && ok || bad "no spool on /a"
some_work /a service && some_work /b service
expect 0 "durable" recorder flush --wait
[ "$(status '[.volumes[] | .holes_open] | add')" = 0 ] && ok || bad "holes"
digest /a /run/a-service
kill -TERM $recorder_pid
ended 0 "told to stop"
expect 10 "go on" recorder status
expect 1 "being recorded" recorder doctor /a
echo "while nobody was there" > /a/meanwhile
recording 2 run --config /run/service.toml
grep -c "going on after seq" /results/recorder.log | grep -qx 2 && ok || { cp /results/recorder.log "$out"; bad "it does not go on"; }
expect 0 "durable" recorder flush --wait
[ "$(status '[.volumes[] | .holes_open] | add')" = 0 ] && ok || bad "holes after going on"
digest /a /run/a-service
expect 0 "detached /b" recorder detach
ended 0 ""
same $ua latest /run/a-service /medium
expect 0 "" replayer verify --medium /medium
# Nothing of the spool may be in the journal: it would feed itself.
replayer dump --medium /medium --volume $ua --json-lines > "$out" 2>&1
grep -q 'spool-0' "$out" && bad "the spool was recorded" || ok

echo "-- a medium that is pulled"
usb_disk() { for disk in /sys/block/sd*; do [ "$(cat $disk/size)" = 524288 ] && basename $disk; done; }
pull() { echo 1 > /sys/block/$(usb_disk)/device/delete; }
plug() {
    local i
    for host in /sys/class/scsi_host/host*/scan; do echo "- - -" > $host; done
    for ((i = 0; i < 100; i++)); do [ -n "$(usb_disk)" ] && break; sleep 0.1; done
    umount -l /small
    mount /dev/$(usb_disk) /small || bad "the medium does not come back"
}
mount /dev/guest/usb1 /small
recording 1 attach /a --medium /small --spool /work/spool
expect 0 "durable" recorder flush --wait
pull
some_work /a pulled
begun=$SECONDS
expect 20 "not on the medium yet" recorder flush --wait
[ $((SECONDS - begun)) -lt 30 ] && ok || bad "the flush took $((SECONDS - begun)) s"
expect 1 "the medium" recorder status
expect 0 "mark while-away" recorder mark while-away
digest /a /run/a-away
plug
expect 0 "durable" recorder flush --wait
expect 0 "recording" recorder status
umount /small 2> /dev/null && umount -l /small
some_work /a bare
expect 20 "mount it there again" recorder flush --wait
[ -z "$(ls -A /small)" ] && ok || bad "the bare mount point was written to"
mount /dev/$(usb_disk) /small
digest /a /run/a-back
expect 0 "detached" recorder detach
ended 0 ""
same $ua mark:while-away /run/a-away /small
same $ua latest /run/a-back /small

recording 1 attach /a --medium /small --spool /work/spool
expect 0 "durable" recorder flush --wait
pull
echo lost > /a/lost
begun=$SECONDS
expect 20 "lies in /work/spool" recorder detach
[ $((SECONDS - begun)) -lt 40 ] && ok || bad "the detach took $((SECONDS - begun)) s"
ended 0 ""
[ -n "$(ls /work/spool/$ua)" ] && [ -z "$(ls -A /sys/fs/bpf/tapeworm)" ] && ok || bad "no spool, or programs stay"
plug
recording 1 attach /a --medium /small --spool /work/spool
pull
echo lost > /a/lost2
kill -TERM $recorder_pid
ended 20 "lies in /work/spool"
plug

echo "-- a medium that is full"
# All but 4 MiB.
fill() { try fallocate -l $(($(df --output=avail -B1 "$1" | tail -n 1) - (4 << 20))) "$1/ballast"; }
recording 1 attach /a --medium /small --spool /work/spool
expect 0 "durable" recorder flush --wait
fill /small
head -c 20M /dev/urandom > /a/more
expect 21 "medium full" recorder flush --wait
rm /small/ballast
expect 0 "durable" recorder flush --wait
fill /small
head -c 20M /dev/urandom > /a/yet-more
expect 21 "medium full" recorder detach
ended 0 ""
rm /small/ballast
expect 0 "" replayer verify --medium /small

verdict service
