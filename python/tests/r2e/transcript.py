"""The same actions through R2E-Gym and through this package, and what came of each.

As a program it does them with R2E-Gym, on the server that DOCKER_HOST names:

    python -m r2e.transcript ROW.json > TRANSCRIPT.json
"""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from r2e.r2e_gym import outcome

Transcript = Dict[str, Tuple[str, Any]]

TOOLS = ("file_editor.py", "execute_bash.py", "search.py", "finish.py")
PATCH_OF_NOTES = """--- a/notes.txt
+++ b/notes.txt
@@ -1,2 +1,3 @@
 one
 two
+three
"""
# What differs from run to run.
_TIMES = re.compile(r"in \d+\.\d+s|\b[0-9a-f]{7,40}\b|\d+ insertions?\(\+\), \d+ deletions?")


def plain(value: Any) -> Any:
    """Returns a value without what differs from run to run, as JSON has it."""
    if isinstance(value, str):
        return _TIMES.sub("…", value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def in_any_order(told: Tuple[str, str]) -> Tuple[List[str], str]:
    """Returns the output of a command as lines whose order tells nothing, and the code."""
    output, code = told
    return sorted(output.splitlines()), code


def play(env: Any, action: Callable[[str], Any], tools: Path, tmp: Path) -> Transcript:
    """Does all actions, and returns what came of each, by its name."""
    runtime = env.runtime
    told: Transcript = {}

    def note(name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        assert name not in told
        kind, value = outcome(lambda: function(*arguments, **options))
        told[name] = (kind, plain(value))

    def act(name: str, function: str, **parameters: str) -> None:
        words = "".join(f"<parameter={key}>{text}</parameter>" for key, text in parameters.items())

        def step() -> List[Any]:
            text = f"<function={function}>{words}</function>"
            observation, reward, done, _ = env.step(action(text), timeout=30)
            return [str(observation), observation.bash_output, observation.error_code, reward, done]

        note(name, step)

    note("reset", env.reset)
    runtime = env.runtime
    note("add commands", env.add_commands, [str(tools / tool) for tool in TOOLS])
    note("their names", lambda: [command.name for command in env.commands])
    note("their docs", lambda: [command.docstring for command in env.commands])
    note("the task", env.get_task_instruction)
    note("state", lambda: [env._observation, env._state, env.check_done()])

    act("view", "file_editor", command="view", path="/testbed/calc.py")
    act("view a directory", "file_editor", command="view", path="/testbed")
    act("search", "search", search_term="return", path="/testbed")
    act("bash", "execute_bash", command="echo hi; echo there >&2")
    act("bash fails", "execute_bash", command="echo hi; exit 3")
    act("bash of many lines", "execute_bash", command="seq 200")
    act("bash of odd text", "execute_bash", command="printf 'é\\n\\033[1mbold\\033[0m\\r\\n'")
    act("a wrong parameter", "search", nonsense="1")
    act("an action that is not allowed", "rm", path="/")
    act("no action", "", path="/")
    note("reward before", runtime._calculate_reward)
    act(
        "edit",
        "file_editor",
        command="str_replace",
        path="/testbed/calc.py",
        old_str="a - b",
        new_str="a + b",
    )
    act("create", "file_editor", command="create", path="/testbed/new.txt", file_text="é")
    note("patch", runtime.get_patch)
    note("reward after", runtime._calculate_reward)
    note("reward and log", runtime._calculate_reward, get_test_output=True)
    note("run tests", runtime.run_tests)
    note("parsed", lambda: runtime.parse_logs(runtime.run_tests()[0]))

    for code in [
        "true",
        "false",
        # Docker has a pipe for each output, so their order is that of the times.
        "echo out; sleep 0.5; echo err >&2",
        "cd /tmp && pwd",
        "source /dev/null",
        "true && cd /usr && pwd",
        "sh -c 'exit 124'",
        "sh -c 'kill -9 $$'",
        "nothing-of-this-name",
        "printf '\\033[31mred\\033[0m\\r\\n'",
        "sh -c \"printf '\\033[31mred\\r\\n'; exit 1\"",
        "printf '\\377'",
        "cat /no/such/file",
        "echo $PATH",
        "echo 'a",
    ]:
        note(f"run {code}", runtime.run, code)
        note(f"demux {code}", runtime.demux_run, code)
    note("run with arguments", runtime.run, "echo a", args="b  'c  d'", workdir="/usr")
    note("run nowhere", runtime.run, "pwd", workdir="/nowhere")
    note("run too long", runtime.run, "sleep 20", timeout=1)
    note("demux too long", runtime.demux_run, "sleep 20", timeout=1)

    (tmp / "file").write_text("content\n")
    note("copy", runtime.copy_to_container, str(tmp / "file"), "/tmp/copied")
    note("copied", runtime.run, "cat /tmp/copied")
    note("copy nowhere", runtime.copy_to_container, str(tmp / "file"), "/no/where/x")
    note("create file", runtime.create_file, "made", "text\n")
    note("created", runtime.run, "cat /made")
    note("read file", lambda: runtime.read_file("run_tests.sh"))

    note("apply", runtime.apply_patch, PATCH_OF_NOTES)
    note("apply again", runtime.apply_patch, PATCH_OF_NOTES)
    note("applied", runtime.run, "cat notes.txt")
    note("reverse", runtime.reverse_patch, PATCH_OF_NOTES)
    note("apply nothing", runtime.apply_patch, "")
    note("apply nonsense", runtime.apply_patch, "nonsense\n")
    note("patches left", runtime.run, "ls /tmp | grep -c patch")

    note("soft reset before", runtime.soft_git_reset)
    note("start branch", runtime.start_new_branch)
    note("commit", runtime.commit_after_step, 1)
    note("commit nothing", runtime.commit_after_step, 2)
    note("patch of nothing", runtime.get_patch)
    note("status", runtime.run, "git status --short")
    note("soft reset", runtime.soft_git_reset)
    note("undo", runtime.undo_last_commit)
    # git tells the branch on one output and the files on the other, at once. Docker has a pipe for
    # each, so that either may be read first.
    note("checkout", lambda: in_any_order(runtime.checkout("main")))
    note("checkout nothing", runtime.checkout, "no-such-branch")
    note("hash", runtime.get_current_commit_hash)

    act("finish", "finish", command="submit")
    note("is over", env.check_done)
    if "compute_reward" in vars(type(env)):
        # The first release of R2E-Gym has no limit for tests.
        note("slow", runtime.run, "sh -c \"echo 'import time; time.sleep(30)' > calc.py\"")
        note("reward of tests that do not end", env.compute_reward, timeout=3)
    return told


def main() -> None:
    from r2e import r2e_gym

    theirs = r2e_gym.load()
    # Its modules are there once it is loaded.
    from r2egym.agenthub.environment.env import (  # type: ignore[import-not-found]  # pyright: ignore
        EnvArgs,
        RepoEnv,
    )

    logging.disable(logging.CRITICAL)
    place = Path(sys.argv[1])
    env = RepoEnv(EnvArgs(ds=json.loads(place.read_text())))
    try:
        told = play(env, theirs.Action.from_string, theirs.tools, place.parent)
    finally:
        env.close()
    print("\n" + json.dumps(told))


if __name__ == "__main__":
    main()
