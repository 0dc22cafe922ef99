#!/bin/bash
# The past of a live file system is looked into, without restoring it: names, content, history and differences are what they were. One boot:
# `cargo xtask vm run --binaries --disk 512 --disk 1024 --usb 1024 --timeout 900 --script FILE`; elsewhere with `--kernel-args "tapeworm.fs=xfs"`.
set -u

a=/dev/guest/disk0 work=/dev/guest/disk1
. /opt/job/lib.sh
mkdir -p /a /work /medium
fs=$(given fs ext4)
make_fs $fs $a || exit 1
mkfs.ext4 -q -F $work && mkfs.ext4 -q -F /dev/guest/usb0
mount -t $fs $a /a && mount $work /work && mount /dev/guest/usb0 /medium || exit 1

# moment NAME: marks it, and keeps what is there: names, what ls shows of them, sums.
moment() {
    (cd /a && find . -printf '/%P\n' | sort) > /run/names-$1
    (cd /a && find . -type f -printf '%m %n %U %G %s /%P\n' | sort -k 6) > /run/files-$1
    (cd /a && sha256sum keep/hosts* keep/sparse dir*/saved keep/odd* < /dev/null) > /run/sums-$1
    expect 0 "mark $1" recorder mark $1
}
past() { replayer "$1" --medium /medium "${@:2}" 2> "$out"; }
# same WHAT EXPECTED: stdin is what the file holds.
same() {
    cat > /run/found
    diff "$2" /run/found > "$out" && ok || bad "$1"
}

mkdir -p /a/keep /a/dir && cp /etc/hosts /a/keep/hosts && ln /a/keep/hosts /a/keep/hosts-link && cp -a /etc/apt /a/
recording 1 attach /a --spool /work/spool --medium /medium
truncate -s 3M /a/keep/sparse && echo middle | dd of=/a/keep/sparse bs=1 seek=2000000 conv=notrunc status=none
echo "as it was" > /a/dir/saved && ln -s saved /a/dir/link && chmod 4750 /a/dir/saved && chown 12:34 /a/dir/saved
echo odd > /a/keep/odd$'\xff'name
moment one
cat > /run/editor <<'END'
#!/bin/sh
echo "as it is now" > "$1.new" && mv "$1.new" "$1"
END
chmod 755 /run/editor && /run/editor /a/dir/saved
mv /a/dir /a/dir-moved && echo more >> /a/keep/hosts && rm -r /a/apt && dd if=/dev/urandom of=/a/keep/sparse bs=64k count=8 conv=notrunc status=none
moment two
patience=180 expect 0 durable recorder flush --wait

echo "-- while it is recorded"
for at in one two; do
    past find --at mark:$at | sed 's/\\xff/\xff/' | sort | same "find $at" /run/names-$at
    past find --at mark:$at --type f --json | jq -r '.entries[] | [(.permissions | ltrimstr("0")), .links, .uid, .gid, .size, .name] | map(tostring) | join(" ")' |
        sed 's/\\xff/\xff/; s/^00*\(.\)/\1/' | sort -k 6 | same "files $at" /run/files-$at
    while read -r sum path; do
        path=${path#\\}
        found=$(past cat --at mark:$at "/$path" | sha256sum | cut -d ' ' -f 1)
        [ "$found" = "${sum#\\}" ] && ok || bad "content of $path at $at"
    done < /run/sums-$at
    past plan --at mark:$at --json | jq -c '[.point.seq, .entries, .inodes, .bytes]' > /run/plan
    [ -s /run/plan ] && ok || bad "no plan $at"
    rm -rf /work/restored
    replayer restore --json --medium /medium --at mark:$at --to /work/restored 2> "$out" | jq -c '[.point.seq, .entries, .inodes, .bytes]' | same "plan $at" /run/plan
done

echo "-- what happened"
expect 1 "links are not followed" replayer cat --medium /medium --at mark:one /dir/link/x
expect 1 "no such name" replayer cat --medium /medium --at mark:two /dir/saved
expect 0 "names nothing from here" replayer history --medium /medium /dir/saved
past history /dir/saved --json-lines | jq -r 'select(has("names")) | [.op, .actor.comm // "", .names] | @tsv' > /run/found
{ [ "$(wc -l < /run/found)" = 3 ] && grep -q "^create" /run/found && grep -q "^rename.mv.[1-9]" /run/found && tail -n 1 /run/found | grep -q "^rename.mv.$"; } ||
    { cp /run/found "$out"; false; } && ok || bad "history"
past diff mark:one mark:two > /run/diff
cp /run/diff "$out"
for line in '! /keep/hosts (content' '! /keep/sparse (content' '- /apt' '> /dir -> /dir-moved' '> /dir/link -> /dir-moved/link' '+ /dir-moved/saved' '- /dir/saved'; do
    grep -qF -- "$line" /run/diff && ok || bad "diff: $line"
done
grep -q odd /run/diff && bad "diff: what is as it was"
expect 0 detached recorder detach
ended 0 ""
verdict past
