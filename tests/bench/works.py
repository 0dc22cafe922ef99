"""What is done in an arm of `cargo xtask bench --only record`: each work is prepared, not measured, and then one command.

Sizes are for some seconds in an emulated machine at scale 1.
"""
import json
import glob
import os
import pwd
import shutil
import subprocess
import time

MIB = 1 << 20


def check(*command, **more):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **more)


class Work:
    """Nothing to prepare, nothing to tell but its time."""

    bytes = None
    recorder_options = ()
    # Its time goes on until all of it is on the disk, and where it is recorded, on the medium.
    is_sustained = False

    def __init__(self, scale):
        self.scale = scale

    def count(self, at_scale_1):
        return max(1, int(at_scale_1 * self.scale))

    def prepare(self, directory, before):
        """`before` is what stands before every command in this arm."""

    def clean(self):
        pass

    def told(self, said):
        return {"bytes": self.bytes} if self.bytes else {}


class Fio(Work):
    """fio tells the time from the first request to the last one, and how long each took."""

    options = ()

    def size(self):
        return self.count(self.mib * MIB) // 4096 * 4096

    def base(self, directory):
        # Nothing is allocated ahead: the file grows by what is written, as that of any program.
        return ["fio", "--name=work", f"--directory={directory}", "--output-format=json", "--thread", "--ioengine=psync", "--fallocate=none", f"--size={self.size()}"]

    def command(self, directory):
        return self.base(directory) + list(self.options)

    def told(self, said):
        jobs = json.loads(said[said.index("{") :])["jobs"]

        def p99_us(of):
            return max((job_of.get("percentile", {}).get("99.000000", 0) for job_of in of), default=0) / 1000

        told = {"seconds": max(job["job_runtime"] for job in jobs) / 1000, "bytes": sum(job["write"]["io_bytes"] for job in jobs)}
        told["p99_us"] = {"write": p99_us([job["write"]["clat_ns"] for job in jobs])}
        fsync = p99_us([job["sync"]["lat_ns"] for job in jobs if "sync" in job])
        if fsync:
            told["p99_us"]["fsync"] = fsync
        return told


class Sequential(Fio):
    mib, options = 128, ("--rw=write", "--bs=128k")


class Sustained(Sequential):
    """More than a spool holds: nothing can be put off."""

    mib, recorder_options, is_sustained = 768, ("--spool-mib", "256", "--on-full", "throttle"), True


class Laid(Fio):
    """The file is there before."""

    def prepare(self, directory, before):
        check(*self.base(directory), "--rw=write", "--bs=1m", "--end_fsync=1")


class Random(Laid):
    mib, options = 32, ("--rw=randwrite", "--bs=4k")


class Direct(Laid):
    mib, options = 16, ("--rw=randwrite", "--bs=4k", "--direct=1")


class Appends(Fio):
    mib, options = 2, ("--rw=write", "--bs=1k", "--fsync=1")


class Writers(Fio):
    mib, options = 16, ("--rw=write", "--bs=64k", "--numjobs=8")


class SmallFiles(Work):
    def __init__(self, scale):
        super().__init__(scale)
        self.files = self.count(20000)
        self.bytes = self.files * 4096

    def command(self, directory):
        return ["workload", "small-files", "--dir", f"{directory}/files", f"--count={self.files}"]


class Storm(SmallFiles):
    def __init__(self, scale):
        super().__init__(scale)
        self.bytes = None

    def prepare(self, directory, before):
        check("workload", "fill", "--dir", f"{directory}/files", f"--count={self.files}", "--bytes=64")

    def command(self, directory):
        return ["workload", "storm", "--dir", f"{directory}/files", f"--count={self.files}"]


class Untar(Work):
    """A tree of sources, as many times as the scale says."""

    def command(self, directory):
        times = self.count(2)
        self.bytes = times * os.stat("/opt/source.tar").st_size
        return ["sh", "-c", f"for n in $(seq {times}); do mkdir $n && tar -xf /opt/source.tar -C $n || exit 1; done"]


class Build(Work):
    """Lua, without optimising: the compiler's own work is as small as it gets."""

    def prepare(self, directory, before):
        check("tar", "-xf", "/opt/source.tar", "-C", directory, "--strip-components=1")

    def command(self, directory):
        parts = "lapi lcode lctype ldebug ldo ldump lfunc lgc llex lmem lobject lopcodes lparser lstate lstring ltable ltm lundump lvm lzio".split()
        objects = " ".join(f"{part}.o" for part in parts[: self.count(len(parts))])
        return ["make", "-s", "-C", "src", *objects.split(), "CFLAGS=-O0 -DLUA_USE_LINUX"]


class Sqlite(Work):
    """Small transactions, each durable, with a journal that is removed each time, as is the default."""

    def prepare(self, directory, before):
        with open("/run/transactions.sql", "w") as script:
            script.write("PRAGMA synchronous=FULL;\n")
            script.write("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, note TEXT);\nCREATE INDEX by_note ON account (note);\n")
            for number in range(self.count(1000)):
                script.write(
                    f"BEGIN; INSERT INTO account VALUES ({number}, 0, 'note {number * 7919 % 1000} {'x' * 80}');"
                    f" UPDATE account SET balance = balance + 1 WHERE id = {number * 31 % (number + 1)}; COMMIT;\n"
                )

    def command(self, directory):
        return ["sqlite3", "-init", "/run/transactions.sql", f"{directory}/base", ".quit"]


class Pgbench(Work):
    """TPC-B of pgbench, on a server that runs before and after."""

    template = "/var/cluster"

    def __init__(self, scale):
        super().__init__(scale)
        self.programs = glob.glob("/usr/lib/postgresql/*/bin")[0]
        self.server = None

    def run(self, *command):
        check("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command, stderr=subprocess.DEVNULL, cwd="/")

    def serve(self, cluster, before):
        settings = ("listen_addresses=", "unix_socket_directories=/tmp", "shared_buffers=32MB", "checkpoint_timeout=1h")
        options = [word for setting in settings for word in ("-c", setting)]
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        self.server = subprocess.Popen(
            ["taskset", "-c", "0", *before, *user, f"{self.programs}/postgres", "-D", cluster, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while subprocess.run([f"{self.programs}/pg_isready", "-q", "-h", "/tmp"]).returncode:
            time.sleep(0.1)

    def clean(self):
        if self.server:
            # What was traced ends along with its tracer's child.
            with open("/work/dir/cluster/postmaster.pid") as pid:
                os.kill(int(pid.readline()), 2)
            self.server.wait()
            self.server = None

    def prepare(self, directory, before):
        owner = pwd.getpwnam("postgres")
        if not os.path.exists(self.template):
            os.makedirs(self.template, mode=0o700)
            os.chown(self.template, owner.pw_uid, owner.pw_gid)
            self.run(f"{self.programs}/initdb", "-D", self.template, "--no-instructions")
            self.serve(self.template, [])
            self.run(f"{self.programs}/pgbench", "-q", "-h", "/tmp", "-i", "-s", "1", "postgres")
            self.run(f"{self.programs}/pg_ctl", "-D", self.template, "-w", "stop")
            self.server.wait()
        check("cp", "-a", self.template, f"{directory}/cluster")
        self.serve(f"{directory}/cluster", before)

    def command(self, directory):
        return [f"{self.programs}/pgbench", "-n", "-h", "/tmp", "-U", "postgres", "-c", "4", "-j", "1", "-t", str(self.count(150)), "postgres"]


WORKS = {
    "sequential": Sequential,
    "sustained": Sustained,
    "random": Random,
    "direct": Direct,
    "appends": Appends,
    "small-files": SmallFiles,
    "untar": Untar,
    "build": Build,
    "sqlite": Sqlite,
    "pgbench": Pgbench,
    "storm": Storm,
    "writers": Writers,
}
