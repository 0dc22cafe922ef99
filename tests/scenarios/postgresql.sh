#!/bin/bash
# PostgreSQL under pgbench: many small transactions, checkpoints, vacuum, a killed server and its recovery, a dump taken up again.
set -eu
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
settings="-k /tmp -c listen_addresses='' -c shared_buffers=16MB -c max_wal_size=64MB -c min_wal_size=32MB -c checkpoint_timeout=30s"
# Not runuser, which stops along with what it runs, and is not told to go on.
as_server() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
start() { as_server pg_ctl -s -w -t 120 -D cluster -l cluster.log -o "$settings" start; }
sql() { as_server psql -q -h /tmp -d postgres -c "$1" > /dev/null; }
# The tree stands still while the server's processes do.
mark_at_rest() { pkill -STOP -u postgres && MARK "$1" && pkill -CONT -u postgres; }

install -d -o postgres -m 700 cluster && install -o postgres -m 600 /dev/null cluster.log
as_server initdb -D cluster --no-instructions > /dev/null
start
as_server pgbench -q -h /tmp -i -s 1 postgres 2> /dev/null
mark_at_rest filled

as_server pgbench -h /tmp -c 4 -j 2 -t 60 postgres > /dev/null 2>&1
sql 'CHECKPOINT'
as_server pgbench -h /tmp -c 4 -j 2 -T 10 -N postgres > /dev/null 2>&1 &
sleep 4 && mark_at_rest under-load
wait
as_server pg_ctl -s -D cluster -m immediate stop
MARK crashed

start
sql 'VACUUM FULL ANALYZE'
as_server pg_dump -h /tmp postgres > dump.sql
sql 'CREATE DATABASE again' && as_server psql -q -h /tmp -d again -f "$PWD/dump.sql" > /dev/null
sql 'CREATE TABLE more AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g' && sql 'CREATE INDEX ON more (md5)'
sql 'DROP DATABASE again'
as_server pg_ctl -s -w -t 120 -D cluster stop
