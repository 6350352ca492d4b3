# What the scripts share: messages, root, packages. Sourced, never run.
# shellcheck shell=bash

# Says what is done and when, on stderr so that a script's output stays its own.
say() { printf '%s: [%4d s] %s\n' "${0##*/}" "$SECONDS" "$*" >&2; }

# Ends the script with a message and, after it, what to do about it.
fail() {
    printf 'error: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf '\nhint: %s\n' "$2" >&2
    exit 1
}

# Runs a command as root.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "\`$1\` needs root" "run this as root, or install sudo"
    fi
}

# Installs the Debian packages among the arguments that are missing.
install_packages() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        fail "missing: ${missing[*]}" "this machine has no apt-get: install them by hand"
    say "installing ${missing[*]}"
    # What `make test` says at its end, and `make clean-test` removes.
    [ -z "${installed_list:-}" ] || printf '%s\n' "${missing[@]}" >>"$installed_list"
    as_root apt-get -qq update
    # Another script may be installing what it needs.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y \
        --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}

# Ends the script when there is no cargo.
need_cargo() {
    command -v cargo >/dev/null || fail "there is no cargo" "install Rust: https://rustup.rs"
}

# Installs the component of Rust that gives the cargo command `cargo $1`, when it is missing.
need_component() {
    cargo "$1" --version >/dev/null 2>&1 && return
    command -v rustup >/dev/null || fail "there is no \`cargo $1\`" "install $2, or use rustup"
    say "installing $2"
    rustup component add "$2"
}
