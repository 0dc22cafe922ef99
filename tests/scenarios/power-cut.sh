#!/bin/bash
# The host may die: one boot of several with the same disks, the power is cut in all but the last two, and a disk loses what it had not flushed. The
# recorder is attached again each time and goes on from its journal; in the end a machine that has only the medium restores every mark.
# `cargo xtask test --reliability --fault power-cut`. Environment: BOOT (from 0, not to restore), PHASE (cut, last, restore), FS, SEED.
set -u

. /opt/job/lib.sh
mkdir -p /a /work /medium /keep
log() { cp /results/recorder.log /keep/recorder-$BOOT.log; }
# What the host must not lose with the rest.
keep() { "$@"; sync -f /keep; }

if [ "${BOOT-}" = 0 ]; then
    make_fs $FS /dev/guest/origin || exit 1
    mkfs.ext4 -q -F /dev/guest/spool && mkfs.ext4 -q -F /dev/guest/medium && mkfs.ext4 -q -F /dev/guest/keep || exit 1
fi
mount /dev/guest/keep /keep || exit 1
volume_of() { blkid -s UUID -o value "$(readlink -f /dev/guest/$1)"; }

if [ "$PHASE" = restore ]; then
    mount -o ro /dev/guest/medium /medium || exit 1
    mkfs.ext4 -q -F /dev/guest/blank && mount /dev/guest/blank /work || exit 1
    replayer=/medium/replayer
    patience=300 expect 0 "" $replayer verify --medium /medium
    for point in $(ls -tr /keep/digest-*); do
        name=${point##*/digest-}
        for more in "" --stepwise; do
            restored "mark $name $more" mark:$name $point $more
            [ "$name" = end ] || break
        done
    done
    # Stores through a mapping are told of before they are written back.
    $replayer dump --medium /medium --json-lines 2> "$out" |
        jq -r 'select(.op == "setattr" and .actor.comm == "python3" and .attributes.size == null) | .seq' > /run/mapped
    [ -s /run/mapped ] && ok || bad "no mapping is told of"
    verdict "power cuts, seed $SEED"
    exit
fi

RANDOM=$((SEED * 100 + BOOT))
# Data is on the disk long before the times of its inode, unless somebody waits for both; or, in every other boot, long after them.
case $FS in ext4) options=commit=30 ;; *) options=defaults ;; esac
late=$(((SEED + BOOT) % 2))
if [ $late = 1 ]; then expire=12000 barrier=20; else expire=100 barrier=3; fi
echo $((expire / 2)) > /proc/sys/vm/dirty_writeback_centisecs
echo $expire > /proc/sys/vm/dirty_expire_centisecs
mount -t $FS -o $options /dev/guest/origin /a && mount /dev/guest/spool /work && mount /dev/guest/medium /medium || exit 1
[ "$BOOT" = 0 ] && mkdir /work/spool
cat > /run/cut.toml <<END
[[volume]]
path = "/a"
medium = "/medium"
spool = "/work/spool"
barrier_s = $barrier
END

# Files of all kinds, for ever; its own child.
load() {
    local n=0 d=/a/load-$1
    RANDOM=$((SEED * 100 + BOOT * 10 + $1))
    mkdir -p $d/still
    while [ ! -e /run/enough ]; do
        n=$((n + 1))
        echo "$1 $BOOT $n" > $d/new-$((n % 40)) && mv $d/new-$((n % 40)) $d/file-$((n % 40))
        head -c $((RANDOM * 2)) /dev/urandom >> $d/grows-$((n % 5))
        dd if=/dev/urandom of=$d/synced bs=4096 seek=$((RANDOM % 200)) count=$((RANDOM % 8 + 1)) conv=notrunc,fdatasync status=none
        # In place: size and times are as they were, only the change time is not, and that may be lost.
        local still=$d/still/$((RANDOM % 30))
        [ -e $still ] || head -c 65536 /dev/zero > $still
        touch -r $still /run/times-$1
        dd if=/dev/urandom of=$still bs=4096 seek=$((RANDOM % 16)) count=1 conv=notrunc status=none
        touch -r /run/times-$1 $still
        [ $((n % 7)) = 0 ] && truncate -s $((RANDOM * 3)) $d/grows-$((n % 5))
        [ $((n % 9)) = 0 ] && fallocate -p -o $((RANDOM / 4096 * 4096)) -l 16384 $d/synced 2> /dev/null
        [ $((n % 5)) = 0 ] && ln -f $d/file-$((n % 40)) $d/link && chmod 0$((n % 8))44 $d/link && setfattr -n user.n -v $n $d/link
        [ $((n % 11)) = 0 ] && rm -f $d/file-$((RANDOM % 40)) && mkdir -p $d/sub/$((n % 13)) && rm -rf $d/sub/$((RANDOM % 13))
        [ $((n % 13)) = 0 ] && cp --reflink=auto $d/synced $d/copy
        [ $((n % 17)) = 0 ] && [ $late = 0 ] && sync -f /a
        # What is committed here are the times of all files, with the data of this one alone.
        [ $((n % 3)) = 0 ] && echo $n > $d/committed && sync $d/committed
        [ $(stat -c %s $d/grows-$((n % 5))) -gt 2000000 ] && rm $d/grows-$((n % 5))
        sleep 0.02
    done
}
# Stores through mappings, into a page of one of several files at a time; now and then written back.
mapped() {
    exec python3 - "$((SEED * 100 + BOOT))" <<'END'
import mmap, os, random, sys, time
random.seed(int(sys.argv[1]))
os.makedirs("/a/mapped", exist_ok=True)
maps = []
for number in range(12):
    fd = os.open(f"/a/mapped/{number}", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 64 * 4096)
    maps.append(mmap.mmap(fd, 64 * 4096))
while not os.path.exists("/run/enough"):
    chosen, page = random.choice(maps), random.randrange(64)
    chosen[page * 4096:page * 4096 + 512] = os.urandom(512)
    if random.randrange(20) == 0:
        chosen.flush()
    time.sleep(random.random() * 0.1)
END
}
# What was done a moment ago is on the medium, while its data is not on the disk yet.
sealed_soon() { while [ ! -e /run/enough ]; do sleep 0.7; recorder flush; done; }
loads=
begin_load() {
    rm -f /run/enough
    loads=
    [ $late = 1 ] && { sealed_soon > /results/sealed-soon 2>&1 & loads=$!; }
    for i in 1 2; do
        load $i > /results/load-$i 2>&1 &
        loads="$loads $!"
    done
    mapped > /results/load-mapped 2>&1 &
    loads="$loads $!"
}
end_load() { touch /run/enough; wait $loads; loads=; }
# A moment that must come back: on the medium, and known to whoever compares.
quiet() {
    patience=180 expect 0 "mark $1" recorder mark $1
    digest /a /run/digest
    patience=180 expect 0 durable recorder flush --wait
    keep cp /run/digest /keep/digest-$1
}
how_it_began() {
    status '.volumes[0] | "epoch \(.epoch): " + if .base.whole_because then "whole base, \(.base.whole_because)"
        elif .base.continues then "continues \(.base.continues.epoch), \(.base.looked_at) looked at, \(.base.differed) differed, \(.base.in_doubt) in doubt, \(.base.gone) gone"
        else "the first" end'
}

echo "boot $BOOT, $FS, $(uname -r)"
[ "$BOOT" = 0 ] && { mkdir /a/before && cp -a /etc /a/before; }
# Whoever starts before the recorder does is not seen by it.
[ "$BOOT" -gt 0 ] && [ $((RANDOM % 2)) = 0 ] && { begin_load; sleep 1; end_load; sync; }
# Some of the cuts come while it is being attached.
early=$((BOOT > 0 && RANDOM % 4 == 0))
[ "$PHASE" = cut ] && [ $early = 1 ] && echo "-- cut"
[ $((RANDOM % 2)) = 0 ] && begin_load
recording 1 run --config /run/cut.toml
log
how_it_began | tee -a /keep/began
[ -n "$loads" ] || begin_load
sleep $((RANDOM % 4 + 2))
end_load
quiet boot-$BOOT
[ "$PHASE" = cut ] && [ $failed = 0 ] && [ $early = 0 ] && { begin_load; sleep $((RANDOM % 6)); echo "-- cut"; }
if [ "$PHASE" = cut ]; then
    [ $failed = 0 ] || { verdict "boot $BOOT"; exit 1; }
    [ -n "$loads" ] || begin_load
    sleep 120
    echo "nobody has cut the power"
    exit 1
fi

begin_load
sleep 3
end_load
quiet end
expect 0 detached recorder detach
ended 0 ""
log
echo "== how each boot began"
cat /keep/began
umount /a /medium || bad "cannot unmount"
verdict "boot $BOOT"
