"""mini-swe-agent: its agent, with a model whose words are given, mends a bug in a container.

The environment is made as `environment_class: docker` makes it, from the same settings.
"""

import os
import time

os.environ |= {"MSWEA_SILENT_STARTUP": "1", "MSWEA_CONFIGURED": "true"}

from minisweagent.agents.default import DefaultAgent  # noqa: E402
from minisweagent.environments import get_environment  # noqa: E402
from minisweagent.models.test_models import DeterministicModel, make_output  # noqa: E402

environment = get_environment({
    "environment_class": "docker", "image": os.environ["CLIENTS_IMAGE"], "cwd": "/testbed",
    "timeout": 30, "env": {"PAGER": "cat"},
})


def says(words: str, command: str) -> dict:
    return make_output(words, [{"command": command}])


model = DeterministicModel(cost_per_call=0, outputs=[
    says("look", "cat calc.py && python3 -m pytest -q; true"),
    says("mend", "sed -i 's/a - b/a + b/' calc.py && python3 -m pytest -q"),
    says("many words", "seq 1 100000 | tail -1; echo err >&2; exit 7"),
    says("submit", "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A && git diff --cached"),
])
agent = DefaultAgent(model, environment, system_template="s", instance_template="{{task}}",
                     cost_limit=0)
try:
    end = agent.run("mend add")
    assert end["exit_status"] == "Submitted", end
    assert "+    return a + b" in end["submission"], end
    said = str(agent.messages)
    assert "1 failed, 1 passed" in said and "2 passed" in said and "100000" in said, said

    late = environment.execute({"command": "sleep 60"}, timeout=1)
    assert late["returncode"] == -1 and "timed out" in late["exception_info"], late
    assert environment.execute({"command": "exit 3"})["returncode"] == 3

    times = 20
    started = time.monotonic()
    for _ in range(times):
        assert environment.execute({"command": "true"})["returncode"] == 0
    each = (time.monotonic() - started) / times * 1000
finally:
    environment.cleanup()
print(f"{each:.0f} ms a command")
print("result: the agent mends the bug and submits its patch")
