#!/bin/sh
# Does what `COPY SOURCE… DESTINATION` does with plain words, in a step: the directories that COPY
# makes or writes to have the time of the build.
set -e
for destination; do :; done
case $destination in */) many=1 ;; *) many= ;; esac
[ $# -gt 2 ] && many=1
while [ $# -gt 1 ]; do
    for source in /dev/imgforge-context/$1; do
        if [ -d "$source" ]; then
            mkdir -p "$destination"
            cp -R "$source/." "$destination/"
        elif [ -n "$many" ] || [ -d "$destination" ]; then
            mkdir -p "$destination"
            cp "$source" "$destination/"
        else
            mkdir -p "$(dirname "$destination")"
            cp "$source" "$destination"
        fi
    done
    shift
done
