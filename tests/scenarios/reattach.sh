#!/bin/bash
# Attached, detached, killed and attached again, many times, under load: the host goes on, and so does the recorder. No programs or maps stay behind, memory
# stays as flat as it was in the first rounds, the kernel has nothing to say, and the end is restored the same. The spool lies on the recorded file system,
# so that what is recorded is also what recording needs. One boot:
# `cargo xtask vm run --binaries --disk 2048 --disk 4096 --usb 4096 --timeout 3000 --script FILE`; more and elsewhere with
# `--kernel-args "tapeworm.rounds=100 tapeworm.fs=xfs tapeworm.seed=N"`.
set -u

a=/dev/guest/disk0 work=/dev/guest/disk1
. /opt/job/lib.sh
mkdir -p /a /work /medium
fs=$(given fs ext4) rounds=$(given rounds 4) seed=$(given seed "$(date +%s)")
RANDOM=$seed
echo "seed $seed, $fs, $rounds rounds, $(uname -r)"

make_fs $fs $a || exit 1
mkfs.ext4 -q -F $work && mkfs.ext4 -q -F /dev/guest/usb0
mount -t $fs $a /a && mount $work /work && mount /dev/guest/usb0 /medium || exit 1
mkdir /a/spool
cat > /run/reattach.toml <<END
[[volume]]
path = "/a"
medium = "/medium"
spool = "/a/spool"
END
volume=$(uuid $a)
pins=/sys/fs/bpf/tapeworm/$volume

# What a daemon may take, KiB: ring, window, unsealed records, the segment that is encoded from them (recorder/src/pipeline/limits.rs), and itself.
daemon_kib_max=$((512 << 10))
# KiB of the kernel's that no process and no page cache has.
kernel_kib() { awk '/^(SUnreclaim|VmallocUsed|Percpu|KernelStack|PageTables):/ { sum += $2 } END { print sum }' /proc/meminfo; }
peak_kib() { awk '/^VmHWM:/ { print $2 }' /proc/$recorder_pid/status; }
killed() { kill -9 $recorder_pid; wait $recorder_pid 2> /dev/null; }
attach() {
    recording 1 run --config /run/reattach.toml
    cat /results/recorder.log >> /results/recorders.log
}
detach() {
    peak_kib >> /results/peaks
    patience=180 expect 0 detached recorder detach
    ended 0 ""
}

mkdir /a/before && cp -a /etc /a/before
begin_load
# Rounds wait for the recorder alone: where the load had as much of the processors, most of a round were waiting.
renice -n 10 -p $loads > /dev/null
for round in $(seq 1 $rounds); do
    attach
    sleep 0.$((RANDOM % 10))
    case $((RANDOM % 3)) in
        0) how=detached; detach ;;
        1) how="killed, attached, detached"; peak_kib >> /results/peaks; killed; sleep 0.$((RANDOM % 10)); attach; detach ;;
        2) how="killed, taken out"; peak_kib >> /results/peaks; killed; patience=180 expect 0 detached recorder detach ;;
    esac
    [ ! -e $pins ] && ok || bad "round $round: $(ls $pins | wc -l) objects stay in the kernel"
    kernel=$(kernel_kib)
    echo $kernel >> /results/kernel
    echo "round $round, $how: daemon $(tail -n 1 /results/peaks) KiB at most, kernel $kernel KiB"
    [ $failed = 0 ] || break
done

# The middle of the last third is not above that of the first by more than a twentieth and 8 MiB. A few rounds tell nothing of that: how long each daemon
# lived decides.
third() { if [ $1 = first ]; then head -n $((rounds / 3 + 1)) $2; else tail -n $((rounds / 3 + 1)) $2; fi | sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
for what in peaks kernel; do
    before=$(third first /results/$what) after=$(third last /results/$what)
    figure ${what}_first_third_kib $before
    figure ${what}_last_third_kib $after
    echo "$what grows from $before to $after KiB" > "$out"
    [ $rounds -lt 12 ] || [ $after -le $((before + before / 20 + 8192)) ] && ok || bad "$what"
done
peak=$(sort -n /results/peaks | tail -n 1)
figure daemon_peak_kib $peak
figure daemon_kib_max $daemon_kib_max
[ $peak -le $daemon_kib_max ] && ok || bad "the daemon took $peak KiB"

attach
end_load
patience=180 expect 0 "mark end" recorder mark end
digest /a /run/digest
detach
silent

restored end mark:end /run/digest
verdict reattach
