"""A smoke run, stage by stage."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Dict, List, Optional, Type

from .._errors import ImgforgeError
from .._link import StrPath
from .._shared import shared_client
from ..client import Client
from ._config import RepoSpec, SandboxConfig, TaskSpec
from ._results import STAGES, RunReport, StageResult


class SessionManager:
    """One smoke run: a sandbox, a repository in it, and its tests.

    with SessionManager(sandbox, repo, task) as run:
        report = run.run()

    Or do the stages one by one, in this order: `start`, `prepare_repo`, `apply_compat`,
    `run_setup`, `run_tests`, `teardown`. The first stage that fails ends the run: those after it
    are skipped. A stage that fails is a result, never an exception. At the end of the `with` block
    nothing of the run is left, and files on the way to the sandbox are gone.

    Any thread may use it; stages are done one after another.
    """

    def __init__(
        self,
        sandbox: SandboxConfig,
        repo: RepoSpec,
        task: TaskSpec,
        *,
        name: Optional[str] = None,
        base_dir: Optional[StrPath] = None,
        artifacts: Optional[StrPath] = None,
        events: Optional[StrPath] = None,
        max_output: Optional[int] = None,
        dry_run: bool = False,
        client: Optional[Client] = None,
    ) -> None:
        """Checks all of it. Nothing is started yet.

        Relative paths are below `base_dir`, by default the working directory. `artifacts` is a
        directory that gets one of its own for the run, with the results and whole outputs of its
        commands. `events` is a file that lines of JSON are appended to while it runs. `max_output`
        is how many bytes of each output are in results, by default a mebibyte. With `dry_run` fixes
        say what they would do, and neither setup nor tests are run. `client` is by default the one
        of this process, which IMGFORGE_BIN, IMGFORGE_ENGINE and IMGFORGE_STATE_DIR choose.

        Raises `InvalidRequest` for what is wrong with the configuration.
        """
        self.sandbox = sandbox
        self.repo = repo
        self.task = task
        self._client = client or shared_client()
        self._connection = self._client.link.get()
        config: Dict[str, Any] = {
            "sandbox": sandbox.to_dict(),
            "repo": repo.to_dict(),
            "task": task.to_dict(),
        }
        if name is not None:
            config["name"] = name
        params: Dict[str, Any] = {
            "config": config,
            "base_dir": os.path.abspath(os.fspath(base_dir or ".")),
            "dry_run": dry_run,
        }
        for key, path in [("artifacts", artifacts), ("events", events)]:
            if path is not None:
                params[key] = os.fspath(path)
        if max_output is not None:
            params["max_output"] = max_output
        self._done: List[StageResult] = []
        self._closed = False
        opened = self._call("smoke.open", params)
        self.run_id: str = opened["smoke"]
        self.artifacts: Optional[str] = opened["artifacts"]

    def start(self) -> StageResult:
        """Starts the sandbox."""
        return self._stage("start")

    def prepare_repo(self) -> List[StageResult]:
        """Fetches the repository, and writes the commit and the patches into the sandbox.

        Returns the results of the stages `clone` and `checkout`.
        """
        return [self._stage("clone"), self._stage("checkout")]

    def apply_compat(self) -> StageResult:
        """Makes the fixes of `repo.compat`."""
        return self._stage("compat")

    def run_setup(self) -> StageResult:
        """Runs the commands of `task.setup`."""
        return self._stage("setup")

    def run_tests(self) -> StageResult:
        """Runs the command of `task.test`, and judges what the tests printed."""
        return self._stage("test")

    def teardown(self) -> StageResult:
        """Ends the sandbox. Stages that were not done are skipped."""
        return self._stage("teardown")

    def run(self) -> RunReport:
        """Does all stages that are left, and returns the report."""
        done = {result.stage for result in self._done}
        for stage in STAGES:
            if stage not in done and "teardown" not in done:
                self._stage(stage)
        return self.report()

    def report(self) -> RunReport:
        """Returns the report of what was done so far."""
        return RunReport.from_dict(self._call("smoke.report", {"smoke": self.run_id}))

    def close(self) -> None:
        """Ends the run, whatever it does, and forgets it. Another call does nothing.

        Raises `InfraError` where the sandbox did not end, or artifacts or events could not be
        written.
        """
        if not self._closed:
            self._closed = True
            self._call("smoke.close", {"smoke": self.run_id})

    def __enter__(self) -> SessionManager:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        try:
            self.close()
        except ImgforgeError:
            # The first failure is the one to see.
            if error is None:
                raise

    def __del__(self) -> None:
        # It may run in any thread, at any time: it sends, and does not wait.
        if not getattr(self, "_closed", True) and hasattr(self, "run_id"):
            self._connection.post("smoke.close", {"smoke": self.run_id})

    def _stage(self, stage: str) -> StageResult:
        params = {"smoke": self.run_id, "stage": stage}
        result = StageResult.from_dict(self._call("smoke.stage", params))
        self._done.append(result)
        return result

    def _call(self, method: str, params: Dict[str, Any]) -> Any:
        return self._connection.submit(method, params).result()
