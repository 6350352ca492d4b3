#!/bin/sh
# Runs a step of a Dockerfile, `step KEEP COMMAND…`, and evens out what differs from run to run in
# the files that it changed. KEEP names what a later step needs: tmp, lists.
#
# A file of a lower layer is emptied, not removed: a removal is a file of its own in the layer, with
# the time of the build. Files that came with a time of their own, as those of Debian's packages do,
# keep it: it is constant, and bytecode refers to it.
. /dev/imgforge/environment
keep=$1
shift

before=$(date +%s.%N)
mark=/dev/shm/imgforge-mark
: >"$mark"
# The kernel's clock for files lags behind by a tick.
sleep 0.02 2>/dev/null || sleep 1
"$@"
code=$?
[ "$code" = 0 ] || exit "$code"

command -v find >/dev/null || exit 0
if find "$mark" -newerct "@$before" -newermt "@$before" >/dev/null 2>&1; then
    changed="-newerct @$before"
    new="-newerct @$before -newermt @$before"
else
    # Not GNU find: changes of owner and mode are not seen, and do not show in times.
    changed="-newer $mark"
    new=$changed
fi

remove() {
    # shellcheck disable=SC2086 # the conditions are words
    find "$@" -mindepth 1 $changed ! -type d -exec rm -f {} + 2>/dev/null
    # shellcheck disable=SC2086
    find "$@" -mindepth 1 -depth $changed -type d -exec rmdir {} + 2>/dev/null
}

home=${HOME:-/root}
remove "$home/.cache/pip" "$home/.cache/uv" "$home/.npm" /var/cache/apt/archives
case $keep in *tmp*) ;; *) remove /tmp /var/tmp ;; esac
case $keep in *lists*) ;; *) remove /var/lib/apt/lists ;; esac
# shellcheck disable=SC2086
find /var/log /var/cache/ldconfig /var/cache/apt -type f $changed \
    -exec sh -c 'for file; do : >"$file"; done' sh {} + 2>/dev/null
# shellcheck disable=SC2086
find / -xdev \( -path /proc -o -path /sys -o -path /dev \) -prune \
    -o $new -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} + 2>/dev/null
# BuildKit writes to it before a step.
touch -d "@$SOURCE_DATE_EPOCH" /etc 2>/dev/null
exit 0
