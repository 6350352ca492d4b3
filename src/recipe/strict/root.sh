# What root does in a strict evaluation: it undoes what reaches for the run, makes a tree that the
# user of the tests can add to and take nothing from, runs the commands that run the model's code as
# that user, and looks at what they left. Read by the script of `strict.rs`, which sets
# `imgforge_directory` and `imgforge_reaches`.

imgforge_user=65534
imgforge_home=/tmp/imgforge-home
imgforge_site=/imgforge-site
imgforge_setpriv="setpriv --reuid=$imgforge_user --regid=$imgforge_user --clear-groups --no-new-privs"
exec 5>&2

# Says something of a path to the engine: WORD LETTER PATH.
imgforge_say() {
    local path=${3//\\/\\\\}
    path=${path//\"/\\\"}
    path=${path//$'\n'/\\n}
    printf 'imgforge-%s: %s "%s"\n' "$1" "$2" "$path" >&4
}

# Ends the run without a result: WHY.
imgforge_give_up() {
    printf '%s\n' "imgforge: $1"
    exit 1
}

# Succeeds where a new file would hide a module that is installed: LETTER PATH.
imgforge_hides() {
    local first
    [ "$1" = A ] && [ -e /imgforge-modules ] || return 1
    first=${2#src/} first=${first#lib/}
    case $first in
    */__init__.*) first=${first%/__init__.*} ;;
    *.*) first=${first%%.*} ;;
    *) return 1 ;;
    esac
    case $first in */* | *$'\n'*) return 1 ;; esac
    grep -qxF -- "$first" /imgforge-modules
}

# Brings back what the model patch changed of the configuration of the tests; what the test patch is
# about is left to it. The state before the patch is that of HEAD.
imgforge_restore() {
    local entry letter path
    git config --global --add safe.directory "$PWD"
    git rev-parse -q --verify 'HEAD^{commit}' >/dev/null || {
        echo '>>>>> Image Not Ready: its repository has no commit'
        exit 96
    }
    while IFS= read -r -d '' entry; do
        letter=${entry%% *} path=${entry#* }
        case $path in *$'\n'*) ;; *)
            ! grep -qzxF -- "$path" /imgforge-tests-paths || continue
            ;;
        esac
        imgforge_reaches "$letter" "$path" || imgforge_hides "$letter" "$path" || continue
        if git cat-file -e "HEAD:$path" 2>/dev/null; then
            git --literal-pathspecs checkout -q HEAD -- "$path" ||
                imgforge_give_up "cannot restore $path"
        else
            rm -rf -- "$path"
            git --literal-pathspecs rm -q --cached --ignore-unmatch -- "$path"
        fi
        imgforge_say restored "$letter" "$path"
    done </imgforge-changes
}

# Lists the files of the tree that the user owns, each with a NUL after it.
imgforge_owned() {
    find . -xdev -path ./.git -prune -o -user "$imgforge_user" "$@" -print0
}

# Lists the plugins of pytest that a file of entry points names.
imgforge_plugins() {
    local line in=
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
        '[pytest11]'*) in=1 ;;
        '['*) in= ;;
        *=*) [ -z "$in" ] || printf '%s\n' "${line//[[:space:]]/}" ;;
        esac
    done <"$1"
}

# Lists those of a file's plugins that neither the repository nor the environment had.
imgforge_new_plugins() {
    local line
    while IFS= read -r line; do
        grep -qxF -- "$line" /imgforge-plugins || printf '%s\n' "$line"
    done < <(imgforge_plugins "$1")
}

imgforge_make_home() {
    rm -rf "$imgforge_home"
    mkdir -p "$imgforge_home"
    printf '[safe]\n\tdirectory = *\n' >"$imgforge_home/.gitconfig"
    chown "$imgforge_user:$imgforge_user" "$imgforge_home"
}

# Makes the tree ready: all is root's, and in every directory the user can make files, but not take
# the place of those that are there. Environments and what git keeps stay as they are.
imgforge_prepare() {
    local path venvs=() prune=()
    find . -xdev -user "$imgforge_user" -exec chown -h 0:0 {} +
    while IFS= read -r -d '' path; do
        prune+=(-o -path "$path")
    done < <(find . -xdev -path ./.git -prune -o -name pyvenv.cfg -printf '%h\0')
    find . -xdev \( -path ./.git -o -name node_modules -o -name site-packages -o -name .tox \
        -o -name .nox "${prune[@]}" \) -prune -o -type d -exec chmod 1777 {} +
    find . -xdev -path ./.git -prune -o -type f ! -perm -004 -exec chmod a+r {} +
    path=$PWD
    while [ "$path" != / ]; do
        chmod a+x "$path"
        path=$(dirname "$path")
    done
    imgforge_make_home
    chmod 644 /imgforge-*.sh
    : >/imgforge-settings.sh
    printf 'export HOME=%q\n' "$imgforge_home" >/imgforge-home.sh
}

# Makes ready what commands of the script need that install: products of earlier builds can be
# written, and packages go to a directory of their own.
imgforge_prepare_commands() {
    local path python file
    : >/imgforge-plugins
    git ls-files -z --others | while IFS= read -r -d '' path; do
        case /$path in
        */node_modules/* | */site-packages/* | */.tox/* | */.nox/* | *.pyc) continue ;;
        *.egg-info/* | *.dist-info/*)
            case $path in */entry_points.txt) imgforge_plugins "$path" >>/imgforge-plugins ;; esac
            ;;
        *) imgforge_reaches M "$path" && continue ;;
        esac
        [ -L "$path" ] || printf '%s\0' "$path"
    done | xargs -0r chown "$imgforge_user:$imgforge_user" --
    imgforge_owned | sort -z >/imgforge-products
    git ls-tree -r -z --name-only HEAD | tr '\0' '\n' >/imgforge-tracked
    python=$(python -I -S -c 'import sys; print("lib/python%d.%d/site-packages" % sys.version_info[:2])' 2>/dev/null)
    [ -n "$python" ] || return 0
    while IFS= read -r path; do
        for file in "$path"/*.dist-info/entry_points.txt "$path"/*.egg-info/entry_points.txt; do
            [ ! -f "$file" ] || imgforge_plugins "$file" >>/imgforge-plugins
        done
    done </imgforge-sites
    mkdir -p "$imgforge_site/$python"
    chown -R "$imgforge_user:$imgforge_user" "$imgforge_site"
    printf '[install]\nprefix = %s\n[develop]\nprefix = %s\n' "$imgforge_site" "$imgforge_site" \
        >"$imgforge_home/.pydistutils.cfg"
    printf 'export PIP_PREFIX=%q PIP_NO_DEPS=1 PIP_IGNORE_INSTALLED=1\n' "$imgforge_site" \
        >>/imgforge-home.sh
    printf 'export PYTHONPATH=%q${PYTHONPATH:+:$PYTHONPATH}\n' "$imgforge_site/$python" \
        >>/imgforge-home.sh
    printf '%s\n' "$imgforge_site/$python" >/imgforge-site-packages
}

# Writes down the state of this shell, so that another one has it.
imgforge_record() {
    {
        printf 'cd %q\n' "$PWD"
        declare -p
        declare -f
        declare -F
        umask -p
        shopt -p
        set +o
    } >/imgforge-state
    chmod 644 /imgforge-state
}

# Succeeds where no process of the user is left.
imgforge_alone() {
    local status key value state
    for status in /proc/[0-9]*/status; do
        state=
        while read -r key value _; do
            case $key in
            State:) state=$value ;;
            Uid:) [ "$value" != "$imgforge_user" ] || [ "$state" = Z ] || return 1 ;;
            esac
        done 2>/dev/null <"$status"
    done
}

# Ends what a command left: its processes, and what it made that reaches for the run.
imgforge_clear() {
    local try
    imgforge_plainly
    for ((try = 0; try < 200; try++)); do
        $imgforge_setpriv /bin/sh -c 'kill -KILL -1' 2>/dev/null
        ! imgforge_alone || break
        sleep 0.02
    done
    imgforge_alone || imgforge_give_up 'processes that the script started cannot be ended' >&5
    cd "$imgforge_directory" || exit 1
    imgforge_look_at_tree
}

# Drops the options that the script has set.
imgforge_plainly() {
    set +euxfC
    set +o pipefail
    shopt -u failglob nullglob dotglob nocasematch
    IFS=$' \t\n'
}

# Runs a command of the script as the user, with the state of this shell: NUMBER ARGUMENT….
imgforge_nobody() {
    local code=0
    imgforge_record
    [ -e /imgforge-products ] || (
        imgforge_plainly
        cd "$imgforge_directory" || exit 1
        imgforge_list_modules
        imgforge_prepare_commands
    ) || exit $?
    (
        IFS=$' \t\n'
        exec $imgforge_setpriv /bin/bash "/imgforge-command-$1.sh" "${@:2}" 2>&5 4>&- 5>&-
    ) || code=$?
    (imgforge_clear) || exit 1
    return "$code"
}

# The same with a command that sets the shell up: it is run again before every later one.
imgforge_setting() {
    local code=0
    imgforge_nobody "$@" || code=$?
    tail -n +2 "/imgforge-command-$1.sh" >>/imgforge-settings.sh
    return "$code"
}

# Removes from the tree what the commands made there that reaches for the run.
imgforge_look_at_tree() {
    local path
    while IFS= read -r -d '' path; do
        path=${path#./}
        case /$path in
        *.pyc | */__pycache__/*)
            rm -rf -- "$path"
            continue
            ;;
        *.egg-info/* | *.dist-info/*)
            case $path in
            */entry_points.txt) [ -n "$(imgforge_new_plugins "$path")" ] || continue ;;
            *) continue ;;
            esac
            ;;
        *)
            imgforge_reaches A "$path" || imgforge_hides A "$path" || continue
            ! grep -qzxF -- "./$path" /imgforge-products || continue
            ;;
        esac
        rm -rf -- "$path"
        imgforge_say removed A "$path"
    done < <(imgforge_owned)
}

# Keeps of what was installed the modules that the repository has, and what is written of them.
imgforge_look_at_packages() {
    local site entry name base
    [ -e /imgforge-site-packages ] || return 0
    read -r site </imgforge-site-packages
    chown -hR 0:0 "$imgforge_site"
    chmod -R go-w "$imgforge_site"
    for entry in "$site"/*.egg; do
        [ -d "$entry" ] && [ ! -L "$entry" ] || continue
        cp -a "$entry/." "$site/" && rm -rf "$entry"
    done
    for entry in "$site"/* "$site"/.[!.]*; do
        [ -e "$entry" ] || [ -L "$entry" ] || continue
        name=${entry##*/}
        base=${name%%.*}
        case $name in
        *.dist-info | *.egg-info | EGG-INFO)
            [ -f "$entry/entry_points.txt" ] || continue
            [ -n "$(imgforge_new_plugins "$entry/entry_points.txt")" ] || continue
            name=$name/entry_points.txt
            entry=$entry/entry_points.txt
            ;;
        *.pth | __pycache__) ;;
        *)
            case $base in *[!A-Za-z0-9_]* | '') ;; *)
                ! grep -qE "(^|/)$base[./]" /imgforge-tracked || continue
                ;;
            esac
            ;;
        esac
        rm -rf -- "$entry"
        case $name in *.pth | __pycache__ | easy-install*) continue ;; esac
        imgforge_say removed A "site-packages/$name"
    done
    printf 'export HOME=%q\nexport PYTHONPATH=%q${PYTHONPATH:+:$PYTHONPATH}\n' "$imgforge_home" "$site" \
        >/imgforge-home.sh
}

# Lists where the environment has its packages, and the modules in them.
imgforge_list_modules() {
    local site
    local python=python
    [ ! -x /opt/miniconda3/envs/testbed/bin/python ] || python=/opt/miniconda3/envs/testbed/bin/python
    "$python" -I -c 'import site; print("\n".join(site.getsitepackages()))' >/imgforge-sites 2>/dev/null ||
        return 0
    while IFS= read -r site; do
        [ ! -d "$site" ] || ls "$site" | grep -vE '[.](dist-info|egg-info|pth|egg-link)$' | cut -d. -f1
    done </imgforge-sites >/imgforge-modules
}

# Ends the preparation: the tests get this shell's state, and where commands were run what they
# installed, a tree that is all root's, and an empty home.
imgforge_finish() {
    imgforge_record
    imgforge_plainly
    [ -n "$1" ] || exit 0
    cd "$imgforge_directory" || exit 1
    imgforge_look_at_packages
    find . -xdev -path ./.git -prune -o -user "$imgforge_user" -type d -exec chmod 1777 {} +
    find . -xdev -path ./.git -prune -o -user "$imgforge_user" -exec chown -h 0:0 {} +
    find /tmp /var/tmp /dev/shm /run -xdev -depth -user "$imgforge_user" -delete 2>/dev/null
    imgforge_make_home
    exit 0
}
