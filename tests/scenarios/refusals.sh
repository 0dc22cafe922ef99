#!/bin/bash
# What recorder and replayer refuse, and how: file systems, mounts, media, commands, targets. One boot:
# `cargo xtask vm run --binaries --disk 1024 --disk 1024 --disk 512 --disk 1024 --usb 1024 --usb 256 --script FILE`.
set -u

a=/dev/guest/disk0 b=/dev/guest/disk1 odd=/dev/guest/disk2 work=/dev/guest/disk3
. /opt/job/lib.sh
mkdir -p /a /b /odd /work /medium /small

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


echo "-- targets that are refused, and ones that are not"
replay="replayer restore --medium /medium"
# Of 255 bytes, beyond PATH_MAX, no UTF-8, line ends.
deep() (
    cd "$1" || exit 1
    long=$(printf 'n%.0s' $(seq 1 255))
    for _ in $(seq 1 24); do mkdir "$long" && cd "$long" || exit 1; done
    echo deepest > "$(printf '\377\376\n\001')" && ln -s "$long" "$(printf 'line\nend')" && setfattr -n user.deep -v down .
)
try mount $odd /odd
check "a deep tree" deep /a
recording 1 attach /a $attach
digest /a /run/a-small
expect 0 "mark small" recorder mark small
# More than fits on the disks below, and less than they are large.
yes 'too much for the disk' | head -c 500M > /a/big
expect 0 "detached /a" recorder detach
ended 0 ""
expect 1 "/odd: unmount it first" $replay --device $odd
umount /odd
expect 1 "btrfs" $replay --device $odd
for fs in ext4 xfs btrfs; do
    patience=240 expect 1 "take a larger one" $replay --device $odd --wipe --mkfs $fs
    grep -q '^restored' "$out" && bad "a restore that failed says that it restored"
    sed "s/^/    $fs: /" "$out" | tail -n 1
done
# Too small for the data alone: that is seen before the disk is touched.
modprobe -q loop
loop=$(truncate -s 400M /work/image && losetup --find --show /work/image)
expect 1 "nothing was written" $replay --device "$loop"
check "a disk that is refused is written to" cmp -n 1048576 "$loop" /dev/zero
losetup -d "$loop" && rm /work/image
# Room is not measured before the steps are made: the disk is full in mid-restore.
try mkfs.ext4 -q -F $odd && mount $odd /odd && rmdir /odd/lost+found && patience=240 expect 1 "take a larger one" $replay --to /odd --stepwise
expect 1 "is not empty" $replay --to /odd
umount /odd
try umount /b && expect 1 "xfs" $replay --device $b --at mark:small
expect 0 "restored volume" $replay --device $b --at mark:small --wipe
# The restored file system has the uuid of the one that it was made from, under which ext4 is content to be mounted twice.
try mount $b /b && digest /b /run/b-small && check "the deep tree is the same" oracle compare /run/a-small /run/b-small

verdict refusals
