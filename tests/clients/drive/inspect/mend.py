"""A task of Inspect's, without a model: its solver runs commands in the sandbox, the tests decide."""

import os

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, scorer
from inspect_ai.solver import solver
from inspect_ai.util import sandbox


@solver
def mends():
    async def solve(state, generate):
        program = await sandbox().read_file("/testbed/calc.py")
        await sandbox().write_file("/testbed/calc.py", program.replace("a - b", "a + b"))
        return state

    return solve


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
        solver=mends(),
        scorer=tests_pass(),
        sandbox=("docker", os.path.abspath("compose.yaml")),
    )
