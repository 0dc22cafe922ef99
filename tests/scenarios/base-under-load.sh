#!/bin/bash
# The base was taken while the writers of base-under-load.before worked: once they have ended, a mark, and more work.
set -eu
[ -d churn ] || { echo "run with --before base-under-load.before" >&2; exit 1; }
for w in 1 2 3 4; do
    [ ! -e "/tmp/writer$w-done" ] || { echo "writer $w ended before the base did: nothing was tried" >&2; exit 1; }
done
sleep 3
touch /tmp/stop-writers
for w in 1 2 3 4; do
    for _ in $(seq 1 120); do [ -e "/tmp/writer$w-done" ] && break; sleep 0.5; done
    [ -e "/tmp/writer$w-done" ] || { echo "writer $w has not ended" >&2; cat /tmp/writer$w.log >&2; exit 1; }
done
echo "the writers have ended: $(find . | wc -l) names"
MARK writers-ended
rm -r churn/1 && mv churn/2 still/two && echo after > still/after
