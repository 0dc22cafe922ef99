#!/bin/bash
# Real programs at work: a database, a version control system, a compiler, archives, a mirror.
set -eu
export HOME=/root GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@t

{
    echo 'PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);'
    for i in $(seq 1 300); do echo "INSERT INTO t (v) VALUES (hex(randomblob(200)));"; done
    echo 'DELETE FROM t WHERE id % 3 = 0; UPDATE t SET v = lower(v) WHERE id % 5 = 0;'
} | sqlite3 base.db > /dev/null
MARK database

git init -q repo
for round in 1 2 3; do
    cp -r /usr/include/asm-generic "repo/round$round"
    git -C repo add -A && git -C repo commit -q -m "round $round"
done
git -C repo rm -q -r round2 && git -C repo commit -q -m "one away" && git -C repo gc -q
git clone -q repo clone
MARK repository

mkdir build
for i in $(seq 1 6); do printf '#include <stdio.h>\nint f%d(void) { return puts("%d"); }\n' "$i" "$i" > "build/f$i.c"; done
(cd build && for i in $(seq 1 6); do gcc -g -c "f$i.c"; done && ar rcs libf.a f*.o && rm f*.o)
tar -czf build.tar.gz build && mkdir unpacked && tar -xzf build.tar.gz -C unpacked
rsync -a --delete repo/ mirror/ && rm -rf repo/round1 && rsync -a --delete repo/ mirror/
sqlite3 base.db 'VACUUM'
