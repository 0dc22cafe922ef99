#!/bin/bash
# What --on-full does where more is written than ring and spool can take: holes at full speed, or writers that are slowed down. One boot:
# `cargo xtask vm run --binaries --disk 1536 --disk 1536 --usb 3072 --script FILE`.
set -u

origin=/dev/guest/disk0 spools=/dev/guest/disk1
. /opt/job/lib.sh
patience=240
mkdir -p /origin /spool /medium
mkfs.ext4 -q -F $origin && mkfs.ext4 -q -F $spools && mkfs.ext4 -q -F /dev/guest/usb0 || exit 1
mount $origin /origin && mount $spools /spool && mount /dev/guest/usb0 /medium || exit 1

# Stops the recorder for a tenth of a second, again and again: a fast one would keep up with any burst. A writer that is slowed fills less than half of the
# ring meanwhile.
cat > /run/stutter.py <<'END'
import os, signal, sys, time
open("/run/stutters", "w").close()
while True:
    for which in (signal.SIGSTOP, signal.SIGCONT):
        os.kill(int(sys.argv[1]), which)
        time.sleep(0.1)
END

# Writes more in one go than a small ring holds, while the recorder does half of the time nothing; says how long that took, in milliseconds. To be run in
# $(), which waits for no recorder.
burst() {
    local begin stutter i writers=
    python3 /run/stutter.py $recorder_pid > /dev/null &
    stutter=$!
    for ((i = 0; i < 300; i++)); do [ -e /run/stutters ] && break; sleep 0.1; done
    begin=$(date +%s%3N)
    for i in 1 2; do
        dd if=/dev/zero of="/origin/$1-$i" bs=64k count=1200 status=none &
        writers="$writers $!"
    done
    wait $writers
    echo $(($(date +%s%3N) - begin))
    kill $stutter; wait $stutter 2> /dev/null
    kill -CONT $recorder_pid
    rm /run/stutters
}

# arm ON_FULL: records a burst through a small ring; sets took_ms, slowed_ms, lost (numbers in holes).
arm() {
    mkdir -p "/medium/$1"
    recording 1 attach /origin --spool /spool --medium "/medium/$1" --ring-mib 4 --on-full "$1"
    took_ms=$(burst "$1")
    cp /results/recorder.log "/results/recorder-$1.log"
    slowed_ms=$(status '.volumes[0].throttled_ms')
    expect 0 "durable" recorder flush --wait
    expect 0 "mark" recorder mark end
    oracle digest /origin --out "/run/$1" --exclude lost+found > /dev/null
    expect 0 "detached" recorder detach
    ended 0 ""
    lost=$(replayer dump --medium "/medium/$1" --json-lines 2> /dev/null | jq -r 'select(.op == "hole") | (.last_seq // .seq) - .seq + 1' |
        awk '{ all += $1 } END { print all + 0 }')
    echo "$1: the burst took $took_ms ms, writers were slowed for $slowed_ms ms, $lost events were lost"
}

echo "-- writers are not slowed where the spool lies on the same volume"
mkdir /medium/refused
expect 2 "put the spool elsewhere" recorder attach /origin --spool /origin/spool --medium /medium/refused --on-full throttle
rm -rf /origin/spool

echo "-- a burst through a small ring"
arm hole
hole_ms=$took_ms hole_lost=$lost
[ "$slowed_ms" = 0 ] && ok || bad "writers were slowed without being asked to"
arm throttle
[ "$slowed_ms" -gt 0 ] && ok || bad "writers were not slowed"
[ "$hole_lost" -gt 0 ] && ok || bad "nothing was lost at full speed: this proves nothing"
[ "$lost" -lt "$hole_lost" ] && ok || bad "as much was lost with slowed writers"
figure times_as_long $(awk "BEGIN { printf \"%.2f\", $took_ms / $hole_ms }")
figure lost_without $hole_lost
figure lost_with $lost
awk "BEGIN { printf \"throttle: %.2f times as long, %d events lost instead of %d\n\", $took_ms / $hole_ms, $lost, $hole_lost }"

mkdir /run/back
for name in hole throttle; do
    rm -rf /spool/back && mkdir /spool/back
    expect 0 "" replayer restore --medium "/medium/$name" --to /spool/back
    oracle digest /spool/back --out /run/restored --exclude lost+found > /dev/null
    expect 0 "SAME" oracle compare "/run/$name" /run/restored
done

verdict throttle
