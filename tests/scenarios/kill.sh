#!/bin/bash
# The recorder may die: killed at random moments under load, by the kernel too, stopped for a while, restarted as a service, upgraded; another one goes on. No number is lost or
# doubled, and every mark and the end are restored the same. One boot:
# `cargo xtask vm run --binaries --disk 1024 --disk 4096 --usb 3072 --timeout 1500 --script FILE`; more and elsewhere, or the same
# moments again, with `--kernel-args "tapeworm.kills=50 tapeworm.fs=xfs tapeworm.stopped=60 tapeworm.ring=1 tapeworm.seed=N"`.
set -u

a=/dev/guest/disk0 work=/dev/guest/disk1
. /opt/job/lib.sh
mkdir -p /a /work /medium
fs=$(given fs ext4) kills=$(given kills 3) stopped=$(given stopped 20) seed=$(given seed "$(date +%s)")
RANDOM=$seed
echo "seed $seed, $fs, $kills kills, stopped for $stopped s, $(uname -r)"

make_fs $fs $a || exit 1
mkfs.ext4 -q -F $work && mkfs.ext4 -q -F /dev/guest/usb0
mount -t $fs $a /a && mount $work /work && mount /dev/guest/usb0 /medium || exit 1
mkdir /work/spool
cat > /run/kill.toml <<END
[[volume]]
path = "/a"
medium = "/medium"
spool = "/work/spool"
ring_mib = $(given ring 64)
END
volume=$(uuid $a)

killed() { kill -9 $recorder_pid; wait $recorder_pid 2> /dev/null; }
# The kernel kills it for want of memory: its control group is suddenly allowed less than it uses.
starved() {
    local group=/sys/fs/cgroup/starved
    echo +memory > /sys/fs/cgroup/cgroup.subtree_control && mkdir -p $group || { bad "no control group for memory"; killed; return; }
    echo max > $group/memory.max
    echo $recorder_pid > $group/cgroup.procs
    local before=$(grep -w oom_kill $group/memory.events)
    echo 1M > $group/memory.max
    wait $recorder_pid 2> /dev/null
    echo "$before, now $(grep -w oom_kill $group/memory.events)" > "$out"
    [ "$before" != "$(grep -w oom_kill $group/memory.events)" ] && ok || bad "it did not end for want of memory"
}
# again WHAT: the recorder is started again and goes on.
again() {
    recording 1 run --config /run/kill.toml
    cat /results/recorder.log >> /results/recorders.log
    grep -q "going on after seq" /results/recorder.log && ok || { cp /results/recorder.log "$out"; bad "$1: it does not go on"; }
}
quiet() {
    expect 0 "mark $1" recorder mark $1
    digest /a /run/digest-$1
}

mkdir /a/before && cp -a /etc /a/before && recording 1 run --config /run/kill.toml
epoch=$(status '.volumes[0].epoch')
for k in $(seq 1 $kills); do
    begin_load
    sleep $((RANDOM % 6)).$((RANDOM % 10))
    if [ $((k % 3)) = 2 ]; then starved; else killed; fi
    sleep $((RANDOM % 3)).$((RANDOM % 10))
    again "kill $k"
    if [ $((k % 2)) = 0 ]; then
        killed
        sleep 0.$((RANDOM % 10))
        again "kill $k, second"
    fi
    sleep 0.$((RANDOM % 10))
    end_load
    patience=180 quiet kill-$k
    echo "kill $k: seq $(status '.volumes[0].captured_seq'), holes $(status '.volumes[0].holes_open'), misses $(status '.volumes[0].misses')"
done

echo "-- restarted as a service, and upgraded: another file takes the place of the program that runs"
program=$(command -v recorder)
for k in 1 2; do
    begin_load
    sleep 1.$((RANDOM % 10))
    try cp $program $program.new && try mv $program.new $program
    kill -TERM $recorder_pid
    ended 0 "told to stop"
    [ -n "$(ls /sys/fs/bpf/tapeworm/$volume)" ] && ok || bad "the programs are gone"
    expect 10 "go on" recorder status
    again "restart $k"
    end_load
    patience=180 quiet restart-$k
done

echo "-- stopped for a while"
begin_load
sleep 1
kill -STOP $recorder_pid
sleep $stopped
kill -CONT $recorder_pid
end_load
patience=300 quiet stopped
echo "stopped: seq $(status '.volumes[0].captured_seq'), holes $(status '.volumes[0].holes_open'), misses $(status '.volumes[0].misses')"
[ "$(status '.volumes[0].epoch')" = $epoch ] && ok || bad "another epoch"
[ "$(status '.volumes[0].holes_open')" = 0 ] && ok || bad "holes"
patience=180 quiet end
patience=180 expect 0 "durable" recorder flush --wait

echo "-- nobody there"
killed
expect 0 "detached" recorder detach
[ -z "$(ls -A /sys/fs/bpf/tapeworm)" ] && ok || bad "programs stay"
expect 10 "no recorder is running" recorder detach

echo "-- unmounted meanwhile"
recording 1 run --config /run/kill.toml
killed
mkdir -p /work/elsewhere && umount /a && mount -t $fs $a /work/elsewhere
echo unseen > /work/elsewhere/unseen
umount /work/elsewhere && mount -t $fs $a /a
recording 1 run --config /run/kill.toml
cp /results/recorder.log "$out"
grep -q "unmounted since then" "$out" && [ "$(status '.volumes[0].epoch')" -gt $epoch ] && ok || bad "it goes on over an unmount"
digest /a /run/digest-last
expect 0 "detached" recorder detach
ended 0 ""

echo "-- restored"
patience=300 expect 0 "" replayer verify --medium /medium
# Every number of the epoch is a record or within a hole, once.
replayer dump --medium /medium --json-lines > /work/rows 2> "$out"
jq -r 'select(.epoch == '$epoch') | [.seq, (.last_seq // .seq), .op] | @tsv' /work/rows > /work/numbers
awk 'NR > 1 && $1 != next_seq { print "after " next_seq - 1 " comes " $1; bad = 1 } { next_seq = $2 + 1; count[$3]++ }
    END { for (op in count) if (op ~ /hole/) print op, count[op]; print "numbers up to " next_seq - 1; exit bad }' /work/numbers > "$out" && ok || bad "numbers"
sed 's/^/    /' "$out" | tail -n 12
for point in $(cd /run && ls -tr digest-*); do
    name=${point#digest-}
    at=mark:$name; [ $name = last ] && at=latest
    restored $at $at /run/$point
done

silent
verdict kill
