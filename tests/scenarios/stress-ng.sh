#!/bin/bash
# stress-ng: its stressors of file systems, one kind after another, two of each at once; what they leave stays.
set -eu
kinds=(access aio aiol chattr chmod chown copy-file dentry dir dirdeep fallocate file-ioctl filename flock fpunch hdd inode-flags io-uring
    iomix link metamix mmap msync open rename revio seek sendfile symlink sync-file touch unlink utime xattr)
mkdir stress
run() {
    for kind in "$@"; do
        # 3 is "not implemented here".
        stress-ng --temp-path "$PWD/stress" --keep-files --timeout 2s --quiet "--$kind" 2 > "$kind.log" 2>&1 || [ $? -le 3 ]
    done
}
run "${kinds[@]:0:17}"
MARK half
run "${kinds[@]:17}"
MARK all
run rename link fpunch & run metamix symlink mmap & run hdd unlink &
wait
