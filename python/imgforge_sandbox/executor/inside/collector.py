"""Runs the tests as a user, and keeps what they record where that user cannot write.

It runs as root of the sandbox. The tests get the writing end of a pipe. What was written to it can
neither be read nor taken back by them: it is appended here to a file in a directory of root.
"""

import fcntl
import json
import os
import signal
import sys
import time
from typing import Any, Dict

CHANNEL = 4
"""The descriptor that the tests write records to."""

KEY = 5
"""The descriptor that the recorder reads its key from, before any code under test runs."""


def child(config: Dict[str, Any], channel: int, key: int) -> None:
    """Becomes the user and the program of the tests."""
    # Out of the way of the descriptors that they get.
    channel = fcntl.fcntl(channel, fcntl.F_DUPFD, 64)
    key = fcntl.fcntl(key, fcntl.F_DUPFD, 64)
    os.dup2(channel, CHANNEL)
    os.dup2(key, KEY)
    os.closerange(KEY + 1, 256)
    os.closerange(3, CHANNEL)
    os.setgroups([])
    os.setgid(config["gid"])
    os.setuid(config["uid"])
    os.umask(0o022)
    os.chdir(config["directory"])
    os.execve(config["argv"][0], config["argv"], dict(os.environ))


def main() -> None:
    config = json.load(sys.stdin)
    records = os.open(config["records"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    from_tests, to_us = os.pipe()
    to_recorder, key = os.pipe()
    os.write(key, config["key"].encode("ascii"))
    os.close(key)
    of_failure, failed = os.pipe()
    process = os.fork()
    if process == 0:
        # It is closed when the tests start.
        failed = fcntl.fcntl(failed, fcntl.F_DUPFD_CLOEXEC, 256)
        try:
            child(config, to_us, to_recorder)
        except BaseException as error:
            os.write(failed, repr(error).encode("ascii", "replace"))
        os._exit(255)
    os.close(to_us)
    os.close(to_recorder)
    os.close(failed)
    failure = os.read(of_failure, 4096)
    os.set_blocking(from_tests, False)
    kept, status, ended = 0, 0, False
    while True:
        try:
            data = os.read(from_tests, 1 << 16)
        except BlockingIOError:
            # What left the descriptor to a process in the background does not keep us.
            if ended:
                break
            done, status = os.waitpid(process, os.WNOHANG)
            ended = done == process
            if not ended:
                time.sleep(0.01)
            continue
        if not data:
            break
        kept += len(data)
        if kept > config["most"]:
            if not ended:
                os.kill(process, signal.SIGKILL)
            break
        os.write(records, data)
    if not ended:
        _, status = os.waitpid(process, 0)
    how = {
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        "error": failure.decode("ascii") or None,
        "flooded": kept > config["most"],
    }
    with open(config["status"], "w") as file:
        json.dump(how, file)


main()
