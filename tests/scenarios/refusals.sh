#!/bin/bash
# What the recorder refuses, and how: file systems, mounts, media, commands. Nothing is recorded. One boot:
# `cargo xtask vm run --binaries --disk 1024 --disk 1024 --disk 512 --disk 1024 --usb 1024 --usb 256 --script FILE`.
set -u

a=/dev/guest/disk0 b=/dev/guest/disk1 odd=/dev/guest/disk2 work=/dev/guest/disk3
passed=0 failed=0
mkdir -p /a /b /odd /work /medium /small /results
out=/run/refusals.out

ok() { passed=$((passed + 1)); }
bad() {
    failed=$((failed + 1))
    echo "FAILED: $*"
    sed 's/^/    /' "$out" | tail -n 12
}

# A step that the next check rests on.
try() { "$@" > "$out" 2>&1 || { bad "cannot $*"; false; }; }

# expect CODE TEXT COMMAND...: the command ends within a minute with this code, and says this.
expect() {
    local code=$1 text=$2 got
    shift 2
    timeout 60 "$@" > "$out" 2>&1 < /dev/null
    got=$?
    if [ $got != "$code" ]; then
        bad "code $got, not $code: $*"
    elif ! grep -qF -- "$text" "$out"; then
        bad "does not say '$text': $*"
    else
        ok
    fi
}

mkfs.ext4 -q -F $a && mkfs.xfs -q -f $b && mkfs.ext4 -q -F $work && mkfs.ext4 -q -F /dev/guest/usb0 && mkfs.ext4 -q -F /dev/guest/usb1
mount -t ext4 $a /a && mount -t xfs $b /b && mount $work /work && mount /dev/guest/usb0 /medium || exit 1
mkdir /work/spool /a/spool
attach="--medium /medium --spool /work/spool"

echo "-- without a recorder"
expect 2 "--verbose-please" recorder status --verbose-please
expect 2 "medium" recorder attach /a
expect 2 "power of two" recorder attach /a --medium /medium --ring-mib 3
expect 2 "256" recorder attach /a --medium /medium --spool-mib 64
expect 2 "no-such.toml" recorder run --config /no-such.toml
printf '[[volume]]\npath = "/a"\nmedium = "/m"\nmedum = "/n"\n' > /run/bad.toml
expect 2 "medum" recorder run --config /run/bad.toml
expect 2 "control characters" recorder mark "$(printf 'a\nb')"
for command in status "mark x" flush detach; do expect 10 "no recorder is running" recorder $command; done
expect 0 "can record" recorder doctor
expect 1 "no such file" bash -c 'recorder doctor /nowhere 2>&1 | tr A-Z a-z; exit ${PIPESTATUS[0]}'

echo "-- file systems that are refused"
# refused TEXT PATH: and nothing stays in the kernel.
refused() {
    expect 1 "$1" recorder attach "$2" $attach
    [ -z "$(ls -A /sys/fs/bpf/tapeworm 2> /dev/null)" ] && ok || bad "programs stay after $2 was refused"
    umount "$2" 2> /dev/null
}
expect 1 "no mount point" recorder attach /a/spool $attach
expect 1 "find /nowhere" recorder attach /nowhere $attach
try mount -t tmpfs tmpfs /odd && expect 1 "/odd cannot be recorded: /odd is tmpfs" recorder doctor /odd && refused "is tmpfs" /odd
mkdir -p /work/up /work/wd /work/low
try mount -t overlay overlay -o lowerdir=/work/low,upperdir=/work/up,workdir=/work/wd /odd && refused "is overlay" /odd
try mkfs.vfat $odd && try mount -t vfat $odd /odd && refused "is vfat" /odd
try mount --bind /a/spool /odd && refused "record /a, where the whole of it" /odd
try mount --bind /a /odd && try mount -o remount,bind,ro /odd && refused "read-only" /odd
try mount --bind -o X-mount.idmap=b:0:10000:1000 /a /odd && refused "idmapped" /odd
try mkfs.ext4 -q -F $odd && try mount -o data=journal $odd /odd && refused "data=ordered" /odd
try mount -o usrjquota=aquota.user,jqfmt=vfsv1 $odd /odd && refused "tune2fs -O quota" /odd
try mkfs.ext4 -q -F -O quota $odd && try mount -o usrquota $odd /odd && expect 0 "can be recorded" recorder doctor /odd
umount /odd
try mkfs.ext4 -q -F -O inline_data $odd && try mount $odd /odd && refused "inline_data" /odd
try mkfs.btrfs -q -f $odd && try mount $odd /odd && try btrfs -q subvolume create /odd/home && mkdir /odd/dir &&
    try btrfs -q subvolume snapshot -r /odd/home /odd/dir/daily && refused "home (id 256), daily (id 257)" /odd
try mount -o subvol=home $odd /odd && refused "subvolumes or snapshots" /odd
try mount $odd /odd && try btrfs -q subvolume delete /odd/dir/daily /odd/home && mkdir /odd/dir/sub && umount /odd
try mount $odd /odd && expect 0 "can be recorded" recorder doctor /odd && cp "$out" /results/doctor-btrfs
try mount --bind /odd/dir /odd/dir/sub && expect 1 "record /odd, where the whole of it" recorder attach /odd/dir/sub $attach
umount /odd/dir/sub /odd
expect 0 "can be recorded" recorder doctor /a && cp "$out" /results/doctor-ext4
expect 0 "can be recorded" recorder doctor /b && cp "$out" /results/doctor-xfs

echo "-- media that are refused"
expect 20 "mount it" recorder attach /a --medium /nowhere --spool /work/spool
expect 20 "not a directory" recorder attach /a --medium /etc/passwd --spool /work/spool
expect 1 "must be on another disk" recorder attach /a --medium /a/spool --spool /work/spool
try mount -o remount,ro /medium
expect 1 "cannot be written" recorder attach /a $attach
try mount -o remount,rw /medium
try mount /dev/guest/usb1 /small
head -c 300M /dev/zero > /small/ballast 2> /dev/null
expect 21 "is full" recorder attach /a --medium /small --spool /work/spool
rm /small/ballast && umount /small
mkdir /work/label && echo '{' > /work/label/tapeworm.label.json
expect 30 "label" recorder attach /a --medium /work/label --spool /work/spool
expect 2 "name it once" recorder attach /a /a $attach


echo "refusals: $passed passed, $failed failed"
[ $failed = 0 ]
