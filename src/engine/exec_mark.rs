//! How the processes of a command are found in a container whose manager cannot end a command: by a variable
//! of its own in its environment.

/// The variable that marks the processes of a command.
pub(crate) const MARK: &str = "SANDBOX_EXEC_ID";

/// Sends a signal (`$2`) to all processes of a command, by its mark (`$1`), again and again until there
/// is none; any other signal than 9 to the groups of those that lead a session, once.
pub(crate) const SIGNAL: &str = r#"mark=$1 signal=$2 round=0
while [ $round -lt 200 ]; do
    # Where nothing can be started, nothing would be found.
    [ -n "$(cat /proc/$$/environ)" ] || exit 1
    round=$((round + 1)) all= found=' ' sessions=' '
    for directory in /proc/[0-9]*; do
        pid=${directory#/proc/}
        [ $pid != $$ ] && [ $pid != 1 ] && read -r line <$directory/stat || continue
        set -- ${line##*) }
        [ "$1" != Z ] || continue
        all="$all $pid:$2:$4"
        case $(cat $directory/environ) in
        *"$mark"*) found="$found$pid " sessions="$sessions$4 " ;;
        esac
    done 2>/dev/null
    before=
    while [ "$before" != "$found" ]; do
        before=$found
        for process in $all; do
            pid=${process%%:*} session=${process##*:} parent=${process#*:} parent=${parent%:*}
            case $found in *" $pid "*) continue ;; esac
            case $found in *" $parent "*) found="$found$pid " sessions="$sessions$session "; continue ;; esac
            case $sessions in *" $session "*) found="$found$pid " ;; esac
        done
    done
    [ "$found" != ' ' ] || exit 0
    if [ $signal != 9 ]; then
        for pid in $found; do
            case $all in *" $pid:"*":$pid"*) kill -$signal -$pid ;; esac
        done 2>/dev/null
        exit 0
    fi
    kill -9 $found 2>/dev/null
done
exit 1
"#;
