#!/bin/bash
# What is wrong is said: every thread that stands still, a recorder that does not answer or is gone, programs that see nothing, a medium that is
# away from an idle volume. One boot:
# `cargo xtask vm run --binaries --disk 1024 --disk 1024 --usb 1024 --script FILE`.
set -u

a=/dev/guest/disk0 work=/dev/guest/disk1
. /opt/job/lib.sh
mkdir -p /a /work /medium
mkfs.ext4 -q -F $a && mkfs.ext4 -q -F $work && mkfs.ext4 -q -F /dev/guest/usb0
mount $a /a && mount $work /work && mount /dev/guest/usb0 /medium || exit 1
mkdir /work/spool

# said SECONDS TEXT: `recorder check --nagios` says this within so many seconds, and with which code.
said() {
    local begun=$SECONDS
    code=
    while [ $((SECONDS - begun)) -le "$1" ]; do
        recorder check --nagios > "$out" 2>&1
        code=$?
        grep -qF -- "$2" "$out" && { ok; took=$((SECONDS - begun)); return; }
        sleep 0.5
    done
    bad "check does not say '$2' within $1 s"
}
# well SECONDS: all is well within so many seconds.
well() {
    said "$1" "OK - "
    [ "$code" = 0 ] && expect 0 "nothing is to be done" recorder check
}
logged() { grep -cF -- "$1" /results/recorder.log; }

expect 10 "no recorder is running" recorder check
expect 2 "CRITICAL - no recorder is running" recorder check --nagios
expect 3 "invalid value" recorder check --nagios --stale-s 0
echo before > /a/before
# Barriers take numbers, too, and what takes numbers needs no canary: let them be over soon.
recording 1 attach /a --medium /medium --spool /work/spool --barrier-s 5
expect 0 "durable" recorder flush --wait
well 20

echo "-- programs that see nothing"
echo 0 > /sys/kernel/debug/kprobes/enabled
said 150 "do not see changes"
[ "$code" = 2 ] && ok || bad "code $code"
echo "    said after $took s"
echo unseen > /a/unseen
echo 1 > /sys/kernel/debug/kprobes/enabled
well 60
[ "$(logged "see changes again")" = 1 ] && ok || bad "the log does not say that they see again"
expect 0 "durable" recorder flush --wait
[ "$(status '.volumes[0].holes_repaired')" -ge 2 ] && ok || bad "what was not seen is no hole that was repaired"

echo "-- metrics"
expect 0 'tapeworm_up 1' recorder metrics
check "no metrics" recorder metrics --out /run/tapeworm.prom
cp /run/tapeworm.prom "$out"
for name in captured_seq durable_seq durable_timestamp_seconds lag_seconds holes_open ring_fill_bytes spool_used_bytes medium_free_bytes; do
    grep -q "^tapeworm_$name{path=\"/a\"" "$out" && ok || bad "no $name"
done
grep -q '^tapeworm_medium_ok{.*} 1$' "$out" && ok || bad "the medium is not ok"

echo "-- an idle volume"
# The last barriers first; then a canary comes, which is asked for every minute and then every two.
sleep 20
segments=$(status '.volumes[0].segments') captured=$(status '.volumes[0].captured_seq')
for ((i = 0; i < 150; i++)); do [ "$(status '.volumes[0].captured_seq')" = "$captured" ] || break; sleep 1; done
sleep 15
status '.volumes[0] | "captured \(.captured_seq) durable \(.durable_seq) safe \(.safe_seq) segments \(.segments)"' | sed 's/^/    /'
recorder status > "$out" 2>&1
sed 's/^/    /' "$out"
[ "$(status '.volumes[0].segments')" = "$segments" ] && ok || bad "an idle volume costs segments"
[ "$(status '.volumes[0].captured_seq')" -gt "$captured" ] && ok || bad "no canary"
[ "$(status '.volumes[0] | .safe_seq == .captured_seq')" = true ] && ok || bad "a canary did not come back"
well 1

echo "-- threads"
threads $recorder_pid | sed 's/^/    /'
count=0
while read -r thread name; do
    case $name in
        # The event loop: whoever asks hears it from the state file.
        recorder) name=control ;;
        # Ends when it has nothing to do.
        tokio*) continue ;;
    esac
    freeze "$thread"
    said 30 "$name has not moved"
    echo "    $name: said after $took s, code $code"
    case $name in
        control) expect 1 "does not answer" recorder check; expect 1 "what it said of itself" recorder status ;;
        *) expect 1 "$name has not moved" recorder check; expect 0 "$name has not moved" recorder status ;;
    esac
    [ "$(logged "the thread $name has not moved")" = 1 ] && ok || bad "the log does not say that $name stands still"
    thaw
    well 20
    [ "$(logged "the thread $name moves again")" = 1 ] && ok || bad "the log does not say that $name moves again"
    count=$((count + 1))
done < <(threads $recorder_pid)
[ $count = 9 ] && ok || bad "$count threads"

echo "-- stopped as a whole"
before=$(logged "has not moved")
kill -STOP $recorder_pid
sleep 35
expect 2 "nothing was heard of it since" recorder check --nagios
kill -CONT $recorder_pid
well 20
[ "$(logged "has not moved")" = "$before" ] && ok || bad "threads are said to have stalled that were stopped"

echo "-- a medium that is away from an idle volume"
umount -l /medium
said 20 "is not at /medium any more"
[ "$code" = 1 ] && ok || bad "code $code"
expect 20 "mount the medium" recorder check
mount /dev/guest/usb0 /medium
well 20

digest /a /run/digest-a

echo "-- gone"
kill -9 $recorder_pid
wait $recorder_pid 2> /dev/null
expect 10 "go on (volume $(uuid $a))" recorder check
sed 's/^/    /' "$out"
expect 2 "CRITICAL - no recorder is running" recorder check --nagios
expect 0 "tapeworm_up 0" recorder metrics
recording 1 attach /a --medium /medium --spool /work/spool
well 30
expect 0 "detached" recorder detach
ended 0 ""
[ -e /run/tapeworm/state.json ] && bad "the state stays" || ok
expect 0 "" replayer verify --medium /medium
mkdir /work/restored
expect 0 "" replayer restore --medium /medium --to /work/restored
check "digest" oracle digest /work/restored --out /run/digest-restored --exclude lost+found --exclude spool
check "it is not the same" oracle compare /run/digest-a /run/digest-restored

verdict stalls
