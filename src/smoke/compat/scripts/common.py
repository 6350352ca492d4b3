# What the scripts of fixes share. They run on Python 3.6 and newer, without packages: imgforge
# gives them to `python -I -B -` as its input, this file first.
#
# The arguments are the id of the fix, the path of the working tree, and perhaps `--dry-run`. The
# output is one line of JSON:
#
#   fix       the id
#   dry_run   whether nothing was to be changed
#   status    "done", "would do" (with dry_run), or "nothing to do"
#   summary   the same for a person, in one sentence
#   python    executable and version of the interpreter
#
# and what the script adds. Where the fix cannot be made, the error output says why, and the exit
# status is 1.
import json
import os
import subprocess
import sys
import tempfile

ID = sys.argv[1]
NAME, _, VALUE = ID.partition("=")
TREE = os.path.realpath(sys.argv[2])
DRY_RUN = "--dry-run" in sys.argv[3:]
VERSION = "{}.{}.{}".format(*sys.version_info[:3])


def readable(text):
    """The text, with bytes that are no UTF-8 as escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def report(status, summary, **more):
    """Prints what was done, and ends the script."""
    if DRY_RUN and status == "done":
        status = "would do"
    python = {"executable": readable(sys.executable), "version": VERSION}
    first = [("fix", ID), ("dry_run", DRY_RUN), ("status", status), ("summary", summary)]
    print(json.dumps(dict(first + [("python", python)], **more)))
    sys.exit(0)


def fail(message):
    """Says why the fix cannot be made, and ends the script."""
    sys.stderr.write("error: {}\n".format(readable(message)))
    sys.exit(1)


def run(*argv, **options):
    """Runs a program, away from the working tree; returns its exit status and its two outputs."""
    env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", **options.get("env", {}))
    for name in options.get("without", ()):
        env.pop(name, None)
    ended = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=options.get("cwd", "/"),
        env=env,
    )
    out, error = (text.decode("utf-8", "backslashreplace") for text in (ended.stdout, ended.stderr))
    return ended.returncode, out, error


def pip(*argv, **options):
    """Runs pip of this interpreter. Its update check would be noise."""
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *argv, **options)


def release_of(version):
    """The numbers of a version, without what follows them: `58.0.2.post1` is (58, 0, 2)."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def last_lines(text, count=20):
    return "\n".join(text.strip().splitlines()[-count:])


def is_inside(path, directory):
    path = os.path.realpath(path)
    return path == directory or path.startswith(os.path.join(directory, ""))


def content(path):
    """The text of a file, or None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def write(path, text):
    """Makes a file whole: at no time it has a part of the text. Everybody can read it."""
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=".imgforge-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def can_write(directory):
    """Whether files can be made in a directory, or in the nearest one above that is there."""
    while not os.path.exists(directory):
        directory = os.path.dirname(directory)
    return os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)
