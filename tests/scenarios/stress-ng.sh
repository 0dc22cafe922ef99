#!/bin/bash
# stress-ng: its stressors of file systems, one kind after another, two of each at once; what they leave stays.
set -eu
kinds=(access aio aiol chattr chmod chown copy-file dentry dir dirdeep fallocate file-ioctl filename flock fpunch hdd inode-flags io-uring
    iomix link metamix mmap msync open rename revio seek sendfile symlink sync-file touch unlink utime xattr)
mkdir stress
run() {
    for kind in "$@"; do
        # One that fails (2), finds no room (3) or does not exist on this kernel (4) has still done what it has; an option that stress-ng
        # does not know (1) is a mistake here.
        stress-ng --temp-path "$PWD/stress" --keep-files --timeout 2s --quiet "--$kind" 2 > "$kind.log" 2>&1 || [[ $? =~ ^[234]$ ]]
    done
}
run "${kinds[@]:0:17}"
MARK half
run "${kinds[@]:17}"
MARK all
run rename link fpunch & run metamix symlink mmap & run hdd unlink &
wait
