#!/bin/bash
# Records the journal that docs/queries.md asks: a small server on an ordinary day, with people, services, a clean-up that goes wrong. One boot:
# `cargo xtask vm run --kernel 6.12 --binaries --disk 256 --disk 1024 --usb 256 --file tests/scenarios/lib.sh:/opt/job/lib.sh --keep DIR
# --script tests/queries/record.sh`; what the medium holds is in DIR/results/journal. Then `cargo xtask queries --write`.
set -u

. /opt/job/lib.sh
ada=1000 bert=1001 shop=900
mkdir -p /srv /spool /medium /tools
mkfs.ext4 -q -F -L server /dev/guest/disk0 && mkfs.ext4 -q -F /dev/guest/disk1 && mkfs.ext4 -q -F /dev/guest/usb0 || exit 1
mount /dev/guest/disk0 /srv && mount /dev/guest/disk1 /spool && mount /dev/guest/usb0 /medium || exit 1
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup || exit 1

# as UID GROUP COMMAND...: a user's command, in a control group of its own, as a service manager would start it.
as() {
    mkdir -p "/sys/fs/cgroup/$2"
    bash -c 'echo $$ > "/sys/fs/cgroup/$2/cgroup.procs"; exec setpriv --reuid="$1" --regid="$1" --clear-groups "${@:3}"' as "$@" || bad "$*"
}
# tool NAME: a program of this name, read from stdin. A journal has names of programs, not of scripts that a shell was told to run.
tool() { cat > "/tools/$1" && chmod 755 "/tools/$1"; }
PATH=/tools:$PATH

# Saves as editors do: beside, synced, renamed over.
tool editor <<'END'
#!/usr/bin/python3
import os, sys
path, text = sys.argv[1:]
with open(path + ".new", "w") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
os.rename(path + ".new", path)
END
# A line for each visitor, each synced; after 40 of them the log is rotated. A table of visits is written over in place.
tool webshop <<'END'
#!/usr/bin/python3
import os
visits = os.open("/srv/shop/visits.tbl", os.O_RDWR | os.O_CREAT)
os.pwrite(visits, bytes(65536), 0)
for turn in range(3):
    with open("/srv/shop/access.log", "a") as log:
        for visitor in range(40):
            log.write(f"192.0.2.{visitor} GET /orders/{turn * 40 + visitor} 200\n")
            log.flush()
            os.fsync(log.fileno())
            os.pwrite(visits, bytes([turn + 1]) * 512, visitor % 4 * 4096)
    os.rename("/srv/shop/access.log", f"/srv/shop/access.log.{turn}")
END
# What nobody wants on his server.
tool invoice.pdf <<'END'
#!/usr/bin/python3
import os
for top, _, names in os.walk("/srv/team"):
    for name in names:
        path = os.path.join(top, name)
        with open(path, "rb") as plain, open(path + ".locked", "wb") as locked:
            locked.write(bytes(byte ^ 0x5A for byte in plain.read()))
        os.unlink(path)
END

mkdir -p /srv/{home/{ada,bert},shop,team/photos,opt,tmp}
for n in $(seq 12); do head -c 900 /dev/urandom > /srv/team/photos/$n.jpg; done
echo 'rent 900' > /srv/team/accounts.csv
ln /srv/team/accounts.csv /srv/home/ada/accounts.csv
echo 'call back' > /srv/home/bert/notes.txt
chown -R $ada:$ada /srv/home/ada && chown -R $bert:$bert /srv/home/bert && chown $shop:$shop /srv/shop && chown -R $ada:$ada /srv/team
chmod 1777 /srv/tmp && chmod -R a+rwX /srv/team
tar -C /usr/include -cf /run/package.tar asm-generic

record() { recording 1 attach /srv --spool /spool --medium /medium --ring-mib 1; }
record
echo "-- a package, a shop, and people who write"
tar -C /srv/opt -xf /run/package.tar
cp /bin/true /srv/opt/helper
as $shop shop webshop
as $shop shop sqlite3 /srv/shop/orders.db 'CREATE TABLE orders(id INTEGER PRIMARY KEY, what TEXT);'
for n in $(seq 8); do as $shop shop sqlite3 /srv/shop/orders.db "INSERT INTO orders(what) SELECT 'order $n' FROM generate_series(1, 25);"; done
for n in $(seq 5); do as $ada ada editor /srv/home/ada/report.txt "$(seq $((n * 40)))"; done
as $ada ada editor "/srv/home/ada/Übersicht" 'all is well'
as $ada ada bash -c "cd /srv/home/ada && echo odd > \$'odd\\xff name' && ln -s report.txt latest && setfattr -n user.state -v draft report.txt"
expect 0 "mark before-cleanup" recorder mark before-cleanup

echo "-- a build, rights, a clean-up"
as $bert build bash -c 'cd /srv/home/bert && for n in 1 2 3; do echo "int f$n(void) { return $n; }" > f$n.c && TMPDIR=/srv/tmp gcc -c f$n.c; done; ar rcs libf.a f*.o; rm f*.o'
chmod 4755 /srv/opt/helper && chown $bert /srv/opt/asm-generic/errno.h && chmod 666 /srv/opt/asm-generic/errno.h
as $shop shop mkdir -m 777 /srv/shop/upload
as $bert bert mv /srv/team/photos /srv/team/pictures
as $bert bert rm /srv/team/accounts.csv
as $ada ada truncate -s 100 /srv/home/ada/report.txt
expect 0 "mark after-cleanup" recorder mark after-cleanup

echo "-- an attachment that was opened"
as $bert mail invoice.pdf
expect 0 durable recorder flush --wait

echo "-- more than a stopped recorder and a small ring can take"
kill -STOP $recorder_pid
as $bert bert bash -c 'head -c 6M /dev/zero > /srv/home/bert/core'
sleep 2
kill -CONT $recorder_pid
expect 0 durable recorder flush --wait
rm /srv/home/bert/core
expect 0 detached recorder detach
ended 0 ""

echo "-- something happens while nobody records"
umount /srv && mount /dev/guest/disk0 /srv || exit 1
rm /srv/home/bert/notes.txt
record
as $ada ada editor /srv/home/ada/report.txt 'the last word'
expect 0 detached recorder detach
ended 0 ""

expect 0 "" replayer verify --medium /medium
mkdir /results/journal && cp -r /medium/*/ /medium/tapeworm.label.json /results/journal && rm -rf /results/journal/lost+found
du -sb /results/journal
verdict queries
