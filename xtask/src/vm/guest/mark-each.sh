#!/bin/bash
# Runs a bash script in this shell, one top-level command at a time, with a mark after each.
# A command is complete when bash can parse what was read so far without complaint.
__marks=0 __chunk='' __code=0 __number=0
exec 9< "$1" || exit 125
while :; do
    IFS= read -r __line <&9 || { [ -n "$__line" ] || break; }
    __number=$((__number + 1))
    __chunk+=$__line$'\n'
    [[ $__line =~ (^|[^\\])(\\\\)*\\$ ]] && continue
    [ -z "$(bash -n <<< "$__chunk" 2>&1)" ] || continue
    if [ -z "$(grep -v -E '^[[:space:]]*(#.*)?$' <<< "$__chunk")" ]; then
        __chunk=''
        continue
    fi
    __run=$__chunk __chunk=''
    # The command sees the exit code of the one before it.
    case $- in *e*) ;; *) (exit $__code) ;; esac
    eval "$__run"
    __code=$?
    __marks=$((__marks + 1))
    echo "step-$__marks is after line $__number" >&2
    MARK "step-$__marks" 9<&- || exit 124
done
if [ -n "$__chunk" ]; then
    eval "$__chunk"
    __code=$?
fi
exit $__code
