# A bind mount of the working directory, a read-write one below a read-only one, and one that maps user ids.
mkdir source
mnt=$(mktemp -d)
mkdir "$mnt/bind" "$mnt/mapped"
mount --bind source "$mnt/bind"
stop() {
    cd /
    umount "$mnt/mapped" 2> /dev/null || true
    umount "$mnt/bind" 2> /dev/null || true
}
trap stop EXIT
head -c 100000 /dev/urandom > "$mnt/bind/file"
mkdir "$mnt/bind/dir"
mv "$mnt/bind/file" "$mnt/bind/dir/file"
truncate -s 5000 "$mnt/bind/dir/file"
echo removed > "$mnt/bind/removed"
rm "$mnt/bind/removed"
ln "$mnt/bind/dir/file" "$mnt/bind/link"
chmod 711 "$mnt/bind/dir"
# Owners 0 and up inside are 5000 and up outside.
if mount --bind -o X-mount.idmap=b:5000:0:1000 source "$mnt/mapped" 2> /dev/null; then
    mkdir "$mnt/mapped/by-mapped" 2> /dev/null || true
    echo mapped > "$mnt/mapped/by-mapped/file" 2> /dev/null || true
    umount "$mnt/mapped"
fi
