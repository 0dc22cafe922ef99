#!/bin/bash
# An encrypted journal: nothing of what was written can be found on the medium; the operator's identity restores it, and so does the host's own, no other
# does; without one the medium can be checked and copied. The host goes on from its own journal and makes checkpoints of it, unless it is to write only.
# One boot: `cargo xtask vm run --binaries --disk 512 --disk 2048 --disk 128 --disk 128 --disk 128 --timeout 900 --script FILE`; elsewhere with
# `--kernel-args "tapeworm.fs=xfs"`.
set -u

a=/dev/guest/disk0 work=/dev/guest/disk1
. /opt/job/lib.sh
mkdir -p /a /work /m1 /m2 /m3
fs=$(given fs ext4)
make_fs $fs $a || exit 1
for disk in 1 2 3 4; do mkfs.ext4 -q -F /dev/guest/disk$disk || exit 1; done
mount -t $fs $a /a && mount $work /work || exit 1
for n in 1 2 3; do mount /dev/guest/disk$((n + 1)) /m$n || exit 1; done
try replayer keygen /run/operator && operator=$(cat "$out")
try replayer keygen /run/stranger
expect 1 "File exists" replayer keygen /run/operator
# read_by FILE NAME AT MEDIUM...: what these media give at that moment with an identity is what was there.
read_by() { local identity="--identity $1"; from "${@:2}"; }

echo "-- refused"
expect 2 "age recipient" recorder attach /a --spool /work/spool --medium /m1 --recipient age1nobody
expect 2 "cannot read it" recorder attach /a --spool /work/spool --medium /m1 --recipient $operator --write-only --media-max 2
expect 2 "recipient" recorder attach /a --spool /work/spool --medium /m1 --write-only
[ -z "$(ls /m1 | grep -v lost+found)" ] && [ ! -e /var/lib/tapeworm/identity ] && ok || bad "something was made for what was refused"

for n in 1 2; do expect 0 "labelled" recorder media label /m$n --name tape-$n; done

echo "-- recorded"
secret="a secret that no medium may tell"
mkdir /a/keep && cp -a /etc /a/keep/
for n in $(seq 200); do echo "$secret $n"; done > /a/secret-of-the-base
recording 1 attach /a --spool /work/spool --medium /m1 --medium /m2 --recipient $operator
grep -q "made the identity of this host" /results/recorder.log && ok || bad "no identity was made"
[ "$(stat -c %a /var/lib/tapeworm/identity)" = 600 ] && ok || bad "others can read the identity"
for n in $(seq 200); do echo "$secret $n"; done > /a/secret-file
setfattr -n user.secret -v "$secret" /a/secret-file
expect 0 "encrypted to $operator" recorder status
grow big 6; moment one
mv /a/secret-file /a/moved; moment two
patience=180 expect 0 "checkpoint of volume" recorder checkpoint
patience=180 expect 0 durable recorder flush --wait

echo "-- what the medium tells"
[ "$(ls /m1/*/*.encrypted | wc -l)" -gt 1 ] && [ -z "$(ls /m1/*/ | grep 'parquet$')" ] && ok || bad "not everything is encrypted"
grep -rlF -e "$secret" -e secret-file -e secret-of-the-base /m1 > "$out" && bad "the medium tells it" || ok
grep -rlF "$secret" /a > "$out" && ok || bad "the search finds nothing where it is"
expect 0 "are encrypted: compared with what was sealed" replayer verify --medium /m1
expect 0 "mark" replayer points --medium /m1
for refused in "restore --to /work/restored" plan "ls /" "find / --name *" "cat /big" "diff mark:one mark:two" dump "export --to /work/exported"; do
    expect 12 "encrypted to $operator" replayer $refused --medium /m1
done
[ ! -e /work/restored ] || [ -z "$(ls -A /work/restored)" ] && ok || bad "something was restored without an identity"
[ -z "$(ls -A /work/exported)" ] && ok || bad "something was exported without an identity"
expect 0 "exported $(ls /m1/*/*.encrypted | wc -l) segments" replayer export --to /work/exported --medium /m1 --identity /run/operator
for segment in /work/exported/*/*.parquet; do [ "$(head -c 4 $segment)$(tail -c 4 $segment)" = PAR1PAR1 ] && ok || bad "$segment is no Parquet"; done
rm -rf /work/exported
expect 12 "none of the identities given" replayer restore --to /work/restored --medium /m1 --identity /run/stranger
expect 2 "no age identity" replayer restore --to /work/restored --medium /m1 --identity /etc/fstab
read_by /run/operator "the operator's identity" one /m1
read_by /run/operator "the operator's identity" two /m1
read_by /var/lib/tapeworm/identity "the host's own" two /m1
patience=180 expect 0 "good" replayer verify --medium /m1 --identity /run/operator
grep -q "are encrypted" "$out" && bad "not everything was decoded" || ok
patience=300 expect 0 SAME replayer rehearse --medium /m1 --scratch /work --identity /run/operator

echo "-- killed, on the next medium, copied, and gone on in a new epoch"
kill -9 $recorder_pid; wait $recorder_pid 2> /dev/null
recording 1 attach /a --spool /work/spool --medium /m1 --medium /m2 --recipient $operator
echo after > /a/after-kill; moment three
patience=180 expect 0 "" recorder media eject
grow big 3; moment four
patience=180 expect 0 "" recorder detach
ended 0 ""
cp -a /etc/passwd /a/while-nobody-looked; rm /a/after-kill
recording 1 attach /a --spool /work/spool --medium /m1 --medium /m2 --recipient $operator
[ "$(status '.volumes[0].base.continues != null')" = true ] && ok || bad "took a whole base"
moment five
patience=180 expect 0 "" recorder detach
ended 0 ""
grep -rlF -e "$secret" -e secret-file -e while-nobody-looked /m1 /m2 > "$out" && bad "the media tell it" || ok
expect 12 "encrypted to" replayer find / --name '*' --medium /m2
for at in one three four five; do read_by /run/operator "both media" $at /m2 /m1; done
expect 0 "labelled" recorder media label /m3 --name copy --copies
patience=180 expect 0 "" recorder media copy --from /m1 --to /m3
read_by /run/operator "a copy of the first" five /m2 /m3

echo "-- altered"
segment=$(ls -S /m3/*/*.encrypted | head -n 1)
printf '\377\377\377' | dd of=$segment bs=1 seek=$(($(stat -c %s $segment) / 2)) conv=notrunc status=none
expect 30 "what was sealed" replayer verify --medium /m3

echo "-- a host that writes only"
umount /m3 && mkfs.ext4 -q -F /dev/guest/disk4 && mount /dev/guest/disk4 /m3 || exit 1
rm /var/lib/tapeworm/identity
for round in first second; do
    recording 1 attach /a --spool /work/spool --medium /m3 --recipient $operator --write-only
    [ ! -e /var/lib/tapeworm/identity ] && ok || bad "an identity was made"
    [ "$(status '.volumes[0].base.continues != null')" = false ] && ok || bad "went on from what it cannot read"
    grow big 1; moment alone-$round
    expect 12 "encrypted to" recorder checkpoint
    expect 12 "encrypted to" recorder checkpoint --live
    patience=180 expect 0 "" recorder detach
    ended 0 ""
done
grep -q "cannot be gone on with" /results/recorder.log && ok || bad "does not say why it took a whole base"
for round in first second; do read_by /run/operator "written only" alone-$round /m3; done
verdict encrypted
