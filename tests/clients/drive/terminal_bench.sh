#!/usr/bin/env bash
# terminal-bench: its oracle solves a task, whose image it builds, in a terminal of a container.
set -uo pipefail

# Compose builds through BuildKit unless it is told not to.
export DOCKER_BUILDKIT=0
tb run --dataset-path "$CLIENTS/tasks/terminal-bench" --task-id mend-add --agent oracle \
    --output-path runs --run-id clients || { echo "result: tb ends with $?"; exit 1; }
python3 - <<'END'
import json, sys

told = json.load(open("runs/clients/results.json"))
print(f"result: {told['n_resolved']} of {told['n_resolved'] + told['n_unresolved']} resolved")
sys.exit(0 if told["n_resolved"] == 1 else 1)
END
