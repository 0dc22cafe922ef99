#!/bin/bash
# The work of the demonstration: what a developer's disk goes through, told line by line. Runs in the mounted origin.
set -e
say() { echo "      $*"; }
lasted() { echo $(($(date +%s) - $1)); }

say "unpacking the source of the language Lua and building it"
start=$(date +%s)
mkdir -p src && tar -xf /opt/demo/source.tar -C src --strip-components=1
chown -R 1000:1000 src
(cd src && make -j2 generic > ../build.log 2>&1)
say "    done in $(lasted "$start") s: $(find src -type f | wc -l) files, among them a program that works: $(src/src/lua -v)"

say "three programs write to one SQLite database at once"
start=$(date +%s)
sqlite3 shop.db 'PRAGMA journal_mode=WAL; CREATE TABLE orders(id INTEGER PRIMARY KEY, who TEXT, what BLOB);' > /dev/null
for writer in 1 2 3; do
    for ((n = 0; n < 60; n++)); do
        echo "BEGIN IMMEDIATE; WITH RECURSIVE c(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM c WHERE i<40)
              INSERT INTO orders(who, what) SELECT 'writer $writer', randomblob(400) FROM c;
              DELETE FROM orders WHERE id % 97 = $n; COMMIT;"
    done | sqlite3 -cmd '.timeout 20000' shop.db &
done
wait
say "    done in $(lasted "$start") s: $(sqlite3 shop.db 'SELECT count(*) FROM orders') orders"

say "a mark is set: \"before-cleanup\""
MARK before-cleanup

say "renaming, deleting, linking, changing owners and modes"
mv src lua-5.4
find lua-5.4 -name '*.o' -delete
rm -rf lua-5.4/doc
mkdir -p notes/2026 && for n in $(seq 40); do echo "note $n" > "notes/2026/$n.txt"; done
mv notes/2026 notes/archive && rm notes/archive/1*.txt
ln notes/archive/2.txt second-name && ln -s lua-5.4/src/lua lua
setfattr -n user.origin -v demo lua-5.4/README && setfacl -m u:1000:rw build.log && chmod 600 shop.db
truncate -s 1M sparse && printf tail >> sparse
sqlite3 shop.db 'DELETE FROM orders WHERE id % 3 = 0; VACUUM;' > /dev/null
say "    done: $(find . | wc -l) entries on the disk now"
