# What the scripts that judge for themselves share: checks that are counted, a recorder that is started and awaited, digests. To be sourced;
# `xtask` brings it into the machine as /opt/job/lib.sh.

passed=0 failed=0 same=0 recorder_pid=
out=/run/check.out
mkdir -p /results

ok() { passed=$((passed + 1)); }
bad() {
    failed=$((failed + 1))
    echo "FAILED: $*"
    sed 's/^/    /' "$out" | tail -n 12
}

# The last line of a script: ends it with 0 only if all held.
verdict() {
    figure same $same
    echo "$1: $passed passed, $failed failed"
    [ $failed = 0 ]
}

# figure NAME VALUE: what a page of results tells.
figure() { echo "FIGURE $1 $2"; }

# A step that the next check rests on.
try() { "$@" > "$out" 2>&1 || { bad "cannot $*"; false; }; }

# given NAME DEFAULT: `tapeworm.NAME=` from the kernel's command line.
given() { grep -o "tapeworm.$1=[^ ]*" /proc/cmdline | cut -d = -f 2 | grep . || echo "$2"; }

# How many times as long as elsewhere something may take here.
slow=$(given slow 1)

# expect CODE TEXT COMMAND...: the command ends within a minute with this code, and says this.
expect() {
    local code=$1 text=$2 got
    shift 2
    timeout $((${patience:-60} * slow)) "$@" > "$out" 2>&1 < /dev/null
    got=$?
    if [ $got != "$code" ]; then
        bad "code $got, not $code: $*"
    elif ! grep -qF -- "$text" "$out"; then
        bad "does not say '$text': $*"
    else
        ok
    fi
}

check() {
    local what=$1
    shift
    if "$@" > "$out" 2>&1; then ok; else bad "$what"; fi
}

start() {
    : > /run/recorder.out
    "$@" > /run/recorder.out 2>> /results/recorder.log < /dev/null &
    recorder_pid=$!
}

# recording COUNT COMMAND...: starts it and waits until so many volumes are recorded.
recording() {
    local count=$1 i
    shift
    : > /results/recorder.log
    start recorder "$@"
    for ((i = 0; i < 600 * slow; i++)); do
        [ "$(grep -c '^recording ' /run/recorder.out)" = "$count" ] && return
        kill -0 $recorder_pid 2> /dev/null || break
        sleep 0.1
    done
    cp /results/recorder.log "$out"
    bad "not recording: $*"
}

# ended CODE TEXT: the recorder ends within a minute, with this code.
ended() {
    local i got
    for ((i = 0; i < 600 * slow; i++)); do kill -0 $recorder_pid 2> /dev/null || break; sleep 0.1; done
    cp /results/recorder.log "$out"
    if kill -0 $recorder_pid 2> /dev/null; then
        bad "the recorder still runs"
        kill -9 $recorder_pid
        return
    fi
    wait $recorder_pid
    got=$?
    [ $got = "$1" ] && grep -qF -- "$2" "$out" && ok || bad "the recorder ended with $got, not $1 and '$2'"
}

digest() { check "digest of $1" oracle digest "$1" --out "$2" --exclude spool --exclude lost+found; }

# restored NAME AT DIGEST OPTION...: what the medium gives at that point is what the digest says.
restored() {
    rm -rf /work/restored && mkdir /work/restored
    patience=300 expect 0 "" ${replayer:-replayer} restore --medium /medium --to /work/restored --at $2 "${@:4}"
    grep -q rounded "$out" && bad "$1 is rounded"
    oracle digest /work/restored --out /run/restored --exclude spool --exclude lost+found > "$out" 2>&1
    oracle compare $3 /run/restored >> "$out" 2>&1 && same=$((same + 1)) && ok || bad "$1 is not the same"
    echo "$1: $(grep -E "SAME|DIFFERENT" "$out" | head -n 1)"
}

# grow NAME MIB: a file is as long, with new content.
grow() { dd if=/dev/urandom of=/a/$1 bs=1M count=$2 conv=notrunc status=none && sync /a/$1; }

# moment NAME: marks it, and keeps the digest of what is there.
moment() {
    patience=300 expect 0 "mark $1" recorder mark $1
    digest /a /run/live-$1
}

# from NAME AT MEDIUM...: what these media give at that moment, with $identity if that says one, is what was there.
from() {
    local name=$1 at=$2 medium media=()
    shift 2
    for medium in "$@"; do media+=(--medium $medium); done
    rm -rf /work/restored
    patience=300 expect 0 "" replayer restore "${media[@]}" ${identity:-} --to /work/restored --at mark:$at
    oracle digest /work/restored --out /run/restored --exclude spool --exclude lost+found > "$out" 2>&1
    oracle compare /run/live-$at /run/restored >> "$out" 2>&1 && same=$((same + 1)) && ok || bad "$name: $at is not the same"
    echo "$name $at: $(grep -E "SAME|DIFFERENT" "$out" | head -n 1)"
}

# The kernel has nothing to say. One that watches its own locking (`--kernel 6.12-lockdep`) must still do so at the end: a first warning switches
# that off, and so do tables that are full.
silent() {
    dmesg | grep -E "WARNING:|BUG:|possible .*deadlock|blocked for more than|detected( expedited)? stalls|self-detected stall|suspicious RCU|turning off the locking|non-static key" > "$out" && bad "the kernel warns" || ok
    case $(uname -r) in *-lockdep) ;; *) return ;; esac
    local chains
    cp /proc/lockdep_stats "$out" && chains=$(awk '/^ *dependency chains:/ { print $3 }' "$out")
    grep -q "debug_locks: *1$" "$out" && [ "${chains:-0}" -gt 0 ] && ok || bad "the kernel does not watch its locking"
    figure lock_chains "$chains"
}

status() { recorder status --json | jq -r "$1"; }
uuid() { blkid -s UUID -o value "$(readlink -f "$1")"; }

# make_fs TYPE DEVICE: a file system as its mkfs makes it.
make_fs() {
    case $1 in ext4) mkfs.ext4 -q -F "$2" ;; xfs) mkfs.xfs -q -f "$2" ;; btrfs) mkfs.btrfs -q -f "$2" ;; *) false ;; esac
}

# Files of all kinds below /a, until `end_load`, drawn from $seed; each its own child.
load() {
    local n=0 d=/a/load-$1
    RANDOM=$((seed + $1))
    mkdir -p $d
    while [ ! -e /run/enough ]; do
        n=$((n + 1))
        echo "$1 $n" > $d/new-$((n % 40)) && mv $d/new-$((n % 40)) $d/file-$((n % 40))
        head -c $((RANDOM * 2)) /dev/urandom >> $d/grows-$((n % 5))
        dd if=/dev/urandom of=$d/inplace bs=4096 seek=$((RANDOM % 200)) count=$((RANDOM % 8 + 1)) conv=notrunc status=none
        [ $((n % 7)) = 0 ] && truncate -s $((RANDOM * 3)) $d/grows-$((n % 5))
        [ $((n % 9)) = 0 ] && fallocate -p -o $((RANDOM / 4096 * 4096)) -l 16384 $d/inplace 2> /dev/null
        [ $((n % 5)) = 0 ] && ln -f $d/file-$((n % 40)) $d/link && chmod 0$((n % 8))44 $d/link && setfattr -n user.n -v $n $d/link
        [ $((n % 11)) = 0 ] && rm -f $d/file-$((RANDOM % 40)) && mkdir -p $d/sub/$((n % 13)) && rm -rf $d/sub/$((RANDOM % 13))
        [ $((n % 13)) = 0 ] && cp --reflink=auto $d/inplace $d/copy
        [ $(stat -c %s $d/grows-$((n % 5))) -gt 4000000 ] && rm $d/grows-$((n % 5))
        sleep 0.05
    done
}
loads=
begin_load() {
    rm -f /run/enough
    loads=
    for i in 1 2 3; do
        load $i > /results/load-$i 2>&1 &
        loads="$loads $!"
    done
}
end_load() { touch /run/enough; wait $loads; }

# threads PID: number and name of each of its threads.
threads() {
    local task name
    for task in /proc/$1/task/*; do
        # One that has ended meanwhile has no name.
        name=$(cat $task/comm 2> /dev/null) && echo "${task##*/} $name"
    done
}

# freeze TID: holds this one thread, as nothing else can, until what runs in the background as $frozen_pid is ended.
freeze() {
    python3 - "$1" > /run/frozen 2>&1 <<'END' &
import ctypes, os, sys
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
libc.ptrace.restype = ctypes.c_long
thread = int(sys.argv[1])
for request in (SEIZE, INTERRUPT):
    if libc.ptrace(request, thread, 0, 0) == -1:
        sys.exit(f"ptrace {request:#x} of {thread}: {os.strerror(ctypes.get_errno())}")
os.waitpid(thread, WALL)
print("frozen", flush=True)
# The end of the tracer, however it comes, lets the thread go on. That of the thread must be heard here, or its process would not end.
os.waitpid(thread, WALL)
END
    frozen_pid=$!
    local i
    for ((i = 0; i < 100; i++)); do grep -q frozen /run/frozen && return; sleep 0.1; done
    cp /run/frozen "$out"
    bad "thread $1 is not frozen"
}
thaw() { kill $frozen_pid; wait $frozen_pid 2> /dev/null; }
