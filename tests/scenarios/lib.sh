# What the scripts that judge for themselves share: checks that are counted, a recorder that is started and awaited, digests. To be sourced;
# `xtask` brings it into the machine as /opt/job/lib.sh.

passed=0 failed=0 recorder_pid=
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
    echo "$1: $passed passed, $failed failed"
    [ $failed = 0 ]
}

# A step that the next check rests on.
try() { "$@" > "$out" 2>&1 || { bad "cannot $*"; false; }; }

# expect CODE TEXT COMMAND...: the command ends within a minute with this code, and says this.
expect() {
    local code=$1 text=$2 got
    shift 2
    timeout "${patience:-60}" "$@" > "$out" 2>&1 < /dev/null
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
    for ((i = 0; i < 600; i++)); do
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
    for ((i = 0; i < 600; i++)); do kill -0 $recorder_pid 2> /dev/null || break; sleep 0.1; done
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

status() { recorder status --json | jq -r "$1"; }
uuid() { blkid -s UUID -o value "$(readlink -f "$1")"; }
