#!/bin/bash
# MARK NAME: sets a mark in the journal and keeps a digest of the tree as it is at this moment.
name=${1:?usage: MARK NAME}
case $name in
    *[!A-Za-z0-9._-]* | .* | final) echo "MARK: $name: only letters, digits, dot, underscore, dash" >&2; touch /run/job/mark-failed; exit 2 ;;
esac
if [ -e "/results/digests/mark-$name" ]; then
    echo "MARK: $name was already set" >&2; touch /run/job/mark-failed; exit 2
fi
recorder mark "$name" > /dev/null && oracle digest /origin --out "/results/digests/mark-$name" > /dev/null && exit 0
code=$?
echo "MARK: $name failed with $code" >&2
touch /run/job/mark-failed
exit $code
