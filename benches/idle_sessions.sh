#!/usr/bin/env bash
# Starts sessions that do nothing, sixteen at a time, and says what each costs: seconds to start all,
# memory that nobody shares (by /proc/PID/smaps_rollup, of host, helper and first process), seconds to
# end all, and what is left.
#
#   IMGFORGE_BIN=target/release/imgforge benches/idle_sessions.sh [SESSIONS] [IMAGE]
#
# The state directory is that of IMGFORGE_STATE_DIR. Memory is read of processes that are this user's.
set -euo pipefail
program=$(realpath "${IMGFORGE_BIN:?names the program}")
sessions=${1:-1000}
image=${2:-python:3.11-slim-bookworm}
name=idle-$$
state=${IMGFORGE_STATE_DIR:?names the state directory}

# Hosts, helpers and first processes all run the program, under several names.
# `find` ends with 1 where a process ends meanwhile.
numbers() { { find /proc -maxdepth 2 -path '/proc/[0-9]*/exe' -lname "$program" 2>/dev/null || true; } | cut -d/ -f3; }
processes() { numbers | wc -l; }
mounts() { grep -c "$state" /proc/self/mounts || true; }
directories() { { find "$state/sessions" -mindepth 1 -maxdepth 1 2>/dev/null || true; } | wc -l; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }

before="$(processes) processes, $(mounts) mounts, $(directories) directories"
memory_before=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
started=$(now)
seq "$sessions" | xargs -P 16 -I{} "$program" session start --image "$image" --name "$name-{}" --quiet >/dev/null
echo "started $sessions in $(since "$started") s; the list has $("$program" session ls --json | grep -c "\"$name-")"
memory_after=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
private=0 count=0
for process in $(numbers); do
    own=$(awk '/^Private_/ { sum += $2 } END { print sum + 0 }' "/proc/$process/smaps_rollup" 2>/dev/null || echo 0)
    private=$((private + own)) count=$((count + 1))
done
echo "memory: $((private / sessions)) KiB each that nobody shares, in $count processes;" \
    "the machine has $(((memory_before - memory_after) / sessions)) KiB less each"
started=$(now)
"$program" session stop --all >/dev/null
echo "ended in $(since "$started") s"
sleep 1
echo "before: $before"
echo "after:  $(processes) processes, $(mounts) mounts, $(directories) directories"
