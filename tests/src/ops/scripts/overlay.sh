# The upper layer (and the lower one) of an overlay lies in the working directory. OPTIONS are further ones of the mount.
modprobe overlay
mkdir -p lower/dir/sub lower/gone lower/opaque lower/tree/deep upper work
for f in file removed renamed chmod appended dir/a dir/sub/b gone/c opaque/d tree/deep/e linked; do
    head -c 20000 /dev/urandom > lower/$f
done
setfattr -n user.lower -v kept lower/file
setfacl -m u:1000:rw lower/file
ln -s target lower/symlink
mnt=$(mktemp -d)
mount -t overlay overlay -o "lowerdir=$PWD/lower,upperdir=$PWD/upper,workdir=$PWD/work$OPTIONS" "$mnt"
stop() {
    cd /
    umount "$mnt"
}
trap stop EXIT
cd "$mnt"
printf changed | dd of=file bs=1 seek=5000 conv=notrunc status=none
echo appended >> appended
chmod 600 chmod
rm removed
mv renamed new-name
rm -r gone
rm -r opaque
mkdir opaque
echo new > opaque/new
mv dir/a dir/sub/a
mv tree moved-tree || cp -r tree moved-tree
rm symlink
ln -s other symlink
ln linked linked-too
echo again > removed
rm removed
mkdir whole-new
echo x > whole-new/x
mv whole-new/x x
setfattr -n user.upper -v set dir/sub/b
truncate -s 100 dir/sub/b
touch -d '2001-02-03 04:05:06.789' new-name
chown 1000:1000 moved-tree
head -c 100000 /dev/urandom > replaced
mv replaced file
sync -f file
