#!/bin/bash
# cp --reflink=always, then writing to both sides; for xfs and btrfs.
set -eu
mkdir a && cp -a /usr/share/perl5 a/tree
for n in 1 2 3; do head -c "$((n * 2500001))" /dev/urandom > "a/$n"; done
truncate -s 9M a/sparse && head -c 70000 /dev/urandom | dd of=a/sparse bs=4096 seek=900 conv=notrunc status=none
cp -a --reflink=always a b
diff -r a b
MARK cloned

# Both sides change, buffered, direct and through a mapping.
head -c 300000 /dev/urandom | dd of=a/1 bs=1000 seek=100 conv=notrunc status=none
dd if=/dev/urandom of=b/2 bs=4096 seek=10 count=30 conv=notrunc oflag=direct status=none
python3 - <<'P'
import mmap, os
with open("b/3", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
    for at in range(5000, 7000000, 400000):
        view[at:at + 900] = os.urandom(900)
P
truncate -s 1000000 b/1 && fallocate -p -o 40000 -l 900000 a/2 && fallocate -z -o 40000 -l 90000 b/3
MARK changed

# Over a file that is longer, over one in use, and again and again.
head -c 8000000 /dev/urandom > longer && cp --reflink=always a/2 longer && cmp a/2 longer
cp a/3 shared
for n in 1 2 3; do
    cp --reflink=always shared "generation$n" && printf '%d' "$n" >> shared && cp --reflink=always "generation$n" shared
done
(for n in $(seq 200); do printf 'x%d' "$n" | dd of=busy bs=5000 seek="$((n * 7 % 50))" conv=notrunc status=none; done) &
for n in $(seq 20); do cp --reflink=always busy "of-busy$n" 2> /dev/null || true; done
wait
cp --reflink=always busy end && cmp busy end
# Parts: a range of one file into another.
xfs_io -c 'reflink a/1 0 65536 131072' longer > /dev/null && cmp -n 131072 -i 0:65536 a/1 longer
xfs_io -c 'dedupe a/3 0 0 65536' generation1 > /dev/null
