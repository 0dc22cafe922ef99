#!/bin/bash
# The medium may fail: it is unplugged while it is written to, at random moments, and plugged in again, many times in one boot, under load. The recorder
# goes on spooling, says what it needs, and goes on by itself when somebody has mounted it; in the end a machine that has only the medium restores every mark.
# `cargo xtask test --reliability --fault unplug`. Environment: PHASE (record, restore), FS, SEED, UNPLUGS.
set -u

. /opt/job/lib.sh
seed=$SEED RANDOM=$SEED
mkdir -p /a /work /medium /keep

if [ "$PHASE" = restore ]; then
    mount -o ro /dev/guest/medium /medium && mount /dev/guest/keep /keep || exit 1
    mkfs.ext4 -q -F /dev/guest/blank && mount /dev/guest/blank /work || exit 1
    replayer=/medium/replayer
    patience=300 expect 0 "" $replayer verify --medium /medium
    for point in $(ls -tr /keep/digest-*); do
        name=${point##*/digest-}
        restored "mark $name" mark:$name $point
    done
    # Every number is there exactly once, and none is a hole.
    $replayer dump --medium /medium --json-lines 2> "$out" | jq -r '[.epoch, .seq, .last_seq // .seq, .op] | @tsv' |
        awk '$1 != 1 || $2 != next_seq && NR > 1 || $4 ~ /^hole/ { print "unexplained at", $0; found = 1 }
            { next_seq = $3 + 1; rows = NR }
            END { print rows + 0, "records, the last number is", next_seq - 1; exit rows && !found ? 0 : 1 }' > /run/numbers
    [ "${PIPESTATUS[*]}" = "0 0 0" ] && ok || { head -n 5 /run/numbers >> "$out"; bad "numbers are not explained"; }
    tail -n 1 /run/numbers
    verdict "unplugged $UNPLUGS times, seed $SEED"
    exit
fi

# The device of the only USB disk, which has another name each time.
stick() {
    local disk
    for disk in /sys/block/sd*; do
        [[ $(readlink $disk) == */usb* && $(cat $disk/size 2> /dev/null) != 0 ]] && { echo /dev/${disk##*/}; return; }
    done
    false
}
plugged() {
    local i
    for ((i = 0; i < 600; i++)); do
        device=$(stick) && mount "$device" /medium 2> "$out" && return
        sleep 0.1
    done
    bad "the medium does not come back"
    false
}

make_fs $FS /dev/guest/origin || exit 1
mkfs.ext4 -q -F /dev/guest/spool && mkfs.ext4 -q -F /dev/guest/keep && mkfs.ext4 -q -F "$(stick)" || exit 1
mount -t $FS /dev/guest/origin /a && mount /dev/guest/spool /work && mount /dev/guest/keep /keep && plugged || exit 1
echo "$FS, $(uname -r)"

# Something is being sealed at nearly every moment.
begin_sealing() {
    begin_load
    while [ ! -e /run/enough ]; do timeout 20 recorder flush; sleep 0.2; done > /dev/null 2>&1 &
    loads="$loads $!"
}
# A moment that must come back.
quiet() {
    patience=300 expect 0 "mark $1" recorder mark $1
    digest /a /run/digest
    cp /run/digest /keep/digest-$1
}

recording 1 attach /a --medium /medium --spool /work
begin_sealing
said=0
for ((round = 1; round <= UNPLUGS && failed == 0; round++)); do
    echo "-- unplug"
    for ((i = 0; i < 600; i++)); do [ -e "$device" ] || break; sleep 0.1; done
    [ -e "$device" ] && { bad "nobody has unplugged it"; break; }
    before=$(status '.volumes[0].spooled_seq')
    # As whoever looks after the host does; the recorder still has files open there.
    umount -l /medium
    for ((i = 0; i < 100; i++)); do
        [ "$(status '.volumes[0].spooled_seq')" -gt "$before" ] && break
        sleep 0.1
    done
    [ $i -lt 100 ] && ok || bad "spooling does not go on"
    [ "$(status '.volumes[0].error != null')" = true ] && said=$((said + 1))
    plugged || break
    patience=300 expect 0 durable recorder flush --wait
    [ "$(status '.volumes[0].error')" = null ] && ok || bad "it still needs something"
    if [ $((round % 4)) = 0 ]; then
        end_load
        quiet back-$round
        begin_sealing
    fi
done
end_load
quiet end
patience=300 expect 0 durable recorder flush --wait
[ $said -gt 0 ] && ok || bad "it never said that it needs the medium"
[ "$(status '.volumes[0].holes_open')" = 0 ] && ok || bad "holes are open"
echo "unplugged $((round - 1)) times, it said so $said times; $(status '.volumes[0] | "\(.events) events, \(.segments) segments"')"
patience=300 expect 0 detached recorder detach
ended 0 ""
umount /a /medium || bad "cannot unmount"
verdict "unplugged $UNPLUGS times, seed $SEED"
