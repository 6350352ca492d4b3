"""Tests that run in the sandbox, on the real program."""

from __future__ import annotations

import importlib.util
import json
import textwrap
import time
from pathlib import Path
from typing import Iterator, Sequence

import pytest
from executor_boxes import ROOT, executor, image_of, repository
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from procs import marked_sleep, running

from imgforge_sandbox import Client
from imgforge_sandbox.executor import SandboxEnded, SandboxExecutor, TestResult, _pytest

FILE = """
import unittest
import pytest

@pytest.fixture
def torn():
    yield
    raise ValueError

@pytest.fixture
def broken():
    raise ValueError

def test_passes(): pass
def test_fails(): assert 0
def test_torn(torn): pass
def test_broken(broken): pass
@pytest.mark.skip
def test_skipped(): pass
def test_skips(): pytest.skip("now")
@pytest.mark.xfail
def test_xfails(): assert 0
@pytest.mark.xfail
def test_xpasses(): pass
@pytest.mark.xfail(strict=True)
def test_xpasses_strictly(): pass
def test_calls_xfail(): pytest.xfail("now")
def test_exits(): raise SystemExit(0)

class TestUnit(unittest.TestCase):
    def test_passes(self): pass
    def test_fails(self): self.fail()
    @unittest.skip("now")
    def test_skipped(self): pass
    @unittest.expectedFailure
    def test_xfails(self): self.fail()
"""
FILES = {"tests/test_a.py": FILE, "tests/test_b.py": "import nothing_of_that_name\n"}
OUTCOMES = {
    "passed": ["test_passes", "TestUnit::test_passes"],
    "failed": ["test_fails", "test_xpasses_strictly", "test_exits", "TestUnit::test_fails"],
    "errors": ["test_torn", "test_broken"],
    "skipped": ["test_skipped", "test_skips", "TestUnit::test_skipped"],
    "xfailed": ["test_xfails", "test_calls_xfail", "TestUnit::test_xfails"],
    "xpassed": ["test_xpasses"],
}


@pytest.fixture(scope="module")
def image(client: Client) -> str:
    return image_of(client)


@pytest.fixture
def box(client: Client, image: str) -> Iterator[SandboxExecutor]:
    with executor(client, image) as box:
        yield box


def clone(box: SandboxExecutor, path: Path, files: dict[str, str]) -> None:
    files = {name: textwrap.dedent(text) for name, text in files.items()}
    done = box.clone_repo(str(path), repository(path, files))
    assert done.success, done


def put(box: SandboxExecutor, name: str, text: str) -> None:
    assert box._box is not None
    box._box.session.write(f"/workspace/repo/{name}", text, user="1000:1000")


def assert_outcomes(result: TestResult) -> None:
    for name, tests in OUTCOMES.items():
        expected = {f"tests/test_a.py::{test}" for test in tests}
        found = set(getattr(result, name)) - {"tests/test_b.py"}
        assert found == expected, name


def test_outcomes(box: SandboxExecutor, tmp_path: Path) -> None:
    clone(box, tmp_path / "r", FILES)
    missing = ["tests/test_b.py::test_x", "tests/test_c.py::test_x", "tests/test_a.py::no"]
    result = box.run_tests(["tests/test_a.py", *missing])
    assert result.source == "channel"
    assert_outcomes(result)
    assert "tests/test_b.py" in result.errors
    # Neither a file nor a test that is missing keeps the others from running.
    assert result.missing == missing
    assert (result.complete, result.returncode, result.problems) == (True, 1, [])
    assert "test_fails" in result.raw_output
    assert 0 < result.elapsed_seconds < 60
    # A second run begins anew.
    result = box.run_tests("repo", ["tests/test_a.py::test_passes"])
    assert (result.passed, result.failed, result.returncode) == (
        ["tests/test_a.py::test_passes"],
        [],
        0,
    )
    assert result.all_passed
    assert box.run_tests(["tests/test_a.py::TestUnit"], extra_args=["-k", "passes"]).all_passed


def test_nothing_to_run(box: SandboxExecutor, tmp_path: Path) -> None:
    clone(box, tmp_path / "r", FILES)
    empties: tuple[Sequence[str], ...] = ([], ())
    for tests in empties:
        with pytest.raises(ValueError, match="test_ids is empty"):
            box.run_tests(tests)
        with pytest.raises(ValueError, match="test_ids is empty"):
            box.run_tests("repo", tests)
    with pytest.raises(ValueError, match="test_ids is empty"):
        box.run_tests()
    with pytest.raises(ValueError, match="one text"):
        box.run_tests("repo", "tests/test_a.py")
    result = box.run_tests(["tests/test_c.py::test_x"])
    assert (result.passed, result.missing) == ([], ["tests/test_c.py::test_x"])
    assert not result.all_passed
    assert result.check_tests(["tests/test_c.py::test_x"])[0] is False


def test_text_is_the_fallback(
    box: SandboxExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone(box, tmp_path / "r", FILES)
    monkeypatch.setattr(_pytest, "_python", lambda box: None)
    result = box.run_tests(["tests/test_a.py", "tests/test_b.py"])
    assert result.source == "text"
    assert_outcomes(result)
    assert "tests/test_b.py" in result.errors
    result = box.run_tests(["tests/test_a.py::test_passes", "tests/test_a.py::no"])
    assert result.passed == ["tests/test_a.py::test_passes"]
    assert result.missing == ["tests/test_a.py::no"]


TEXTS = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            [
                "a b",
                "c/d",
                "e,f",
                "g.h",
                "i::j",
                "[k]",
                "]",
                "x PASSED [ 50%]",
                "l\nm",
                "\\",
                "'\"",
                "",
            ]
        ),
    ),
    min_size=1,
    max_size=40,
)


@pytest.fixture(scope="module")
def lasting(
    client: Client, image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SandboxExecutor]:
    with executor(client, image) as box:
        clone(box, tmp_path_factory.mktemp("repos") / "r", {"a.txt": ""})
        yield box


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(texts=TEXTS, by_text=st.booleans())
@pytest.mark.slow
def test_parameters_round_trip(lasting: SandboxExecutor, texts: list[str], by_text: bool) -> None:
    values = [(number, text) for number, text in enumerate(texts)]
    put(
        lasting,
        "tests/test_many.py",
        "import pytest\n"
        f"@pytest.mark.parametrize(('number', 'text'), {values!a})\n"
        "def test_many(number, text):\n"
        f"    assert text == {texts!a}[number]\n"
        "    assert number % 2 == 0\n",
    )
    with pytest.MonkeyPatch.context() as patch:
        if by_text:
            patch.setattr(_pytest, "_python", lambda box: None)
        result = lasting.run_tests(["tests/test_many.py"])
        assert (len(result.passed), len(result.failed)) == ((len(texts) + 1) // 2, len(texts) // 2)
        numbers = {
            int(test.partition("[")[2].partition("-")[0]): test
            for test in [*result.passed, *result.failed]
        }
        assert sorted(numbers) == list(range(len(texts)))
        assert all((number % 2 == 0) == (test in result.passed) for number, test in numbers.items())
        # What was told is taken again, as a whole and by name.
        again = lasting.run_tests(list(numbers.values())[:7])
        assert again.missing == []
        asked = set(list(numbers.values())[:7])
        assert {*again.passed} == {*result.passed} & asked
        assert {*again.failed} == {*result.failed} & asked


SHARED = json.loads(
    (Path(__file__).parents[3] / "tests" / "sandbox" / "forgeries.json").read_text()
)
"""The table that the tests of `imgforge sandbox` read too."""
TEST: str = SHARED["test"]
FORGERIES = {case["name"]: case for case in SHARED["cases"]}
REPORT = """
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    outcome.get_result().outcome = "passed"
"""


SWALLOW = """
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    outcome = yield
    outcome.force_result(None)
    if hasattr(item, "_excinfo"):
        item._excinfo = None
"""


def test_a_forgery_makes_no_pass_of_other_tests(box: SandboxExecutor, tmp_path: Path) -> None:
    """Those of unittest and doctest do not run as functions."""
    tests = """
    import unittest
    class TestUnit(unittest.TestCase):
        def test_wrong(self):
            self.fail()
        def test_right(self): pass
    def wrong():
        '''
        >>> 1
        2
        '''
    """
    clone(box, tmp_path / "r", {"test_w.py": tests, "conftest.py": SWALLOW})
    result = box.run_tests(["test_w.py"], extra_args=["--doctest-modules"])
    wrong = ["test_w.py::TestUnit::test_wrong", "test_w.py::test_w.wrong"]
    for test in wrong:
        assert f"{test} PASSED" in result.raw_output
    assert sorted(result.failed) == wrong
    assert result.passed == ["test_w.py::TestUnit::test_right"]


def test_an_unexpected_pass_stays_one(box: SandboxExecutor, tmp_path: Path) -> None:
    test = """
    import pytest
    @pytest.mark.xfail(strict=True)
    def test_strict(): pass
    @pytest.mark.xfail
    def test_lenient(): pass
    @pytest.mark.xfail(False, reason="not here")
    def test_ordinary(): pass
    """
    report = REPORT + "    vars(outcome.get_result()).pop('wasxfail', None)\n"
    clone(box, tmp_path / "r", {"test_w.py": test, "conftest.py": report})
    result = box.run_tests(["test_w.py"])
    assert result.returncode == 0
    assert sorted(result.xpassed) == ["test_w.py::test_lenient", "test_w.py::test_strict"]
    assert result.passed == ["test_w.py::test_ordinary"]
    result = box.run_tests(["test_w.py"], extra_args=["--runxfail"])
    assert len(result.passed) == 3


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_makes_no_pass(box: SandboxExecutor, tmp_path: Path, name: str) -> None:
    case = FORGERIES[name]
    clone(box, tmp_path / "r", {"test_w.py": TEST, **case["files"]})
    result = box.run_tests(["test_w.py"])
    assert "test_w.py::test_wrong" not in result.passed, result
    assert not result.all_passed
    assert result.check_tests(["test_w.py::test_wrong"])[0] is False
    if case["fooled"]:
        assert "test_w.py::test_wrong PASSED" in result.raw_output
        assert "test_w.py::test_wrong" in result.failed
    # Nor by another list.
    assert "test_w.py::test_wrong" not in [*result.skipped, *result.xfailed, *result.xpassed]
    if case["told"]:
        assert "test_w.py::test_wrong" in result.failed, result
        assert "test_w.py::test_right" in result.passed, result
    if case["problems"]:
        # A verdict of 0 is no proof of a forgery; that something does not fit is told.
        assert result.problems, result


def test_a_forgery_is_one_without_the_channel(
    box: SandboxExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forged report is a pass for whoever reads what pytest prints."""
    clone(box, tmp_path / "r", {"test_w.py": TEST, **FORGERIES["report"]["files"]})
    monkeypatch.setattr(_pytest, "_python", lambda box: None)
    result = box.run_tests(["test_w.py"])
    assert "test_w.py::test_wrong" in result.passed
    assert result.returncode == 0


def test_what_it_does_not_protect_from(box: SandboxExecutor, tmp_path: Path) -> None:
    """Code in the process of the tests can replace the tests: docs/python.md says so."""
    replace = """
    import pytest
    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(pyfuncitem):
        return True
    """
    clone(box, tmp_path / "r", {"test_w.py": TEST, "conftest.py": replace})
    result = box.run_tests(["test_w.py"])
    assert "test_w.py::test_wrong" in result.passed


def test_tests_cannot_reach_the_results(box: SandboxExecutor, tmp_path: Path) -> None:
    test = """
    import os, stat
    import pytest
    OWN = "/.imgforge"
    def test_files():
        assert os.getuid() == 1000
        for directory in OWN, OWN + "/inside", OWN + "/results":
            assert not os.access(directory, os.W_OK), directory
        assert not os.access(OWN + "/results", os.R_OK | os.X_OK)
        for name in os.listdir(OWN + "/inside"):
            assert not os.access(os.path.join(OWN, "inside", name), os.W_OK), name
    def test_channel():
        # It is written to, and nothing else.
        assert stat.S_ISFIFO(os.fstat(4).st_mode)
        for flags in os.O_RDONLY, os.O_RDWR:
            with pytest.raises(OSError):
                os.open("/proc/self/fd/4", flags)
        with pytest.raises(OSError):
            os.read(4, 1)
        with pytest.raises(OSError):
            os.ftruncate(4, 0)
    def test_collector():
        parent = os.getppid()
        assert b"collector.py" in open(f"/proc/{parent}/cmdline", "rb").read()
        for path in "mem", "environ", "fd/0":
            with pytest.raises(OSError):
                open(f"/proc/{parent}/{path}", "rb").read(1)
        for signal in 9, 15, 19:
            with pytest.raises(PermissionError):
                os.kill(parent, signal)
        # The key is in no argument and no variable.
        for name in "environ", "cmdline":
            assert b"key" not in open(f"/proc/self/{name}", "rb").read().lower()
    """
    clone(box, tmp_path / "r", {"test_x.py": test})
    result = box.run_tests(["test_x.py"])
    assert result.all_passed, result.raw_output
    assert len(result.passed) == 3


def test_forks_record_nothing(box: SandboxExecutor, tmp_path: Path) -> None:
    test = """
    import os, sys
    def test_forks():
        if os.fork() == 0:
            assert 0
        os.wait()
    def test_after(): pass
    """
    clone(box, tmp_path / "r", {"test_x.py": test})
    # What the other process prints would count as well, if it named the test.
    result = box.run_tests(["test_x.py"], extra_args=["-q", "-q"])
    assert sorted(result.passed) == ["test_x.py::test_after", "test_x.py::test_forks"]
    assert result.problems == []


def test_what_python_m_pytest_has(box: SandboxExecutor, tmp_path: Path) -> None:
    """The directory is in `sys.path`, and the packages that the user installed."""
    test = """
    import os, subprocess, sys
    import root_module, of_the_user
    def test_paths():
        assert os.getcwd() == "/workspace/repo"
        assert os.getcwd() in sys.path
    def test_children():
        subprocess.check_call([sys.executable, "-c", "import root_module"])
    """
    clone(box, tmp_path / "r", {"tests/test_x.py": test, "root_module.py": ""})
    install = """
import os, site
os.makedirs(site.getusersitepackages())
open(os.path.join(site.getusersitepackages(), "of_the_user.py"), "w").close()
"""
    assert box.run(["python", "-c", install]).success
    result = box.run_tests(["tests/test_x.py"])
    assert result.all_passed, result.raw_output


def test_workers(client: Client, image: str, tmp_path: Path) -> None:
    """With xdist the outcomes come from the workers, also where they are forged."""
    sources = []
    for name in ("xdist", "execnet"):
        spec = importlib.util.find_spec(name)
        assert spec is not None, "needs pytest-xdist, which requirements/check.txt has"
        assert spec.origin is not None
        sources.append(Path(spec.origin).parent)
    with executor(client, image, env={"PYTHONPATH": "/workspace/packages"}) as box:
        clone(box, tmp_path / "r", {**FILES, "test_w.py": TEST})
        assert box._box is not None
        for source in sources:
            box._box.session.put(source, f"/workspace/packages/{source.name}", owner=(1000, 1000))
        options = ["-n", "2"]
        if not box.run(["python", "-I", "-c", "import xdist"]).success:
            options += ["-p", "xdist.plugin"]
        result = box.run_tests(["tests/test_a.py", "tests/test_b.py"], extra_args=options)
        assert "[gw1]" in result.raw_output
        assert (result.source, result.problems) == ("channel", [])
        assert_outcomes(result)
        put(box, "conftest.py", REPORT)
        result = box.run_tests(["test_w.py"], extra_args=options)
        assert "PASSED test_w.py::test_wrong" in result.raw_output
        assert result.failed == ["test_w.py::test_wrong"]
        assert result.passed == ["test_w.py::test_right"]


def test_at_the_time_limit(box: SandboxExecutor, tmp_path: Path) -> None:
    command, mark = marked_sleep()
    test = f"""
    import os, subprocess, time
    def test_first(): pass
    def test_hangs():
        subprocess.Popen({command.split()!r}, start_new_session=True)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execvp({command.split()[0]!r}, {command.split()!r})
            os._exit(0)
        print("hangs", flush=True)
        time.sleep(1000)
    def test_last(): pass
    """
    clone(box, tmp_path / "r", {"test_x.py": test})
    started = time.monotonic()
    result = box.run_tests(["test_x.py"], extra_args=["-s"], timeout=4)
    assert time.monotonic() - started < 20
    assert result.timed_out
    assert not result.complete
    assert not result.all_passed
    assert result.returncode is None
    # What was recorded until then is kept, and so is what was printed.
    assert result.passed == ["test_x.py::test_first"]
    assert result.missing == []
    assert "hangs" in result.raw_output
    assert result.check_tests(["test_x.py::test_hangs"], ["test_x.py::test_last"]) == (
        False,
        {"test_x.py::test_hangs": False},
        {"test_x.py::test_last": False},
    )
    assert not running(mark)
    with pytest.raises(SandboxEnded):
        box.run_tests(["test_x.py"])


@pytest.mark.parametrize("where", ["in the process", "in a child"])
def test_out_of_memory(client: Client, image: str, tmp_path: Path, where: str) -> None:
    eat = "x = bytearray(900 << 20); print(len(x))"
    code = eat if where == "in the process" else f"subprocess.call([sys.executable, '-c', {eat!r}])"
    test = f"import subprocess, sys\ndef test_first(): pass\ndef test_eats():\n    {code}\n"
    with executor(client, image, memory_limit="300m") as box:
        clone(box, tmp_path / "r", {"test_x.py": test})
        result = box.run_tests(["test_x.py"])
        assert result.out_of_memory, result
        assert not result.all_passed
        assert not result.timed_out
        if ROOT:
            assert "test_x.py::test_first" in result.passed
            assert result.complete == (where == "in a child")


def test_what_is_left_of_a_run_is_killed(box: SandboxExecutor, tmp_path: Path) -> None:
    command, mark = marked_sleep()
    test = f"""
    import subprocess
    def test_leaves():
        subprocess.Popen({command.split()!r}, start_new_session=True, close_fds=False)
    """
    clone(box, tmp_path / "r", {"test_x.py": test})
    # The channel is left open by it, too.
    result = box.run_tests(["test_x.py"])
    assert result.all_passed, result
    assert not running(mark)


def test_records_without_end(box: SandboxExecutor, tmp_path: Path) -> None:
    conftest = "import os\nwhile True: os.write(4, b'x' * 65536 + b'\\n')\n"
    clone(box, tmp_path / "r", {"test_w.py": TEST, "conftest.py": conftest})
    result = box.run_tests(["test_w.py"])
    assert result.passed == []
    assert not result.complete
    assert any("too much" in problem for problem in result.problems)


def test_records_without_end_of_a_process_in_the_background(
    box: SandboxExecutor, tmp_path: Path
) -> None:
    write = "import os\nwhile True: os.write(4, b'x' * 65536 + b'\\n')\n"
    test = f"""
    import subprocess, sys, time
    def test_leaves():
        subprocess.Popen([sys.executable, "-c", {write!r}], pass_fds=[4])
        time.sleep(0.1)
    """
    clone(box, tmp_path / "r", {"test_w.py": test})
    result = box.run_tests(["test_w.py"])
    assert any("too much" in problem for problem in result.problems)
    assert not result.all_passed
    assert box.run("ls").success


def test_many_ids(box: SandboxExecutor, tmp_path: Path) -> None:
    """More than a command line takes."""
    test = "import pytest\n@pytest.mark.parametrize('n', range(3000))\ndef test_n(n): pass\n"
    clone(box, tmp_path / "r", {"test_x.py": test})
    ids: Sequence[str] = [f"test_x.py::test_n[{n}]" for n in range(3000)]
    result = box.run_tests([*ids, *(f"test_x.py::test_{'m' * 1000}[{n}]" for n in range(3000))])
    assert sorted(result.passed) == sorted(ids)
    assert len(result.missing) == 3000
