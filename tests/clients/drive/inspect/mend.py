"""A task of Inspect's: the model's two commands are given, and the tests decide."""

import os

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, get_model
from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, scorer
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import bash
from inspect_ai.util import sandbox


def calls(command: str) -> ModelOutput:
    return ModelOutput.for_tool_call("mockllm/model", "bash", {"cmd": command})


@scorer(metrics=[accuracy()])
def tests_pass():
    async def score(state, target):
        ran = await sandbox().exec(["python3", "-m", "pytest", "-q"], cwd="/testbed", timeout=60)
        return Score(value=CORRECT if ran.success else INCORRECT, explanation=ran.stdout)

    return score


@task
def mend():
    return Task(
        dataset=[Sample(input="add in /testbed/calc.py is wrong. Mend it.")],
        solver=[use_tools(bash(timeout=60)), generate()],
        scorer=tests_pass(),
        model=get_model("mockllm/model", custom_outputs=[
            calls("cat /testbed/calc.py"),
            calls("sed -i 's/a - b/a + b/' /testbed/calc.py"),
            ModelOutput.from_content("mockllm/model", "done"),
        ]),
        sandbox=("docker", os.path.abspath("compose.yaml")),
    )
