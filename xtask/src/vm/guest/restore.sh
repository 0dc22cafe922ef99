#!/bin/bash
# The second machine of a round trip: the medium, read-only, a blank disk, and nothing else of the first machine.
# Environment: MKFS (empty: as recorded), BLOCK_LOG (1: there is a disk `logged`), ROWS (1: list rows of the journal).
# Arguments: the points to restore, `final` or `mark-NAME`; before it `steps-` (record by record) or `again-` (once more).
set -u

fail() { echo "round trip: $*" >&2; exit 1; }
seconds_now() { cut -d ' ' -f 1 /proc/uptime; }
phase() { echo "$1 $(seconds_now)" >> /results/phases; }

mkdir -p /medium /restored /results/digests
phase boot
mount -o ro /dev/guest/medium /medium || fail "cannot mount the medium"
replayer=$(find /medium -maxdepth 2 -type f -name replayer | head -n 1)
[ -n "$replayer" ] || fail "there is no replayer on the medium"
[ -x "$replayer" ] || fail "the replayer on the medium cannot be executed"
phase verify
"$replayer" verify --medium /medium > /results/verify.out 2>> /results/replayer.log || { code=$?
    tail -n 20 /results/verify.out /results/replayer.log >&2
    fail "replayer verify ended with $code"; }
if [ "$ROWS" = 1 ]; then
    phase rows
    # Names, snapshots, holes and marks, without content: the matrix asks who was repaired.
    "$replayer" dump --medium /medium --json-lines 2>> /results/replayer.log |
        grep -E '"op":"(base_begin|base_end|create|link|rename|exchange|snapshot|snapshot_entry|hole|mark)"' > /results/journal.jsonl
    [ "${PIPESTATUS[*]}" = "0 0" ] || fail "cannot list the journal's rows"
fi

if [ "$BLOCK_LOG" = 1 ]; then
    # The origin as QEMU saw it being written. It is blanked before anything is restored: nothing of it may help there,
    # and a file system cannot be mounted beside another one with its uuid.
    phase digest-block-log
    mount -o ro /dev/guest/logged /restored || fail "cannot mount what the log of the origin's disk says"
    oracle digest /restored --out /results/digests/block-log > /dev/null || fail "cannot digest what the log says"
    umount /restored && blkdiscard -f -q /dev/guest/logged || fail "cannot blank the disk made from the log"
fi

failures=0
for point in "$@"; do
    phase "restore-$point"
    # Every point gets a disk that is blank indeed.
    blkdiscard -f -q /dev/guest/blank || fail "cannot blank the disk"
    options=()
    case $point in steps-*) options=(--stepwise) ;; esac
    of=${point#steps-} of=${of#again-}
    case $of in final) ;; *) options+=(--at "mark:${of#mark-}") ;; esac
    echo "== restore $point" >> /results/replayer.log
    "$replayer" restore --medium /medium --device "$(readlink -f /dev/guest/blank)" "${options[@]}" ${MKFS:+--mkfs "$MKFS"} \
        > /results/restore.out 2>> /results/replayer.log || { code=$?
        tail -n 20 /results/restore.out /results/replayer.log >&2
        echo "round trip: replayer restore of $point ended with $code" >&2
        failures=$((failures + 1))
        # 3: finished but incomplete. What differs is worth knowing.
        [ "$code" = 3 ] || continue; }
    phase "digest-$point"
    mount -o ro /dev/guest/blank /restored || { echo "round trip: cannot mount what was restored of $point" >&2
        failures=$((failures + 1)); continue; }
    oracle digest /restored --out "/results/digests/$point" > /dev/null || { echo "round trip: cannot digest $point" >&2
        failures=$((failures + 1)); }
    umount /restored || fail "cannot unmount what was restored"
done
phase end
[ "$failures" = 0 ]
