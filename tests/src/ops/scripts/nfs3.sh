# An NFS server exports the working directory to this machine; version 3, which has ACLs in a protocol of their own.
here=$PWD
mkdir export
mnt=$(mktemp -d)
ip link set lo up
for module in nfsd nfs nfsv3; do modprobe $module; done
mkdir -p /run/rpcbind /var/lib/nfs/v4recovery
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
pidof rpcbind > /dev/null || rpcbind -w
exportfs -o rw,no_root_squash,no_subtree_check,fsid=78,insecure "localhost:$here/export"
rpc.nfsd -N 4 4
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
mount -t nfs -o vers=3,nolock,proto=tcp,mountproto=tcp "localhost:$here/export" "$mnt"
cd "$mnt"
echo content > file
setfacl -m u:55:rw,g:66:r file
chmod 640 file
mkdir dir
setfacl -m u:55:rwx dir
setfacl -d -m u:77:rx dir
echo inherits > dir/inherits
mkdir dir/sub
setfacl -b file
setfacl -m u:88:r file
head -c 300000 /dev/urandom > data
truncate -s 123456 data
touch -d '1980-01-01' data
ln data link
ln -s target symlink
mknod block b 7 1
mkfifo fifo
mv dir/inherits renamed
rm link
# A file that is removed while it is open gets another name for as long.
exec 7>> data
echo appended >&7
rm data
echo more >&7
exec 7>&-
sync -f file
