# An NFS server exports the working directory to this machine; version 4.
here=$PWD
mkdir export
mnt=$(mktemp -d)
ip link set lo up
for module in nfsd nfs nfsv4; do modprobe $module; done
mkdir -p /run/rpcbind /var/lib/nfs/v4recovery
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
pidof rpcbind > /dev/null || rpcbind -w
exportfs -o rw,no_root_squash,no_subtree_check,fsid=77,insecure "localhost:$here/export"
rpc.nfsd -N 3 -G 10 4
pidof rpc.mountd > /dev/null || rpc.mountd
stop() {
    cd /
    umount "$mnt" 2> /dev/null || umount -l "$mnt" 2> /dev/null || true
    exportfs -u "localhost:$here/export" || true
    rpc.nfsd 0 || true
    exportfs -f || true
    kill $(pidof rpc.mountd) || true
}
trap stop EXIT
mount -t nfs4 -o vers=4.2,sec=sys "localhost:$here/export" "$mnt"
cd "$mnt"
head -c 500000 /dev/urandom > file
printf middle | dd of=file bs=1 seek=100000 conv=notrunc status=none
sync -f file
mkdir dir
echo one > dir/one
mv dir/one dir/two
echo three > three
mv three dir/two
ln file link
ln -s some/target symlink
mkfifo fifo
mknod null c 1 3
chmod 4751 file
chown 1000:1001 dir/two
touch -d '1999-01-01 00:00:00.123456789' dir
truncate -s 40000 file
fallocate -l 100000 allocated
fallocate -p -o 8192 -l 8192 file
setfattr -n user.by-nfs -v value dir/two
cp --reflink=auto file copy
head -c 300000 /dev/urandom | dd of=direct bs=4096 oflag=direct iflag=fullblock status=none || true
rm link
mkdir gone
rmdir gone
sync -f file
