"""Images in the layouts of R2E, SWE-bench and SWE-smith, made of an instance of the demo dataset.

A calculator whose `add` subtracts; its tests are `test_add` and `test_zero`.
"""

from __future__ import annotations

import json
from typing import Any, Dict

from imgforge_sandbox import Checkpoint, Client, Session

BASE = ("demo", "imgforge__abacus-1")
ENVIRONMENT = "/opt/miniconda3/envs/testbed"

CALC = "def add(a, b):\n    return a - b\n"
TESTS = """from calc import add


def test_add():
    assert add(1, 2) == 3


def test_zero():
    assert add(0, 0) == 0
"""
RUN_R2E = "echo begun\nPYTHONDONTWRITEBYTECODE=1 .venv/bin/python -m pytest -rA r2e_tests\n"
RUN_SWEBENCH = f"""#!/bin/bash
set -uxo pipefail
cd /testbed
: '>>>>> Start Test Output'
PYTHONDONTWRITEBYTECODE=1 {ENVIRONMENT}/bin/python -m pytest -rA tests/test_calc.py
: '>>>>> End Test Output'
"""

PATCH = """--- a/calc.py
+++ b/calc.py
@@ -1,2 +1,2 @@
 def add(a, b):
-    return a - b
+    return a + b
"""


def r2e_row(image: str, **fields: Any) -> Dict[str, Any]:
    """A row of R2E for `r2e_image`."""
    return {
        "docker_image": image,
        "repo_name": "orange3",
        "problem_statement": "Read this. [ISSUE]\nmend add\n[/ISSUE] Go.",
        "parsed_commit_content": json.dumps(
            {
                "old_commit_hash": "0" * 40,
                "new_commit_hash": "1" * 40,
                "commit_message": "mend add",
                "commit_date": "2024-01-01T00:00:00",
                "file_diffs": [],
                "metadata": {},
            }
        ),
        "expected_output_json": json.dumps({"test_add": "PASSED", "test_zero": "PASSED"}),
        **fields,
    }


def swebench_row(image: str, **fields: Any) -> Dict[str, Any]:
    """A row of SWE-bench for `swebench_image`."""
    return {
        "docker_image": image,
        "instance_id": "calc__calc-1",
        "repo": "calc/calc",
        "version": "1.0",
        "problem_statement": "mend add",
        "log_parser": "parse_log_pytest",
        "FAIL_TO_PASS": json.dumps(["tests/test_calc.py::test_add"]),
        "PASS_TO_PASS": json.dumps(["tests/test_calc.py::test_zero"]),
        **fields,
    }


def _repository(session: Session) -> None:
    session.run("rm -rf /testbed && mkdir -p /testbed")
    session.write("/testbed/calc.py", CALC)
    session.write("/testbed/notes.txt", "one\n")
    session.write("/testbed/line ends.txt", "a\r\nb\r\n")
    session.run(
        "git init -q -b main && git config --global user.name tests && "
        "git config --global user.email tests@example.org && "
        "git config --global --add safe.directory '*' && "
        "printf '%s\\n' .venv __pycache__ >> .git/info/exclude",
        workdir="/testbed",
    )


def _image(session: Session, script: str) -> Checkpoint:
    session.run(script, workdir="/testbed")
    return session.checkpoint()


def r2e_image(client: Client) -> Checkpoint:
    """An image of R2E: tests in `/r2e_tests`, their script in the repository, a `.venv`."""
    with client.start(instance=BASE) as session:
        _repository(session)
        session.write("/testbed/run_tests.sh", RUN_R2E)
        session.write("/r2e_tests/test_calc.py", TESTS)
        # Images have changes that are in no commit.
        return _image(
            session,
            "git add calc.py notes.txt 'line ends.txt' && git commit -q -m begin && "
            "echo two >> notes.txt && echo loose > loose.txt && "
            f"ln -s {ENVIRONMENT} .venv && mkdir -p /root/.local/bin",
        )


def swebench_image(client: Client) -> Checkpoint:
    """An image of SWE-bench, as R2E-Gym has them: `/run_tests.sh`, and the tests in place."""
    with client.start(instance=BASE) as session:
        _repository(session)
        session.write("/run_tests.sh", RUN_SWEBENCH)
        session.write("/testbed/tests/test_calc.py", TESTS)
        session.write("/testbed/conftest.py", "")
        return _image(session, "git add -A && git commit -q -m begin")


def swesmith_image(client: Client) -> Checkpoint:
    """An image of SWE-smith: the commit of the row, and a later one that is checked out."""
    with client.start(instance=BASE) as session:
        _repository(session)
        session.write("/testbed/tests/test_calc.py", TESTS)
        session.write("/testbed/conftest.py", "")
        return _image(
            session,
            "git add -A && git commit -q -m begin && git branch base && "
            "echo later >> notes.txt && git commit -q -a -m later",
        )
