#!/bin/sh
# Runs a step of a Dockerfile, `step KEEP COMMAND…`, and evens out what differs from run to run in
# the files that it changed. KEEP names what a later step needs: tmp, lists.
#
# What a lower layer has is never removed: a removal is a file of its own in the layer, with the time
# of the build. Files that came with a time of their own, as those of Debian's packages do, keep it:
# it is constant, and bytecode refers to it.
. /dev/imgforge/environment
keep=$1
shift

home=${HOME:-/root}
litter="$home/.cache/pip $home/.cache/uv $home/.npm /var/cache/apt"
case $keep in *tmp*) ;; *) litter="$litter /tmp /var/tmp" ;; esac
case $keep in *lists*) ;; *) litter="$litter /var/lib/apt/lists" ;; esac

# shellcheck disable=SC2086 # the directories are words
find $litter -mindepth 1 >/dev/shm/imgforge-before 2>/dev/null
before=$(date +%s.%N)
# The kernel's clock for files lags behind by a tick.
sleep 0.02 2>/dev/null || sleep 1
"$@"
code=$?
[ "$code" = 0 ] || exit "$code"

mark=/dev/shm/imgforge-before
if find "$mark" -newerct "@$before" -newermt "@$before" >/dev/null 2>&1; then
    changed="-newerct @$before"
    new="-newerct @$before -newermt @$before"
else
    # Not GNU find: a change of owner or mode is not seen, and does not show in times.
    changed="-newer $mark"
    new=$changed
fi

# shellcheck disable=SC2086
find $litter -depth -mindepth 1 2>/dev/null | grep -vxFf "$mark" | while IFS= read -r path; do
    if [ -d "$path" ] && [ ! -h "$path" ]; then rmdir "$path"; else rm -f "$path"; fi 2>/dev/null
done
case $keep in *lists*) lists= ;; *) lists=/var/lib/apt/lists ;; esac
# shellcheck disable=SC2086
find /var/log /var/cache/ldconfig /var/cache/apt $lists -type f -size +0 $changed \
    -exec sh -c 'for file; do : >"$file"; done' sh {} + 2>/dev/null
# shellcheck disable=SC2086
find / -xdev \( -path /proc -o -path /sys -o -path /dev \) -prune \
    -o $new -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} + 2>/dev/null
# BuildKit writes to it before a step.
touch -d "@$SOURCE_DATE_EPOCH" /etc 2>/dev/null
exit 0
