# The file `disk` is the disk of an ext4 file system: the loop driver writes it from a kernel thread. DIRECT is on or off.
modprobe loop
truncate -s 64M disk
device=$(losetup --find --show --direct-io=$DIRECT disk)
mnt=$(mktemp -d)
stop() {
    cd /
    umount "$mnt" 2> /dev/null || true
    losetup -d "$device"
}
trap stop EXIT
mkfs.ext4 -q -F -E discard "$device"
mount "$device" "$mnt"
cp -r /usr/share/perl5 "$mnt/" 2> /dev/null || cp -r /etc "$mnt/"
head -c 8M /dev/urandom > "$mnt/large"
sync -f "$mnt"
rm -r "$mnt/large"
fstrim "$mnt"
head -c 2M /dev/urandom > "$mnt/again"
umount "$mnt"
blkdiscard -o 33554432 -l 4194304 -z "$device"
blkdiscard -o 41943040 -l 4194304 "$device"
sync disk
