# The Python of the tests runs the script that is the input: `python` on PATH, else `python3`.
# -I: what lies in the working directory, such as a file `json.py`, is not imported.
for name in python python3; do
    command -v "$name" >/dev/null 2>&1 || continue
    "$name" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 6) else 66)' </dev/null >/dev/null 2>&1
    case $? in
    0) exec "$name" -I -B - "$@" ;;
    66)
        echo "error: \`$name\` is older than Python 3.6, which this fix needs" >&2
        exit 1
        ;;
    esac
done
echo "error: neither \`python\` nor \`python3\` on PATH starts: PATH is $PATH" >&2
exit 1
