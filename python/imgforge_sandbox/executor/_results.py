"""What the calls of the executor return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple


@dataclass(frozen=True)
class ExecResult:
    """How a command ended, and what it printed; what is not UTF-8 is replaced.

    `returncode` is 128 + signal where a signal ended it, 126 or 127 where it could not be started,
    and -1 at the time limit; then `stderr` ends in `TIMEOUT after 60s`. `out_of_memory` says that
    the kernel killed it, or a process that it started, for memory; `returncode` may be 0 then.
    `truncated` says that only the end of an output was kept.
    """

    command: str
    returncode: int
    stdout: str
    stderr: str
    elapsed_seconds: float
    timed_out: bool = False
    out_of_memory: bool = False
    truncated: bool = False

    @property
    def success(self) -> bool:
        """Whether it ended by itself with code 0, and nothing of it was killed for memory."""
        return self.returncode == 0 and not self.timed_out and not self.out_of_memory


@dataclass(frozen=True)
class TestResult:
    """What became of tests. Each test that ran is in one of the lists, by its id.

    A test is in `passed` only if its setup, call and teardown passed, each time that it ran. One
    whose teardown failed is in `errors`, as are files that could not be collected. What is in no
    list did not run to its end: `missing` has those that were asked for.

    `source` is `channel`, or `text` where the results were read from what was printed. `complete`
    says that the test runner came to its end by itself. `problems` has what does not fit together,
    in sentences: read the patch where there are any. `returncode` is that of the test runner, or
    None where it was killed.
    """

    # Not a test of pytest's.
    __test__ = False

    passed: List[str]
    failed: List[str]
    errors: List[str]
    raw_output: str
    elapsed_seconds: float
    timed_out: bool = False
    skipped: List[str] = field(default_factory=list)
    xfailed: List[str] = field(default_factory=list)
    xpassed: List[str] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)
    out_of_memory: bool = False
    complete: bool = True
    returncode: Optional[int] = None
    source: str = "channel"
    problems: List[str] = field(default_factory=list)

    @property
    def all_passed(self) -> bool:
        """Whether at least one test ran, all that ran passed, and none is missing.

        Tests that were skipped, or failed as they were expected to, do not count.
        """
        wrong = self.failed or self.errors or self.missing or self.problems
        ended = self.complete and not self.timed_out and not self.out_of_memory
        return bool(self.passed) and not wrong and ended

    def check_tests(
        self, fail_to_pass: Sequence[str], pass_to_pass: Sequence[str] = ()
    ) -> Tuple[bool, Dict[str, bool], Dict[str, bool]]:
        """Tells whether all these tests passed, and of each whether it did.

        An id without parameters, of a class or of a file stands for all tests below it: it passed
        if at least one ran and all passed. What did not run did not pass. A skipped test, an
        expected failure and an unexpected pass are none.

        Raises `ValueError` where `fail_to_pass` is empty: nothing would be proved.
        """
        _need_ids(fail_to_pass, "fail_to_pass")
        if isinstance(pass_to_pass, str):
            _need_ids(pass_to_pass, "pass_to_pass")
        first = {test: self._passed(test) for test in fail_to_pass}
        second = {test: self._passed(test) for test in pass_to_pass}
        return all([*first.values(), *second.values()]), first, second

    def _passed(self, test: str) -> bool:
        passed = set(self.passed)
        wrong = [*self.failed, *self.errors, *self.skipped, *self.xfailed, *self.xpassed]
        if any(below(other, test) for other in wrong):
            return False
        return test in passed or any(below(other, test) for other in passed)


def below(test: str, asked: str) -> bool:
    """Tells whether the test `test` is meant by the id `asked`: it is the same, or below it."""
    return test == asked or (test.startswith(asked) and test[len(asked)] in "[:/")


def _need_ids(tests: Sequence[str], name: str) -> None:
    if isinstance(tests, str):
        raise ValueError(f"{name} is one text: give a list of test ids")
    if not tests:
        raise ValueError(f"{name} is empty: nothing would be proved; name at least one test")


def checked_ids(tests: Sequence[str]) -> List[str]:
    """Checks ids of tests that are to be run. Raises `ValueError`."""
    _need_ids(tests, "test_ids")
    for test in tests:
        file = test.partition("::")[0]
        parts = file.split("/")
        if not file or file.startswith(("/", "-")) or ".." in parts or "\0" in test:
            raise ValueError(
                f"{test!r} is no id of a test: write `tests/test_a.py::test_b`, from the workspace"
            )
    return list(dict.fromkeys(_normal(test) for test in tests))


def _normal(test: str) -> str:
    file, separator, rest = test.partition("::")
    parts = [part for part in file.split("/") if part not in ("", ".")]
    return "/".join(parts) + separator + rest
