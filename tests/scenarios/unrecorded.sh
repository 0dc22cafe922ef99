#!/bin/bash
# A recorder of one file system costs nothing on another: the same work there, with and without it, in turns. One boot:
# `cargo xtask vm run --binaries --disk 1024 --disk 1024 --usb 1024 --timeout 1500 --script FILE`; more turns with `--kernel-args "tapeworm.pairs=20"`.
set -u

a=/dev/guest/disk0 other=/dev/guest/disk1
. /opt/job/lib.sh
mkdir -p /a /other /medium
pairs=$(given pairs 4)
mkfs.ext4 -q -F $a && mkfs.ext4 -q -F $other && mkfs.ext4 -q -F /dev/guest/usb0
mount $a /a && mount $other /other && mount /dev/guest/usb0 /medium || exit 1
mkdir -p /var/spool/tapeworm

# Small writes, whole files made and removed, names and attributes: what the programs are called for. Prints the seconds of processor time that it took.
cat > /run/work.py <<'END'
import os, resource
os.chdir("/other")
block, fd = b"x" * 4096, os.open("big", os.O_RDWR | os.O_CREAT)
for turn in range(6):
    for at in range(3000):
        os.pwrite(fd, block, at * 4096)
    for number in range(500):
        name = f"file-{number}"
        with open(name, "wb") as file:
            file.write(block)
        os.chmod(name, 0o600)
        os.rename(name, name + "-moved")
        os.unlink(name + "-moved")
os.close(fd)
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
END
work() { sync; python3 /run/work.py; }
with_recorder() {
    recording 1 attach /a --medium /medium --spool /var/spool/tapeworm
    expect 0 "durable" recorder flush --wait
    work >> /results/with
    [ "$(status '.volumes[0].events')" -lt 100 ] && ok || bad "events of another file system"
    expect 0 detached recorder detach
    ended 0 ""
}

work > /dev/null
for pair in $(seq 1 $pairs); do
    if [ $((pair % 2)) = 0 ]; then work >> /results/without; with_recorder; else with_recorder; work >> /results/without; fi
    [ $failed = 0 ] || break
done
python3 - > /run/ratios <<'END'
import math, statistics
read = lambda name: [float(line) for line in open(f"/results/{name}")]
logs = [math.log(one / other) for one, other in zip(read("with"), read("without"))]
middle, spread = statistics.mean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
# Student's t for 95 %, a little too wide for more than 20 pairs.
t = {2: 12.7, 3: 4.3, 4: 3.18, 5: 2.78, 6: 2.57, 8: 2.36, 10: 2.26, 12: 2.2, 16: 2.13, 20: 2.09}.get(len(logs), 2.09 if len(logs) > 20 else 12.7)
print(f"ratio {math.exp(middle):.4f}")
print(f"ratio_95_low {math.exp(middle - t * spread):.4f}")
print(f"ratio_95_high {math.exp(middle + t * spread):.4f}")
END
while read -r name value; do figure $name $value; done < /run/ratios
figure pairs $pairs
cp /run/ratios "$out"
# Emulated machines are noisy; this finds what costs a lot, the page tells the rest.
awk '$1 == "ratio_95_low" && $2 < 1.1 { good = 1 } END { exit !good }' /run/ratios && ok || bad "it costs more than a tenth"
verdict unrecorded
