#!/bin/bash
# A journal goes on over media: full, ejected, changed in one drive, away; with a copy in each of two pools, of which one fills a medium and one is
# away for a while; and is restored from all of them, asked for by name, and from the copies alone. One boot:
# `cargo xtask vm run --binaries --disk 512 --disk 2048 --disk 96 --disk 96 --disk 96 --disk 96 --disk 512 --disk 64 --disk 256 --timeout 900 --script FILE`;
# elsewhere with `--kernel-args "tapeworm.fs=xfs"`.
set -u

a=/dev/guest/disk0 work=/dev/guest/disk1
. /opt/job/lib.sh
mkdir -p /a /work /m1 /m2 /m3 /m4 /m5 /c1 /c2 /drive
fs=$(given fs ext4)
make_fs $fs $a || exit 1
for disk in 1 2 3 4 5 6 7 8; do mkfs.ext4 -q -F /dev/guest/disk$disk || exit 1; done
mount -t $fs $a /a && mount $work /work || exit 1
for n in 1 2 3 4 5; do mount /dev/guest/disk$((n + 1)) /m$n || exit 1; done
mount /dev/guest/disk7 /c1 || exit 1
copies="--copies /m5 --copies /c1"

medium_is() {
    for ((i = 0; i < 300; i++)); do [ "$(status '.volumes[0].medium_state.name')" = $1 ] && break; sleep 0.2; done
    [ "$(status '.volumes[0].medium_state.name')" = $1 ] && ok || bad "does not write to $1"
}

# copied POOL FIELD PATTERN: what status says of the copies in a pool becomes this, within a minute and a half.
copied() {
    local i got
    for ((i = 0; i < 180 * slow; i++)); do
        got=$(status ".volumes[0].copies.pools[] | select(.pool == \"$1\") | .$2")
        [[ $got == $3 ]] && ok && return
        sleep 0.5
    done
    recorder status > "$out"
    bad "$2 of pool $1 is not '$3'"
}
# away MOUNTPOINT: it is unmounted, between two looks of the recorder.
away() {
    local i
    for ((i = 0; i < 50; i++)); do umount $1 2> "$out" && ok && return; sleep 0.1; done
    bad "$1 is busy"
}
none_single() {
    expect 0 "" recorder media list
    grep -q "only copy" "$out" && bad "something has no copy" || ok
}

echo "-- labels"
expect 0 "labelled medium tape-1" recorder media label /m1 --name tape-1 --pool tapes
public=$(recorder key --json | jq -r .public_key)
other=$(tr 0-9a-f 1-9a-f0 <<< $public)
expect 0 "$public" recorder key
expect 1 "is labelled already" recorder media label /m1 --name other
expect 2 "is called tape-1 already" recorder media label /m2 --name tape-1
expect 1 "letters, digits" recorder media label /m2 --name "a b"
expect 0 "labelled medium tape-2" recorder media label /m2 --name tape-2 --pool tapes
expect 0 "labelled medium tape-3" recorder media label /m3 --name tape-3 --pool tapes
expect 0 "labelled medium far-1" recorder media label /m5 --name far-1 --copies --pool far
expect 0 "labelled medium near-1" recorder media label /c1 --name near-1 --copies --pool near
expect 2 "for the medium and for copies" recorder attach /a --spool /work/spool --medium /m1 --copies /m1/

echo "-- a medium fills"
mkdir /a/keep && cp -a /etc /a/keep/
recording 1 attach /a --spool /work/spool --medium /m1 --medium /m2 --medium /m3 $copies
medium_is tape-1
grow first 25; moment one
# Together they do not fit, each of them does.
grow second 25; patience=180 expect 0 durable recorder flush --wait
grow first 20
medium_is tape-2
rm -r /a/keep/etc/apt; ln /a/second /a/linked
moment two
ls /m2/*/*.index > "$out" 2>&1 && ok || bad "no index on the second medium"

echo "-- a medium for copies fills, another one is away"
copied near waits "medium near-1 * is full: label another empty one with \`recorder media label DIR --copies --pool near\`*"
patience=180 expect 0 "" recorder flush --wait
expect 32 "pool near has not all copies" recorder check --stale-s 1
expect 0 "copies   pool near up to" recorder status
copied far segments_behind 0
away /m5
away /c1
mount /dev/guest/disk8 /c1
expect 0 "labelled medium near-2" recorder media label /c1 --name near-2 --copies --pool near
copied near segments_behind 0

echo "-- one is ejected, and another is there"
patience=300 expect 0 "goes on on medium tape-3" recorder media eject
grep -q "only copy" "$out" && bad "the newest has no copy" || ok
check "the ejected medium is not busy" umount /m2
echo more >> /a/keep/etc/hosts; grow third 5
moment three
patience=180 expect 0 durable recorder flush --wait
copied far waits "no medium of pool far that takes copies is at /m5 or /c1*"
expect 0 'pool="far"} ' recorder metrics

echo "-- looked at with the newest alone, and with all"
away /m1
expect 0 "hosts" replayer ls --medium /m3 --at mark:one /keep/etc
expect 0 "NOT GIVEN" replayer plan --medium /m3 --at mark:two
rm -rf /work/restored
expect 20 "tape-1" replayer restore --medium /m3 --to /work/restored --at mark:one
grep -q tape-2 "$out" && bad "asks for a medium that holds nothing needed"
[ -z "$(ls -A /work/restored 2> /dev/null)" ] && ok || bad "something was written"
mount /dev/guest/disk2 /m1; mount /dev/guest/disk3 /m2; mount /dev/guest/disk6 /m5
from "in any order" one /m2 /m1
from "in any order" two /m3 /m1 /m2
from "in any order" three /m1 /m2 /m3
expect 0 "" replayer points --medium /m1 --medium /m2 --medium /m3 --trust-key $public
expect 12 "and $other is trusted" replayer restore --medium /m1 --to /work/forged --trust-key $other
copied far segments_behind 0
away /m1; away /m2

echo "-- one drive"
cat > /run/one-drive.py <<'END'
import os, pty, subprocess, sys
disks = {"tape-1": "disk2", "tape-2": "disk3"}
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
seen, asked = b"", []
while True:
    try:
        got = os.read(fd, 4096)
    except OSError:
        break
    if not got:
        break
    seen += got
    if seen.rstrip().endswith(b"(nothing: give up):"):
        name = seen.decode(errors="replace").rsplit("medium ", 1)[-1].split()[0]
        subprocess.run(["umount", "/drive"], stderr=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "ro", "/dev/guest/" + disks[name], "/drive"], check=True)
        asked.append(name)
        seen = b""
        os.write(fd, b"/drive\n")
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stdout.write(seen.decode(errors="replace") + " asked " + " ".join(asked) + "\n")
sys.exit(code)
END
rm -rf /work/restored
patience=300 expect 0 "asked tape-1 tape-2" python3 /run/one-drive.py replayer restore --medium /m3 --to /work/restored --at mark:three
oracle digest /work/restored --out /run/restored --exclude lost+found > "$out" 2>&1
oracle compare /run/live-three /run/restored >> "$out" 2>&1 && same=$((same + 1)) && ok || bad "one drive: not the same"
umount /drive

echo "-- killed, and gone on with the newest medium alone"
kill -9 $recorder_pid; wait $recorder_pid 2> /dev/null
echo meanwhile > /a/meanwhile
recording 1 attach /a --spool /work/spool --medium /m3 $copies
grep -q "going on after seq" /results/recorder.log && ok || bad "did not go on"
moment four
patience=180 expect 0 "" recorder detach
ended 0 ""
echo "while nothing recorded" > /a/unseen
recording 1 attach /a --spool /work/spool --medium /m3 $copies
[ "$(status '.volumes[0].base.continues != null')" = true ] && ok || { cp /results/recorder.log "$out"; bad "took a whole base"; }
moment five

echo "-- ejected, and the next one comes late, into the same drive"
patience=300 expect 0 "THE NEXT MEDIUM IS NEEDED" recorder media eject
for ((i = 0; i < 100; i++)); do recorder check > "$out" 2>&1; [ $? = 20 ] && break; sleep 0.5; done
grep -q "the next medium of pool tapes is needed" "$out" && ok || bad "does not ask for the next medium"
echo waits > /a/waits
check "the drive is free" umount /m3
mount /dev/guest/disk5 /m3 && umount /m4
expect 0 "labelled medium tape-4" recorder media label /m3 --name tape-4 --pool tapes
medium_is tape-4
moment six
patience=180 expect 0 durable recorder flush --wait
copied near segments_behind 0
expect 10 "no volume has it" recorder media eject --copies /m1
expect 0 "ejected medium far-1" recorder media eject --copies /m5
check "the ejected medium for copies is not busy" umount /m5
patience=180 expect 0 "" recorder detach
ended 0 ""
none_single

echo "-- the catalog is made anew, copies"
mount /dev/guest/disk2 /m1; mount /dev/guest/disk3 /m2; mount /dev/guest/disk4 /m4; mount /dev/guest/disk6 /m5; mount /dev/guest/disk7 /c2
rm /var/lib/tapeworm/catalog/catalog.json
expect 0 "scanned medium tape-4" recorder media scan /m3
expect 0 "tape-2" recorder media list
grep -q "are not known here" "$out" && ok || bad "does not say what is missing"
expect 0 "scanned medium tape-1" recorder media scan /m2 /m4 /m1
expect 0 "can be rebuilt" recorder media list
grep -q "not known here" "$out" && bad "something is missing"
expect 1 "only copy" recorder media retire tape-1
expect 0 "verified medium tape-2" recorder media verify /m1 /m2 /m4 /m3
expect 1 "not for copies" recorder media copy --from /m1 --to /m2
expect 0 ": 0 objects" recorder media copy --from /m1 --to /m5
expect 0 "retired medium tape-1" recorder media retire tape-1
for medium in /m5 "/c1 --medium /c2"; do expect 0 "" replayer verify --medium $medium; done
from far four /m5
for at in two six; do from near $at /c1 /c2; done
for at in five six; do from all $at /m1 /m2 /m3 /m4; done
from "a copy for one that is lost" six /m1 /m5 /m3

echo "-- a catalog on the volume itself, which changes with each copy, is not recorded"
mkdir /a/lib && cp -a /var/lib/tapeworm/. /a/lib && mount --bind /a/lib /var/lib/tapeworm || bad "no catalog on the volume"
recording 1 attach /a --spool /work/spool --medium /m3 $copies
echo more > /a/keep/more
patience=180 expect 0 durable recorder flush --wait
copied far segments_behind 0
patience=180 expect 0 "" recorder detach
ended 0 ""
expect 0 "/lib/key" replayer find --medium /m3 /lib
grep -q catalog.json "$out" && bad "the catalog is recorded" || ok
check "the catalog is not there" test -s /a/lib/catalog/catalog.json
verdict media
