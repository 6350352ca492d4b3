"""R2E-Gym: its environment and its own tools mend a bug, and the reward goes from 0 to 1."""

import json
import logging
import os
import sys
from pathlib import Path

source = Path(os.environ["CLIENTS_CACHE"]) / "suites" / "r2e-gym" / "src"
sys.path.insert(0, str(source))

from r2egym.agenthub.action import Action  # noqa: E402
from r2egym.agenthub.environment.env import EnvArgs, RepoEnv  # noqa: E402

logging.disable(logging.CRITICAL)
TOOLS = source / "r2egym" / "agenthub" / "tools"
COMMIT = {"old_commit_hash": "0" * 40, "new_commit_hash": "1" * 40, "commit_message": "mend add",
          "commit_date": "2024-01-01T00:00:00", "file_diffs": [], "metadata": {}}
row = {
    "docker_image": os.environ["CLIENTS_IMAGE"], "repo_name": "orange3",
    "problem_statement": "[ISSUE]mend add[/ISSUE]", "parsed_commit_content": json.dumps(COMMIT),
    "expected_output_json": json.dumps({"test_add": "PASSED", "test_zero": "PASSED"}),
}
environment = RepoEnv(EnvArgs(ds=row))
runtime = environment.runtime


def act(function: str, **parameters: str):
    """Takes a step of the agent, and returns what it observes."""
    words = "".join(f"<parameter={name}>{value}</parameter>" for name, value in parameters.items())
    observation, _, done, _ = environment.step(
        Action.from_string(f"<function={function}>{words}</function>"), timeout=30)
    return str(observation), done


try:
    environment.reset()
    environment.add_commands([str(TOOLS / name) for name in (
        "file_editor.py", "execute_bash.py", "search.py", "finish.py")])
    assert environment.get_task_instruction() == "mend add"

    told, _ = act("file_editor", command="view", path="/testbed/calc.py")
    assert "return a - b" in told, told
    before = runtime._calculate_reward_r2e()
    assert before == 0, before
    told, _ = act("file_editor", command="str_replace", path="/testbed/calc.py",
                  old_str="a - b", new_str="a + b")
    told, _ = act("execute_bash", cmd="echo hi; exit 3")
    assert "hi" in told, told
    patch = runtime.get_patch()
    assert "+    return a + b" in patch, patch

    out, _, code = runtime.demux_run("cat calc.py")
    assert code == "0" and "a + b" in out, (out, code)
    out, code = runtime.run("sleep 30", timeout=1)
    assert code == "-1" and "too long" in out, (out, code)
    out, code = runtime.reverse_patch(patch)
    assert code == "0", (out, code)
    out, code = runtime.apply_patch(patch)
    assert code == "0", (out, code)
    after = runtime._calculate_reward_r2e()
    assert after == 1, after
    _, done = act("finish", command="submit")
    assert done
finally:
    environment.close()
print("result: its tools mend the bug; reward 0, then 1")
