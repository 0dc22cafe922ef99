#!/bin/bash
# rsync in the ways that change files in place: --inplace, --append, --partial, and with --delete, links and attributes.
set -eu
mkdir from
cp -a /usr/share/perl5 from/tree
for n in 1 2 3; do head -c "$((n * 3000000))" /dev/urandom > "from/large$n"; done
truncate -s 5M from/sparse && printf middle | dd of=from/sparse bs=1 seek=2000000 conv=notrunc status=none
ln from/large1 from/linked && ln -s large2 from/symbolic && mkfifo from/pipe
setfattr -n user.kind -v large from/large1 && setfacl -m u:1234:r from/large2
rsync -aHAXS from/ plain/
rsync -a --inplace from/ inplace/
rsync -a --partial from/large3 partial/
diff -r --no-dereference -x pipe from plain
MARK first

# In the middle, at the end, shorter.
head -c 50000 /dev/urandom | dd of=from/large1 bs=1000 seek=1234 conv=notrunc status=none
head -c 400000 /dev/urandom >> from/large2
truncate -s 4000000 from/large3
rm -r from/tree/Debconf* 2> /dev/null || rm "$(find from/tree -type f | head -n 1)"
mv "$(find from/tree -type f | sort | tail -n 1)" from/moved
setfattr -x user.kind from/large1
rsync -a --inplace --no-whole-file --delete from/ inplace/
rsync -a --append from/large2 partial/ && rsync -a --append-verify from/large2 partial/
rsync -aHAXS --no-whole-file --delete-after --backup --backup-dir="$PWD/old" from/ plain/
diff -r --no-dereference -x pipe from plain && diff -r --no-dereference -x pipe from inplace
MARK second

rsync -a --remove-source-files from/tree taken/
rsync -a --link-dest="$PWD/plain" plain/ generation/
rsync -a --preallocate --sparse plain/large1 preallocated
rsync -a --write-devices --inplace --ignore-times plain/large2 partial/large2
[ "$(stat -c %h generation/large2)" = 2 ]
