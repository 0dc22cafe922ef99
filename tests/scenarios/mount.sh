#!/bin/bash
# Moments of a live file system are mounted and used by real programs: all of the tree is as it was, nothing can be written, what has rotted is
# not given out. One boot: `cargo xtask vm run --binaries --disk 512 --disk 2048 --usb 1024 --timeout 900 --script FILE`; elsewhere with
# `--kernel-args "tapeworm.fs=xfs"`.
set -u

a=/dev/guest/disk0 work=/dev/guest/disk1
. /opt/job/lib.sh
mkdir -p /a /work /medium /m/one /m/two /m/third
fs=$(given fs ext4)
make_fs $fs $a || exit 1
mkfs.ext4 -q -F $work && mkfs.ext4 -q -F /dev/guest/usb0
mount -t $fs $a /a && mount $work /work && mount /dev/guest/usb0 /medium || exit 1

names() { (cd "$1" && find . -path ./lost+found -prune -o ! -type d -printf '%y %m %n %U:%G %s %T@ %l %P\n' | sort); }
greps() { (cd "$1" && grep -r needle text docs 2>&1 | sort); }
rows() { sqlite3 "file:$1?$2" 'select count(*), sum(length(note)), max(n) from notes; pragma integrity_check' 2>&1; }
databases() { rows $1/db/rollback.db mode=ro && rows $1/db/wal.db immutable=1; }
# moment NAME: marks it, and keeps what programs see there.
moment() {
    digest /a /run/live-$1
    names /a > /run/names-$1
    greps /a > /run/greps-$1
    databases /a > /run/rows-$1
    expect 0 "mark $1" recorder mark $1
}
# mounted NAME DIR OPTION...: mounts in the background, as $mount_pid, and waits until it says so.
mounted() {
    local i
    : > /run/mount-$1.out
    replayer mount "${@:3}" $2 > /run/mount-$1.out 2> /results/mount-$1.log < /dev/null &
    mount_pid=$!
    for ((i = 0; i < 300; i++)); do
        grep -q mounted /run/mount-$1.out && ok && return
        kill -0 $mount_pid 2> /dev/null || break
        sleep 0.1
    done
    cp /results/mount-$1.log "$out"
    bad "$1 is not mounted"
}
# gone PID CODE DIR: the mount ends within half a minute with this code, and nothing is left of it.
gone() {
    local i
    for ((i = 0; i < 300; i++)); do kill -0 $1 2> /dev/null || break; sleep 0.1; done
    kill -0 $1 2> /dev/null && { bad "the mount of $3 still runs"; return; }
    wait $1
    local got=$?
    mount | grep fuse.tapeworm > "$out"
    [ $got = $2 ] && ! grep -q " $3 " "$out" && ok || bad "the mount of $3 ended with $got, not $2"
}
# refused COMMAND...: because nothing can be written there.
refused() { "$@" > "$out" 2>&1; [ $? != 0 ] && grep -q "Read-only file system" "$out" && ok || bad "not refused: $*"; }
same() { diff "$2" "$3" > "$out" && ok || bad "$1"; }

echo "-- a tree with all there is"
mkdir /a/text /a/docs /a/kinds /a/db /a/big /a/private /a/flags
for i in $(seq 200); do mkdir -p /a/text/d$((i % 20)) && echo "line $i, a needle in $((i % 7))" > /a/text/d$((i % 20))/f$i; done
recording 1 attach /a --spool /work/spool --medium /medium
cp -a /usr/include/linux/netfilter /a/docs/ && echo needle >> /a/docs/netfilter/x_tables.h
dd if=/dev/urandom of=/a/big/random bs=1M count=24 status=none
dd if=/dev/urandom of=/a/big/patched bs=1M count=8 status=none
for i in $(seq 0 97 1900); do echo "patch $i" | dd of=/a/big/patched bs=4096 seek=$i conv=notrunc status=none; done
truncate -s 900G /a/big/sparse && echo middle | dd of=/a/big/sparse bs=1M seek=500000 conv=notrunc status=none
echo odd > /a/kinds/odd$'\xff\n'name && ln -s ../text/d1/f1 /a/kinds/link && ln -s nowhere /a/kinds/dangling
ln /a/text/d1/f1 /a/kinds/second && ln /a/text/d1/f1 /a/kinds/third
mkfifo /a/kinds/fifo && mknod /a/kinds/char c 240 70000 && mknod /a/kinds/block b 259 3
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("/a/kinds/socket")'
echo old > /a/kinds/old && touch -d '1960-02-03 04:05:06.789' /a/kinds/old && chmod 6751 /a/kinds/old && chown 12:34 /a/kinds/old
setfattr -n user.note -v hello /a/kinds/old && setfattr -n trusted.note -v secret /a/kinds/old && setfattr -n user.big -v "$(head -c 2000 /dev/zero | tr '\0' x)" /a/kinds/old
echo "for 1234" > /a/private/acl && chmod 600 /a/private/acl && setfacl -m u:1234:r /a/private/acl && setfacl -d -m g:77:rwx /a/private
echo secret > /a/private/mode && chmod 600 /a/private/mode
echo flags > /a/flags/one && chattr +dA /a/flags/one
for mode in delete:rollback wal:wal; do
    sqlite3 /a/db/${mode#*:}.db "pragma journal_mode=${mode%:*}; create table notes(n integer primary key, note text);
        with recursive c(n) as (select 1 union all select n + 1 from c where n < 20000) insert into notes select n, 'note ' || n || hex(randomblob(20)) from c" > "$out" 2>&1 ||
        bad "no database"
done
moment one
for db in rollback wal; do sqlite3 /a/db/$db.db "update notes set note = 'changed' where n % 3 = 0; delete from notes where n > 15000; vacuum"; done
rm -r /a/text/d1 && mv /a/docs /a/docs-moved && mkdir /a/docs && echo "a new needle" > /a/docs/new && echo more >> /a/big/patched
dd if=/dev/urandom of=/a/big/random bs=1M count=4 seek=7 conv=notrunc status=none
moment two
patience=180 expect 0 durable recorder flush --wait
check "at the marks all is in place" test -s /run/live-one -a -s /run/live-two

echo "-- what is refused"
modprobe fuse
expect 1 "is not there" replayer mount --medium /medium /m/none
expect 1 "is no directory" replayer mount --medium /medium /etc/hosts
expect 1 "is not empty" replayer mount --medium /medium /etc
expect 2 "cache-mib" replayer mount --medium /medium --cache-mib 1 /m/one
expect 1 "no mark" replayer mount --medium /medium --at mark:none /m/one
mv /dev/fuse /dev/fuse-away
expect 1 "modprobe fuse" replayer mount --medium /medium /m/one
mv /dev/fuse-away /dev/fuse

echo "-- two moments at once"
mounted one /m/one --medium /medium --at mark:one && one_pid=$mount_pid
mounted two /m/two --medium /medium --at mark:two --json && two_pid=$mount_pid
check "what is said" jq -e '.mounted == "/m/two" and .complete and .point.seq > 0' /run/mount-two.out
findmnt -no OPTIONS /m/one > "$out"
for option in ro nosuid nodev default_permissions allow_other; do grep -qw $option "$out" && ok || bad "no option $option"; done
for at in one two; do
    digest /m/$at /run/mounted-$at
    oracle compare /run/live-$at /run/mounted-$at > "$out" 2>&1 && same=$((same + 1)) && ok || bad "tree at $at"
    echo "$at: $(grep -E "SAME|DIFFERENT" "$out" | head -n 1)"
    names /m/$at > /run/found && same "names and links at $at" /run/names-$at /run/found
    greps /m/$at > /run/found && same "grep -r at $at" /run/greps-$at /run/found
    databases /m/$at > /run/found && same "sqlite at $at" /run/rows-$at /run/found
    grep -q "^ok$" /run/found && ok || bad "no database was read at $at"
    begin=$(date +%s%N)
    mkdir /work/copy && check "cp -a at $at" cp -a /m/$at/. /work/copy/
    figure "copy-ms-$at" $((($(date +%s%N) - begin) / 1000000))
    # `cp` does not copy what chattr sets.
    for tree in /m/$at /work/copy; do oracle digest $tree --out /run/copy-$(basename $tree) --exclude flags --exclude lost+found > "$out" 2>&1 || bad "digest of $tree"; done
    oracle compare /run/copy-$at /run/copy-copy > "$out" 2>&1 && ok || bad "copy of $at"
    mv /work/copy /work/copy-$at
done
[ "$(wc -l < /run/greps-one)" -gt 200 ] && ok || bad "grep finds too little"
[ "$(stat -c %h /m/one/text/d1/f1)" = 3 ] && [ /m/one/text/d1/f1 -ef /m/one/kinds/third ] && ok || bad "hard links"
[ "$(stat -c '%t %T' /m/one/kinds/char)" = "f0 11170" ] && ok || bad "device number"
[ "$(stat -f -c %l /m/one)" = 255 ] && [ "$(stat -f -c %f /m/one)" = 0 ] && ok || bad "statfs"
# A gap of 900 GB is not read.
[ "$(du -k /m/one/big/sparse | cut -f 1)" -lt 100 ] && ok || bad "holes"
lsattr /m/one/flags/one > "$out" && grep -q '^[^ ]*d[^ ]*A\|^[^ ]*A[^ ]*d' "$out" && ok || bad "file flags"

echo "-- who may see what, and that nobody writes"
expect 0 "for 1234" setpriv --reuid=1234 --clear-groups cat /m/one/private/acl
expect 1 "Permission denied" setpriv --reuid=1234 --clear-groups cat /m/one/private/mode
expect 1 "Permission denied" setpriv --reuid=4321 --clear-groups cat /m/one/private/acl
expect 0 "user.note" setpriv --reuid=4321 --clear-groups getfattr -m - /m/one/kinds/old
grep -q trusted "$out" && bad "trusted attributes are shown to all" || ok
refused touch /m/one/new
refused rm /m/one/docs/netfilter/x_tables.h
refused chmod 777 /m/one/kinds/old
refused setfattr -n user.x -v y /m/one/kinds/old
refused ln /m/one/kinds/old /m/one/kinds/older
refused truncate -s 1 /m/one/kinds/old
refused python3 -c 'import os; os.open("/m/one/kinds/old", os.O_RDWR)'
expect 8 "readonly database" sqlite3 /m/one/db/rollback.db 'pragma user_version=7'

echo "-- unmounting"
umount /m/one && ok || bad "umount"
gone $one_pid 0 /m/one
grep -q "row groups were unpacked" /results/mount-one.log && ok || bad "it does not say how much was unpacked"
figure unpacked "$(grep -o '[0-9]* row groups were unpacked' /results/mount-one.log | cut -d ' ' -f 1)"
kill -TERM $two_pid
gone $two_pid 0 /m/two
# What lies below the mount is not unmounted with it.
mount -t tmpfs below /m/third
mounted third /m/third --medium /medium --at mark:one
umount /m/third
gone $mount_pid 0 /m/third
mountpoint -q /m/third && ok || bad "what lay below is gone"
umount /m/third
# In use: nobody gets in any more, who is in goes on.
mounted third /m/third --medium /medium --at mark:one
exec 9< /m/third/big/random
kill -INT $mount_pid
for ((i = 0; i < 100; i++)); do mountpoint -q /m/third || break; sleep 0.1; done
mountpoint -q /m/third && bad "still mounted" || ok
[ "$(sha256sum <&9)" = "$(sha256sum < /work/copy-one/big/random)" ] && ok || bad "what is open reads as something else"
kill -0 $mount_pid 2> /dev/null && ok || bad "ended while it was in use"
exec 9<&-
gone $mount_pid 0 /m/third
mounted third /m/third --medium /medium --at mark:one
exec 9< /m/third/big/random
kill -INT $mount_pid
for ((i = 0; i < 100; i++)); do mountpoint -q /m/third || break; sleep 0.1; done
kill -INT $mount_pid
gone $mount_pid 130 /m/third
exec 9<&-

echo "-- rot"
cp -a /medium /work/rotten
# Who is not root mounts with a helper, which the guests do not have, if the device may be opened: udev sees to that elsewhere.
mkdir /m/user && chown -R 1234 /work/rotten /m/user
chmod 600 /dev/fuse
expect 1 "do it as root" setpriv --reuid=1234 --clear-groups replayer mount --medium /work/rotten /m/user
chmod 666 /dev/fuse
expect 1 "fusermount3" setpriv --reuid=1234 --clear-groups replayer mount --medium /work/rotten /m/user
# One bit, in the largest row group of all: that is of the random files, and others lie elsewhere.
largest=0
for manifest in /work/rotten/*/*.manifest.json; do
    read -r bytes place < <(jq -r '.row_groups | max_by(.bytes) | "\(.bytes) \(.offset + ((.parts.metadata_bytes + .bytes) / 2 | floor))"' $manifest)
    [ $bytes -gt $largest ] && largest=$bytes at=$place segment=${manifest%.manifest.json}.parquet
done
byte=$(od -An -tu1 -j $at -N 1 $segment)
printf "\\x$(printf %x $((byte ^ 1)))" | dd of=$segment bs=1 seek=$at conv=notrunc status=none
mounted rotten /m/third --medium /work/rotten --at mark:one
lost=0 wrong=0 right=0
while read -r -d '' path; do
    if content=$(sha256sum < "/m/third/$path" 2> "$out"); then
        [ "$content" = "$(sha256sum < "/work/copy-one/$path")" ] && right=$((right + 1)) || wrong=$((wrong + 1))
    else
        grep -q "Input/output error" "$out" && lost=$((lost + 1)) || bad "$path fails, and not because of input or output"
    fi
done < <(cd /work/copy-one && find text kinds db big private -type f ! -name sparse -print0)
[ $wrong = 0 ] && ok || bad "$wrong files are wrong"
[ $lost -gt 0 ] && ok || bad "rot is not seen"
[ $right -gt 0 ] && ok || bad "one bit costs all files"
echo "rot: $lost files lost, $right right"
grep -q "cannot be read:.*segment" /results/mount-rotten.log && grep -q "costs sequence numbers" /results/mount-rotten.log && ok ||
    { cp /results/mount-rotten.log "$out"; bad "the log does not say what rot costs"; }
umount /m/third
gone $mount_pid 0 /m/third
expect 0 detached recorder detach
ended 0 ""
verdict mount
