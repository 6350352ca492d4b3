"""What is done to a new box before an agent gets it, by the kind of its image."""

from __future__ import annotations

import posixpath
import shlex
from dataclasses import dataclass
from typing import Any, List, Literal, Mapping, Sequence

from .._errors import InfraError
from ._box import Box
from .row import Kind, TestSpec

CONDA_ENV = "/opt/miniconda3/envs/testbed"
HIDDEN = ("run_tests.sh", "r2e_tests")
NOT_OF_AGENTS = (*HIDDEN, ".venv")
"""Paths of R2E's repositories whose changes are not graded: the tests, and what runs them."""
SWESMITH_TEST = "pytest --disable-warnings --color=no --tb=no --verbose -rA -p no:snail"
"""How SWE-smith runs tests, where the row has no `test_cmd`."""


@dataclass(frozen=True)
class SetupStep:
    """A step of the setup, and what became of it. `detail` is the output, or the reason."""

    name: str
    status: Literal["ok", "failed", "skipped"]
    detail: str = ""


class Setup:
    """Sets a box up. `steps` has what was done.

    `for_grading` keeps the tests, which an agent does not get. `has_network` says whether there is
    one: without it nothing is fetched.
    """

    def __init__(self, box: Box, row: Mapping[str, Any], *, for_grading: bool, has_network: bool):
        self.box = box
        self.row = row
        self.for_grading = for_grading
        self.has_network = has_network
        self.steps: List[SetupStep] = []

    def run(self, kind: Kind, tests: TestSpec) -> List[SetupStep]:
        """Does the steps of a kind of image, and returns them.

        What only tools need may fail. Raises `InfraError` where the repository or the tests are
        not as they have to be.
        """
        if kind == "r2e":
            self._r2e()
        elif kind == "swebench":
            self._swebench()
        else:
            self._swesmith(tests)
        return self.steps

    def _r2e(self) -> None:
        repo, alt = shlex.quote(self.box.repo_path), shlex.quote(self.box.alt_path)
        venv = f"{repo}/.venv"
        self._may_fail(
            "link the environment",
            f"[ -d {venv}/bin ] || {{ echo there is no {venv}; exit 3; }}; "
            f"ln -sfn {venv} {alt}/.venv && mkdir -p {alt}/.local/bin && "
            f"ln -sfn {venv}/bin/python {alt}/.local/bin/python && "
            f"ln -sfn {venv}/bin/python {alt}/.local/bin/python3 && "
            f"find {venv}/bin -type f -executable -exec ln -sf {{}} {alt}/.local/bin/ \\;",
        )
        self._chardet("uv pip install chardet")
        self._may_fail(
            "remove compiled files",
            f"for place in {repo} /r2e_tests; do "
            '[ ! -d "$place" ] || find "$place" -name __pycache__ -prune -exec rm -rf {} + '
            '-o -name "*.pyc" -exec rm -f {} +; done',
        )
        # What is not in alt_path already is moved there; an agent's box does not keep it.
        moved = [f"{repo}/{name}" for name in HIDDEN] + ["/r2e_tests"]
        script = "".join(
            f"if [ -e {path} ] || [ -L {path} ]; then "
            f"rm -rf {alt}/{posixpath.basename(path)} && mv {path} {alt}/ || exit; fi; "
            for path in moved
        )
        if not self.for_grading:
            script += "".join(f"rm -rf {alt}/{name}; " for name in HIDDEN)
        self._must("hide the tests", script + "true")

    def _swebench(self) -> None:
        self._must("make the tests executable", "[ ! -e /run_tests.sh ] || chmod +x /run_tests.sh")
        self._link_conda()
        self._chardet("python -m pip install chardet")

    def _swesmith(self, tests: TestSpec) -> None:
        commit = str(self.row["base_commit"])
        if commit.startswith("-"):
            raise InfraError(f"base_commit of the row is {commit!r}: that is no commit")
        wanted = shlex.quote(f"{commit}^{{commit}}")
        there = self.box.execute(f"git cat-file -e {wanted}", 120).ok
        if there:
            self._skip("fetch the commit", "the image has it")
        elif self.has_network:
            self._must("fetch the commit", f"git fetch && git cat-file -e {wanted}")
        else:
            raise InfraError(
                f"the image has no commit {commit}, and the session has no network to fetch it",
                hint='allow the host of the repository: network="proxy", allow=[…]',
            )
        self._must("check the commit out", f"git checkout -q {shlex.quote(commit)}")
        self.box.session.write(
            "/run_tests.sh", swesmith_script(self.row, tests, self.box), mode=0o755
        )
        self.steps.append(SetupStep("write the tests' script", "ok", "/run_tests.sh"))
        self._link_conda()
        self._may_fail(
            "put /usr/local/bin first in shells",
            "printf '%s\\n' 'export PATH=\"/usr/local/bin:$PATH\"' >> ~/.bashrc",
        )
        self._chardet("python -m pip install chardet")

    def _link_conda(self) -> None:
        self._may_fail(
            "link the environment",
            f"[ -d {CONDA_ENV} ] || {{ echo there is no {CONDA_ENV}; exit 3; }}; "
            f"ln -sfn {CONDA_ENV} /root/.venv",
        )

    def _chardet(self, install: str) -> None:
        """R2E-Gym's own tools need this module. The tests do not."""
        name = "install chardet"
        if self.for_grading:
            self._skip(name, "the tests do not need it")
        elif self.box.execute(["python", "-c", "import chardet"], 60).ok:
            self._skip(name, "it is there")
        elif self.has_network:
            self._may_fail(name, install)
        else:
            self._skip(name, "it is not there, and there is no network")

    def _may_fail(self, name: str, script: str) -> None:
        result = self.box.execute(script, 120)
        status: Literal["ok", "failed", "skipped"] = "ok" if result.ok else "failed"
        # 3 is the code of a script that has nothing to do.
        if result.end == "exited" and result.code == 3:
            status = "skipped"
        self.steps.append(SetupStep(name, status, result.text.strip()))

    def _must(self, name: str, script: str) -> None:
        result = self.box.execute(script, 120)
        said = result.text.strip()
        if not result.ok:
            raise InfraError(f"setup: {name}: {result.end} {result.code}: {said}")
        self.steps.append(SetupStep(name, "ok", said))

    def _skip(self, name: str, reason: str) -> None:
        self.steps.append(SetupStep(name, "skipped", reason))


def put_tests_back(box: Box) -> None:
    """Puts the tests of R2E where its script looks for them; what an agent put there goes."""
    repo, alt = shlex.quote(box.repo_path), shlex.quote(box.alt_path)
    script = (
        f"[ -e {alt}/run_tests.sh ] || {{ echo the image has no run_tests.sh; exit 1; }}; "
        f"rm -rf {repo}/r2e_tests && "
        f"{{ [ ! -e {alt}/r2e_tests ] || ln -s {alt}/r2e_tests {repo}/r2e_tests; }}"
    )
    result = box.execute(script, 120)
    if not result.ok:
        raise InfraError(f"the tests cannot be put back: {result.text.strip()}")


def files_of(tests: TestSpec) -> List[str]:
    """Returns the files of the tests of a row, each once, in their order."""
    files = [test.split("::", 1)[0] for test in [*tests.FAIL_TO_PASS, *tests.PASS_TO_PASS]]
    return list(dict.fromkeys(files))


def restore_test_files(box: Box, commit: str, tests: TestSpec) -> None:
    """Takes the files of the tests from the base commit again. Those that it has not stay."""
    for file in files_of(tests):
        name = posixpath.basename(file)
        if name.endswith("_test.py") or (name.startswith("test_") and name.endswith(".py")):
            box.execute(["git", "checkout", commit, "--", file], 120)


def swesmith_script(row: Mapping[str, Any], tests: TestSpec, box: Box) -> str:
    """Returns the script that runs the tests of a row of SWE-smith.

    `test_cmd` of the row is the command, without files; else it is pytest.
    """
    words = [str(row.get("test_cmd") or SWESMITH_TEST), *map(shlex.quote, files_of(tests))]
    lines = [
        "#!/bin/bash",
        "set -uxo pipefail",
        "source /opt/miniconda3/bin/activate",
        "conda activate testbed",
        f"cd {shlex.quote(box.repo_path)}",
        ": '>>>>> Start Test Output'",
        " ".join(words),
        ": '>>>>> End Test Output'",
    ]
    return "\n".join(lines) + "\n"


def commands_as_r2e(kind: Kind, repo: str, alt: str) -> Sequence[str]:
    """Returns the commands that R2E-Gym runs in a new container, for exact mode.

    Those of SWE-smith are without its fetch and its script.
    """
    if kind == "swebench":
        return [
            "chmod +x /run_tests.sh",
            f"ln -s {CONDA_ENV} /root/.venv",
            "python -m pip install chardet",
        ]
    if kind == "swesmith":
        return [
            "chmod +x /run_tests.sh",
            f"ln -s {CONDA_ENV} /root/.venv",
            "echo 'export PATH=\"/usr/local/bin:$PATH\"' >> ~/.bashrc",
            "python -m pip install chardet",
        ]
    return [
        f"ln -s {repo}/.venv {alt}/.venv",
        f"ln -s {repo}/.venv/bin/python {alt}/.local/bin/python",
        f"ln -s {repo}/.venv/bin/python {alt}/.local/bin/python3",
        f"find {repo}/.venv/bin -type f -executable -exec ln -sf {{}} {alt}/.local/bin/ \\;",
        "uv pip install chardet",
        "find . -name '*.pyc' -delete",
        "find . -name '__pycache__' -exec rm -rf {} +",
        "find /r2e_tests -name '*.pyc' -delete",
        "find /r2e_tests -name '__pycache__' -exec rm -rf {} +",
        *[f"mv {repo}/{name} {alt}/{name}" for name in HIDDEN],
        f"mv /r2e_tests {alt}/r2e_tests",
        f"ln -s {alt}/r2e_tests {repo}/r2e_tests",
    ]
