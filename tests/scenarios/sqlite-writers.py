#!/usr/bin/env python3
"""SQLite under several writers at once: in WAL mode, which maps its index, and in each of the rollback modes."""
import multiprocessing
import random
import sqlite3
import subprocess

WRITERS = 4
ROUNDS = 20


def connect(path, mode):
    database = sqlite3.connect(path, timeout=120, isolation_level=None)
    database.execute(f"PRAGMA journal_mode = {mode}")
    database.execute("PRAGMA mmap_size = 1000000" if mode == "WAL" else "PRAGMA cache_size = 20")
    return database


def writer(path, mode, number):
    rng = random.Random(number)
    database = connect(path, mode)
    for round_number in range(ROUNDS):
        database.execute("BEGIN IMMEDIATE")
        for _ in range(rng.randrange(1, 30)):
            database.execute("INSERT INTO t (who, what) VALUES (?, ?)", (number, rng.randbytes(rng.randrange(3000))))
        database.execute("DELETE FROM t WHERE id % 7 = ? AND who = ?", (rng.randrange(7), number))
        database.execute("UPDATE t SET what = ? WHERE id % 11 = ?", (rng.randbytes(50), rng.randrange(11)))
        # A transaction that is taken back writes, too.
        database.execute("ROLLBACK" if round_number % 9 == 4 else "COMMIT")
    if number == 0 and mode == "WAL":
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def work(path, mode):
    setup = connect(path, mode)
    setup.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, who INTEGER, what BLOB)")
    setup.execute("CREATE INDEX IF NOT EXISTS by_who ON t (who, id)")
    writers = [multiprocessing.Process(target=writer, args=(path, mode, n)) for n in range(WRITERS)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
        assert process.exitcode == 0, f"a writer of {path} ended with {process.exitcode}"
    assert setup.execute("PRAGMA integrity_check").fetchone() == ("ok",), path
    return setup


open_databases = []
for mode in ("WAL", "DELETE", "TRUNCATE", "PERSIST"):
    open_databases.append(work(f"{mode.lower()}.db", mode))
    # With the database open: for WAL that is database, log and index.
    subprocess.run(["MARK", mode.lower()], check=True)

open_databases[1].execute("VACUUM")
open_databases[0].execute("VACUUM INTO 'copy.db'")
open_databases[0].close()
