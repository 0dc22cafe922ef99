#!/bin/bash
# Checkpoints and retention: while a load runs, a checkpoint is made, by hand and where a bound says so, also under a kill, and from the live file system
# where the media before are away; what was before it is taken away, and what is promised is restored. One boot:
# `cargo xtask vm run --binaries --disk 512 --disk 2048 --disk 128 --disk 256 --disk 96 --disk 96 --timeout 900 --script FILE`; elsewhere with
# `--kernel-args "tapeworm.fs=xfs"`.
set -u

a=/dev/guest/disk0 work=/dev/guest/disk1
. /opt/job/lib.sh
mkdir -p /a /work /m1 /m2 /m3 /m4
fs=$(given fs ext4)
make_fs $fs $a || exit 1
for disk in 1 2 3 4 5; do mkfs.ext4 -q -F /dev/guest/disk$disk || exit 1; done
mount -t $fs $a /a && mount $work /work || exit 1
for n in 1 2 3 4; do mount /dev/guest/disk$((n + 1)) /m$n || exit 1; done

for n in 1 2 3 4; do expect 0 "labelled" recorder media label /m$n --name tape-$n; done
mkdir /a/keep && cp -a /etc /a/keep/ && ln -s nowhere /a/keep/link && mkfifo /a/keep/pipe && ln /a/keep/etc/hosts /a/keep/hard
truncate -s 40M /a/sparse && echo x | dd of=/a/sparse bs=1 seek=20M conv=notrunc status=none
recording 1 attach /a --spool /work/spool --medium /m1 --medium /m2 --medium /m3
expect 2 "media_max" recorder attach /a --spool /work/spool --medium /m1 --media-max 1
expect 2 "checkpoint_live" recorder attach /a --spool /work/spool --medium /m1 --checkpoint-live
grow first 12; moment one
rm -r /a/keep/etc/apt; cp /a/first /a/second; moment two

echo "-- by hand, under load"
seed=7
begin_load
sleep 3
patience=300 expect 0 "checkpoint of volume" recorder checkpoint
end_load
moment three
echo "-- killed while one is made"
(sleep 0.4; kill -9 $recorder_pid) & recorder checkpoint > /dev/null 2>&1
wait $recorder_pid 2> /dev/null
recording 1 attach /a --spool /work/spool --medium /m1 --medium /m2 --medium /m3
echo after > /a/after-kill
# A walk does not meet it, and its content lies on the medium that will be away.
exec 9> /a/open-without-a-name && echo kept >&9 && rm /a/open-without-a-name
moment four
patience=300 expect 0 "" recorder media eject
for ((i = 0; i < 100; i++)); do [ "$(status '.volumes[0].medium_state.name')" = tape-2 ] && break; sleep 0.2; done
echo "-- from the live file system, under load, while the medium before is away"
umount /m1
patience=300 expect 20 "tape-1" recorder checkpoint
begin_load
patience=300 expect 0 "checkpoint of volume" recorder checkpoint --live
end_load
exec 9>&-
moment live
patience=180 expect 0 durable recorder flush --wait
from "without what was before, from the live file system" live /m2
mount /dev/guest/disk2 /m1
echo "-- the next medium gets a checkpoint, and is all that is needed"
patience=300 expect 0 "checkpoint of volume" recorder checkpoint
[ "$(replayer points --medium /m2 --json 2> "$out" | jq '[.volumes[].checkpoints[]] | length')" = 3 ] && ok || bad "not three checkpoints"
grow first 4; moment five
patience=180 expect 0 durable recorder flush --wait
for at in one two three four five; do from "all" $at /m1 /m2; done
from "without what was before" five /m2
two=$(replayer points --medium /m1 --medium /m2 --json 2> "$out" | jq -r '[.volumes[].points[] | select(.name == "two")][0] | "\(.epoch):\(.seq)"')
expect 0 "epoch ${two%:*} seq ${two#*:} " replayer plan --medium /m1 --medium /m2 --at seq:$two
rm -rf /work/restored
expect 20 "tape-1" replayer restore --medium /m2 --to /work/restored --at mark:three
rm -rf /work/restored

echo "-- rehearsed"
patience=300 expect 0 "SAME" replayer rehearse --medium /m1 --medium /m2 --scratch /work
[ -z "$(ls -d /work/tapeworm-rehearsal-* 2> /dev/null)" ] && ok || bad "the rehearsal left something"
expect 0 ": the same, " recorder status
# What a restore reads: the data of the newest checkpoint.
mkdir /work/rotten && cp -a /m2/* /work/rotten && segment=$(find /work/rotten -name '*.checkpoint.parquet' -size +500k | sort | tail -n 1) && chmod u+w $segment &&
    printf '\377\377\377' | dd of=$segment bs=1 seek=$(($(stat -c %s $segment) / 2)) conv=notrunc status=none
patience=300 expect 30 "" replayer rehearse --medium /work/rotten --scratch /work
expect 0 "FAILED" recorder status
rm -rf /work/rotten

echo "-- retention"
expect 0 "scanned" recorder media scan /m1 /m2
expect 2 "promise something" recorder retention plan --medium /m2
expect 2 "as in 30d" recorder retention plan --medium /m2 --keep-within 30
expect 0 "keep      medium tape-1" recorder retention plan --medium /m2 --medium /m1 --keep-mark two
grep -q "not needed" "$out" && bad "a promised mark's medium is free"
expect 0 "keep      medium tape-1" recorder retention plan --medium /m2 --keep-within 1h
expect 0 "not needed  medium tape-1" recorder retention plan --medium /m2 --medium /m1 --keep-mark five
expect 1 "is not retired" recorder media label /m1 --reuse --name tape-1b
expect 0 "retired   medium tape-1" recorder retention apply --medium /m2 --medium /m1 --keep-mark five
expect 0 "labelled medium tape-1b" recorder media label /m1 --reuse --name tape-1b
expect 10 "nothing was sealed" replayer points --medium /m1
from "with the other one used again" five /m2
expect 0 "" recorder detach
ended 0 ""

echo "-- by a bound: no more than two media"
recording 1 attach /a --spool /work/spool --medium /m2 --medium /m3 --medium /m4 --medium /m1 --media-max 2
[ "$(status '.volumes[0].base.continues != null')" = true ] && ok || bad "took a whole base"
grow more 20; moment six
patience=300 expect 0 "goes on" recorder media eject
for ((i = 0; i < 120; i++)); do grep -q "a checkpoint of seq" /results/recorder.log && break; sleep 1; done
grep -q "a restore needs 2 media, 2 are allowed" /results/recorder.log && grep -q "a checkpoint of seq" /results/recorder.log && ok ||
    { cp /results/recorder.log "$out"; bad "no checkpoint where another medium would be too many"; }
grow more 3; moment seven
patience=180 expect 0 durable recorder flush --wait
from "the newest alone" seven /m3
from "both" six /m2 /m3
patience=180 expect 0 "" recorder detach
ended 0 ""
patience=300 expect 0 "" replayer verify --medium /m2 --medium /m3
verdict checkpoint
