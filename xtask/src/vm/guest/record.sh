#!/bin/bash
# The first machine of a round trip: an origin under recording, the workload, the flush, the reference digests.
# Environment: FS, MKFS_OPTIONS (words), MARK_EACH (0 or 1), BEFORE (0 or 1), ATTACH_WAIT_S; further arguments are the workload's command.
set -u

fail() {
    echo "round trip: $*" >&2
    tail -n 40 /results/recorder.log >&2
    exit 1
}

mkfs_origin() {
    local options
    read -ra options <<< "$MKFS_OPTIONS"
    case $FS in
        ext4) mkfs.ext4 -q -F "${options[@]}" /dev/guest/origin ;;
        xfs) mkfs.xfs -q -f "${options[@]}" /dev/guest/origin ;;
        btrfs) mkfs.btrfs -q -f "${options[@]}" /dev/guest/origin ;;
    esac
}

seconds_now() { cut -d ' ' -f 1 /proc/uptime; }
phase() { echo "$1 $(seconds_now)" >> /results/phases; }

mkdir -p /origin /medium /spool /results/digests /run/job
touch /results/recorder.log
phase boot
mkfs_origin || fail "cannot make $FS on the origin disk"
mkfs.ext4 -q -F -L medium /dev/guest/medium || fail "cannot make ext4 on the medium"
mkfs.ext4 -q -F /dev/guest/spool || fail "cannot make ext4 on the spool disk"
mount -t "$FS" /dev/guest/origin /origin && mount /dev/guest/medium /medium && mount /dev/guest/spool /spool ||
    fail "cannot mount the disks"

# What was there before recording began; it may leave programs running that go on writing during the base scan.
cd /origin || fail "cannot enter the origin"
if [ "$BEFORE" = 1 ]; then
    /bin/bash /opt/job/before || fail "the script that runs before recording ended with $?"
fi
phase attach

recorder attach /origin --medium /medium --spool /spool > /run/job/attach.out 2> /results/recorder.log < /dev/null &
recorder_pid=$!
for ((i = 0; i < ATTACH_WAIT_S * 10; i++)); do
    grep -q '^recording ' /run/job/attach.out && break
    kill -0 $recorder_pid 2> /dev/null || { wait $recorder_pid; fail "recorder attach ended with $? before it was recording"; }
    sleep 0.1
done
grep -q '^recording ' /run/job/attach.out || fail "recorder attach is not recording after $ATTACH_WAIT_S s"
phase workload

if [ "$MARK_EACH" = 1 ]; then
    /opt/job/mark-each "${@: -1}"
else
    "$@"
fi
code=$?
echo $code > /results/script-code
[ -e /run/job/mark-failed ] && fail "a mark failed"
phase flush

kill -0 $recorder_pid 2> /dev/null || { wait $recorder_pid; fail "the recorder ended with $? while the workload ran"; }
timeout 600 recorder flush --wait >&2 || fail "recorder flush ended with $?"
recorder status --json > /results/status.json || fail "recorder status ended with $?"
phase digest
oracle digest /origin --out /results/digests/final > /dev/null || fail "cannot digest the origin"
phase detach
timeout 600 recorder detach >&2 || fail "recorder detach ended with $?"
for ((i = 0; i < 600; i++)); do kill -0 $recorder_pid 2> /dev/null || break; sleep 0.1; done
kill -0 $recorder_pid 2> /dev/null && fail "the recorder still runs after detach"
wait $recorder_pid || fail "the recorder ended with $? after detach"
cd /
du -s --block-size=1 /medium | cut -f 1 > /results/medium-bytes
df --block-size=1 --output=used /origin | tail -n 1 > /results/origin-bytes
umount /origin || fail "cannot unmount the origin: $(fuser -vm /origin 2>&1)"
sync /dev/guest/origin || fail "cannot flush the origin disk"
umount /medium || fail "cannot unmount the medium"
phase end
