# What the scripts share that drive a command: steps that are counted. Sourced, never run.
# shellcheck shell=bash

taken=0
failed=()

# A step: the command that follows its name gives, on both outputs together, text that the extended
# regular expression matches as a whole line or part of one, and ends with 0.
#
#   step NAME WANTED COMMAND [ARGUMENT …]
step() { ends 0 "$@"; }

# The same for a command that ends with another status, or with one of those with | between them:
# `ends STATUS NAME WANTED COMMAND …`.
ends() {
    local wanted_status=$1 name=$2 wanted=$3 told status=0
    shift 3
    taken=$((taken + 1))
    told=$(timeout 120 "$@" 2>&1 </dev/null) || status=$?
    if [[ "|$wanted_status|" = *"|$status|"* ]] && grep -Eq -- "$wanted" <<<"$told"; then
        echo "ok      $name"
        return
    fi
    failed+=("$name")
    printf 'FAILED  %s\n        command:  %s\n        wanted:   %s and %s\n        was:      %s and %s\n' \
        "$name" "$*" "$wanted_status" "$wanted" "$status" "$told"
}

# A step that is a line of shell, for pipes and redirections.
line() {
    local name=$1 wanted=$2
    shift 2
    step "$name" "$wanted" bash -c "set -o pipefail; $1"
}

# Says how many steps passed, and ends with 1 unless all did.
tell_steps() {
    local all=$taken
    echo "result: $((all - ${#failed[@]})) of $all steps${failed[*]:+; failed: $(
        printf '%s, ' "${failed[@]}" | sed 's/, $//'
    )}"
    [ ${#failed[@]} = 0 ]
}
