#!/usr/bin/env python3
"""One work of `cargo xtask bench --only record`, in every arm, in turns, in one boot.

What to do is in /opt/job/bench.json, what came of it goes to /results/turns.jsonl, one object for each arm of each turn. The work has the first
processor for itself, a recorder the second one, in every arm. Each arm of each turn begins with file systems that are blank.
"""
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, "/opt/job")
import works  # noqa: E402

DISK, OTHER, SPOOL, MEDIUM, LOG = (f"/dev/guest/disk{number}" for number in range(5))
WORK_CPU, RECORDER_CPU = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")
STRACE = ["strace", "-f", "-e", "trace=file,desc,write", "-e", "write=all", "-o", "/medium/strace"]


def run(*command, **more):
    """Runs it; ends all of this where it fails, with what it said."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}")
    return done.stdout


def make_fs(device, target, kind="ext4"):
    """A blank file system, mounted. Its tables are never written, neither now, which takes long, nor by the kernel while an arm is measured."""
    if kind == "nilfs2":
        run("modprobe", "nilfs2")
        run("mkfs.nilfs2", "-q", "-f", device)
    else:
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", device)
    run("mount", "-t", kind, "-o", "noatime" if kind == "nilfs2" else "noatime,noinit_itable", device, target)


class Recorder:
    """A recorder of what is mounted at a path, as far as possible from the work."""

    def __init__(self, path, options):
        self.log = open("/results/recorder.log", "a")
        command = ["taskset", "-c", RECORDER_CPU, "recorder", "attach", path, "--medium", "/medium", "--spool", "/spool/spool", *options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("recording "):
            sys.exit(f"the recorder says {line!r}: {open('/results/recorder.log').read()[-2000:]}")
        run("recorder", "flush", "--wait")
        self.before = self.now()

    def now(self):
        """What it says of itself, and what the kernel says of it."""
        status = json.loads(run("recorder", "status", "--json"))["volumes"][0]
        stat = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        status["cpu_s"] = (int(stat[11]) + int(stat[12])) / TICKS
        return status

    def threads(self):
        """Seconds of processor time by the name of a thread."""
        found = {}
        tasks = f"/proc/{self.process.pid}/task"
        for task in os.listdir(tasks):
            try:
                name = open(f"{tasks}/{task}/comm").read().strip()
                seconds = int(open(f"{tasks}/{task}/schedstat").read().split()[0]) / 1e9
            except OSError:
                continue
            found[name] = found.get(name, 0) + seconds
        return found

    def finish(self):
        """Waits until everything is on the medium; what it took since it began."""
        at_end = self.now()
        began = time.monotonic()
        run("recorder", "flush", "--wait")
        caught_up_s = time.monotonic() - began
        after, before = self.now(), self.before
        peak = next(line for line in open(f"/proc/{self.process.pid}/status") if line.startswith("VmHWM"))
        told = {name: after[name] - before[name] for name in ("cpu_s", "events", "bytes_captured", "bytes_written", "throttled_ms", "misses")}
        told["holes"] = after["holes_open"] + after["holes_repaired"]
        told["cpu_at_end_s"] = at_end["cpu_s"] - before["cpu_s"]
        told["caught_up_s"] = caught_up_s
        told["peak_kib"] = int(peak.split()[1])
        return told

    def end(self):
        run("recorder", "detach")
        if self.process.wait() != 0:
            sys.exit(f"the recorder ended with {self.process.returncode}")
        self.log.close()


def programs():
    """Runs and nanoseconds of each program in the kernel."""
    found = {}
    for program in json.loads(run("bpftool", "prog", "show", "--json")):
        name, kind = program.get("name", str(program["id"])), program["type"]
        if kind in ("kprobe", "tracing"):
            runs, ns = found.get(name, (0, 0))
            found[name] = (runs + program.get("run_cnt", 0), ns + program.get("run_time_ns", 0))
    return found


def timed(*command):
    """Seconds of the clock and of processors; on the recorder's processor."""
    began = time.monotonic()
    process = subprocess.Popen(["taskset", "-c", RECORDER_CPU, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/work")
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with {status}: {said}")
    return {"seconds": time.monotonic() - began, "cpu_s": used.ru_utime + used.ru_stime}


def back_up(name):
    """What one backup takes with each of the usual programs, into the repositories on the medium, which are made the first time."""
    # restic asks for a password, borg whether it may do without.
    os.environ.update(RESTIC_PASSWORD="none", BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes")
    if not os.path.exists("/medium/borg"):
        run("restic", "--repo", "/medium/restic", "init")
        run("borg", "init", "--encryption=none", "/medium/borg")
    return {
        "restic": timed("restic", "--repo", "/medium/restic", "backup", "."),
        "borg": timed("borg", "create", f"/medium/borg::{name}", "."),
    }


def prepare(arm, work):
    """File systems and recorder of an arm; the recorder, if there is one."""
    device, kind = DISK, "ext4"
    if arm == "log-writes":
        sectors = run("blockdev", "--getsz", DISK).strip()
        run("dmsetup", "create", "logged", "--table", f"0 {sectors} log-writes {os.path.realpath(DISK)} {os.path.realpath(LOG)}")
        device = "/dev/mapper/logged"
    if arm == "nilfs2":
        kind = "nilfs2"
    make_fs(device, "/work", kind)
    make_fs(OTHER, "/other")
    make_fs(SPOOL, "/spool")
    make_fs(MEDIUM, "/medium")
    os.makedirs("/work/dir")
    work.prepare("/work/dir", STRACE if arm == "strace" else [])
    run("sync")
    if arm == "backup":
        back_up("before")
    recorded = {"recorded": "/work", "filtered": "/other"}.get(arm)
    recorder = Recorder(recorded, work.recorder_options) if recorded else None
    run("sync")
    return recorder


def clean(arm, work):
    work.clean()
    for target in ("/work", "/other", "/spool", "/medium"):
        run("umount", target)
    if arm == "log-writes":
        run("dmsetup", "remove", "logged")


def measure(arm, work, turn, profile=False):
    """One arm of one turn."""
    recorder = prepare(arm, work)
    before = (programs(), recorder.threads()) if profile else None
    command = (STRACE if arm == "strace" else []) + work.command("/work/dir")
    began = time.monotonic()
    process = subprocess.Popen(
        ["taskset", "-c", WORK_CPU, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/work/dir"
    )
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    if status:
        sys.exit(f"{' '.join(command)} ended with {status}: {said[-3000:]}")
    told = {"arm": arm, "turn": turn, "seconds": seconds, "cpu_s": used.ru_utime + used.ru_stime, **work.told(said)}
    if profile:
        programs_after = programs()
        told["programs"] = {name: [at - of for at, of in zip(programs_after[name], before[0].get(name, (0, 0)))] for name in programs_after}
    began = time.monotonic()
    run("sync", "--file-system", "/work")
    told["sync_s"] = time.monotonic() - began
    if arm == "backup":
        told["backups"] = back_up("after")
    if recorder:
        told["recorder"] = recorder.finish()
        if profile:
            threads = recorder.threads()
            told["threads"] = {name: threads[name] - before[1].get(name, 0) for name in threads}
        if arm == "filtered" and told["recorder"]["bytes_captured"] > 1 << 20:
            sys.exit("another file system is captured")
        recorder.end()
    if work.is_sustained:
        told["seconds"] += told["sync_s"] + told.get("recorder", {}).get("caught_up_s", 0)
    clean(arm, work)
    return told


def main():
    job = json.load(open("/opt/job/bench.json"))
    for target in ("/work", "/other", "/spool", "/medium"):
        os.makedirs(target, exist_ok=True)
    work = works.WORKS[job["work"]](job["scale"])
    arms = job["arms"]
    with open("/results/turns.jsonl", "w") as out:

        def one(arm, turn, profile=False):
            told = measure(arm, work, turn, profile)
            if turn < 0 and not profile:
                return
            json.dump(told, out)
            out.write("\n")
            out.flush()
            kept = told.get("recorder", {})
            print(f"TURN {turn} {arm}: {told['seconds']:.2f} s, recorder {kept.get('cpu_s', 0):.2f} s, {kept.get('events', 0)} events", flush=True)

        # What is read for the first time comes from a disk: programs, libraries, sources. Of one turn nothing is told anyway.
        if job["turns"] > 1:
            one(arms[0], -1)
        for turn in range(job["turns"]):
            for step in range(len(arms)):
                one(arms[(step + turn) % len(arms)], turn)
        if job["profile"]:
            # Counting costs time itself: a turn of its own.
            run("sysctl", "-w", "kernel.bpf_stats_enabled=1")
            one("recorded", -1, True)


main()
