#!/usr/bin/env bash
# Harbor: its oracle solves a task in a container, and the task's own tests give the reward.
set -uo pipefail

harbor run -p "$CLIENTS/tasks/harbor" -a oracle --jobs-dir jobs --job-name clients -y ||
    { echo "result: harbor ends with $?"; exit 1; }
reward=$(cat jobs/clients/*/verifier/reward.txt)
echo "result: the oracle's reward is $reward"
[ "$reward" = 1 ]
