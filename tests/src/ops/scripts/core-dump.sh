# A process dies, and the kernel writes its memory to a file in the working directory.
before=$(cat /proc/sys/kernel/core_pattern)
trap 'echo "$before" > /proc/sys/kernel/core_pattern' EXIT
echo "$PWD/core-of-%e" > /proc/sys/kernel/core_pattern
ulimit -c unlimited
sleep 100 &
# Until then it is still the shell, and its core would be called so.
until grep -q sleep "/proc/$!/comm"; do sleep 0.1; done
kill -SEGV $!
wait $! || true
[ -s core-of-sleep ]
