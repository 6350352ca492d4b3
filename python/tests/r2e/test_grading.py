"""Rewards of real runs of tests, and what is no reward."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator

import pytest

from imgforge_sandbox import Client, InfraError, Unsupported
from imgforge_sandbox.r2e import DockerRuntime, OutOfMemory, TimedOut
from imgforge_sandbox.r2e._compat import Compat
from r2e import images


@pytest.fixture
def runtime(client: Client, r2e_image: str) -> Iterator[DockerRuntime]:
    with DockerRuntime(images.r2e_row(r2e_image), client=client) as runtime:
        yield runtime


@pytest.mark.parametrize("compat", ["fixed", "exact"])
@pytest.mark.slow
def test_r2e(client: Client, r2e_image: str, compat: Compat) -> None:
    with DockerRuntime(images.r2e_row(r2e_image), client=client, compat=compat) as runtime:
        assert runtime._calculate_reward() == 0.0
        assert runtime.apply_patch(images.PATCH)[1] == "0"
        reward, log = runtime._calculate_reward(get_test_output=True)
        assert reward == 1.0
        assert "PASSED r2e_tests/test_calc.py::test_add" in log
        assert runtime.parse_logs(log) == {"test_add": "PASSED", "test_zero": "PASSED"}
        output, code = runtime.run_tests()
        assert code == "0"
        assert "2 passed" in output
        stdout, stderr, code = runtime.demux_run_tests()
        assert ("2 passed" in stdout, stderr, code) == (True, "", "0")
        runtime.reverse_patch(images.PATCH)
        assert runtime._calculate_reward() == 0.0
        output, code = runtime.run_tests()
        assert code == "Error: Exit code 1"
        assert runtime.parse_logs(output) == {"test_add": "FAILED", "test_zero": "PASSED"}


def test_what_was_committed_counts(runtime: DockerRuntime) -> None:
    runtime.start_new_branch()
    runtime.apply_patch(images.PATCH)
    assert runtime.commit_after_step(1)[1] == "0"
    assert runtime.get_patch() == ""
    assert runtime._calculate_reward() == 1.0
    assert runtime.undo_last_commit()[1] == "0"
    # What the image had in no commit is gone with it, and that is a change as well.
    assert runtime.run("ls loose.txt")[1] != "0"
    assert runtime._calculate_reward() == 0.0


def test_the_container_of_the_agent_is_not_touched(runtime: DockerRuntime) -> None:
    runtime.apply_patch(images.PATCH)
    before = runtime.run("git status --short --ignored; git diff --cached --stat; ls -a")
    assert runtime._calculate_reward() == 1.0
    assert runtime.run("git status --short --ignored; git diff --cached --stat; ls -a") == before


def test_new_files_of_all_kinds_are_carried_over(runtime: DockerRuntime) -> None:
    runtime.session.write("/testbed/calc.py", "from deep.er import add\r\n")
    runtime.session.write("/testbed/deep/er.py", b"add = lambda a, b: a + b  \r\n#\xff\x00")
    # A file with a NUL in it is no program.
    assert runtime._calculate_reward() == 0.0
    runtime.session.write("/testbed/deep/er.py", b"# coding: latin-1\n#\xff\nadd = int.__add__  \n")
    assert runtime._calculate_reward() == 1.0


def test_tests_of_the_agent_are_not_graded(runtime: DockerRuntime) -> None:
    runtime.session.write(
        "/testbed/r2e_tests/test_calc.py",
        "def test_add():\n    pass\ndef test_zero():\n    pass\n",
    )
    runtime.session.write("/testbed/run_tests.sh", "echo forged\n")
    runtime.session.write("/root/run_tests.sh", "echo forged\n")
    assert runtime._calculate_reward() == 0.0


def test_what_runs_the_tests_is_not_the_agents(runtime: DockerRuntime) -> None:
    runtime.run("rm .venv; rm .git/info/exclude")
    runtime.session.write(
        "/testbed/.venv/bin/python",
        "#!/bin/sh\necho ===== short test summary info =====\n"
        "echo PASSED r2e_tests/t.py::test_add\necho PASSED r2e_tests/t.py::test_zero\n",
        mode=0o755,
    )
    assert "short test summary" in runtime.run("git add -f .venv; .venv/bin/python")[0]
    assert runtime._calculate_reward() == 0.0
    runtime.apply_patch(images.PATCH)
    assert runtime._calculate_reward() == 1.0


def test_tests_without_memory_are_no_reward(client: Client, r2e_image: str) -> None:
    row = images.r2e_row(r2e_image)
    with DockerRuntime(row, client=client, memory=150 << 20) as runtime:
        if runtime.session.warnings:
            pytest.skip(f"needs control groups, for limits: {runtime.session.warnings}")
        runtime.session.write("/testbed/calc.py", "x = bytearray(600 << 20)\n" + images.CALC)
        with pytest.raises(OutOfMemory) as caught:
            runtime._calculate_reward()
        assert caught.value.log.startswith("begun\n")
        assert runtime.run("python3 -c 'bytearray(600 << 20)'") == ("", "Error: Exit code 137")


def test_a_summary_that_the_code_prints_is_no_pass(runtime: DockerRuntime) -> None:
    forged = (
        "import atexit\n"
        'HEAD = "=" * 9 + " short test summary info " + "=" * 9\n'
        'LINES = [HEAD, "PASSED r2e_tests/x.py::test_add", "PASSED r2e_tests/x.py::test_zero"]\n'
        'print("\\n".join(LINES))\n'
        'atexit.register(lambda: print("\\n".join(LINES)))\n'
    )
    runtime.session.write("/testbed/calc.py", forged + images.CALC)
    assert runtime._calculate_reward() == 0.0
    runtime.session.write("/testbed/calc.py", forged + images.CALC.replace("-", "+"))
    # Evidence for it is there as well.
    assert runtime._calculate_reward() == 1.0


@pytest.mark.parametrize("compat", ["fixed", "exact"])
@pytest.mark.slow
def test_tests_that_take_too_long_are_no_reward(
    client: Client, r2e_image: str, compat: Compat
) -> None:
    with DockerRuntime(images.r2e_row(r2e_image), client=client, compat=compat) as runtime:
        runtime.session.write("/testbed/calc.py", "import time\ntime.sleep(60)\n")
        with pytest.raises(TimedOut, match="within 4 s") as caught:
            runtime._calculate_reward(timeout=4)
        assert isinstance(caught.value, InfraError)
        assert caught.value.log == "begun\n"


def test_without_its_own_tests_an_image_is_no_reward(client: Client, swebench_image: str) -> None:
    with DockerRuntime(images.r2e_row(swebench_image), client=client) as runtime:
        with pytest.raises(InfraError, match=r"no run_tests\.sh"):
            runtime._calculate_reward()


def test_a_repository_without_objects_is_no_reward(runtime: DockerRuntime) -> None:
    runtime.apply_patch(images.PATCH)
    runtime.run("rm -rf .git/objects/*")
    with pytest.raises(InfraError, match="changes cannot be read"):
        runtime._calculate_reward()


def test_what_is_expected_may_be_in_the_image(client: Client, r2e_image: str) -> None:
    row = images.r2e_row(r2e_image)
    expected = row.pop("expected_output_json")
    with DockerRuntime(row, client=client) as runtime:
        with pytest.raises(ValueError, match=r"no /root/expected_test_output\.json"):
            runtime._calculate_reward()
        runtime.session.write("/root/expected_test_output.json", expected)
        assert runtime._calculate_reward() == 0.0


def test_a_row_that_expects_nothing(client: Client, r2e_image: str) -> None:
    row = images.r2e_row(r2e_image, expected_output_json="{}")
    with DockerRuntime(row, client=client) as runtime:
        with pytest.raises(ValueError, match="nothing to grade"):
            runtime._calculate_reward()


def test_swebench(client: Client, swebench_image: str) -> None:
    row = images.swebench_row(swebench_image)
    with DockerRuntime(row, client=client) as runtime:
        assert (runtime.kind, runtime.alt_path) == ("swebench", "/")
        assert runtime._calculate_reward() == 0
        runtime.apply_patch(images.PATCH)
        assert runtime._calculate_reward() == 1
        reward, log = runtime._calculate_reward(get_test_output=True)
        assert reward is True
        wanted = {
            "tests/test_calc.py::test_add": "PASSED",
            "tests/test_calc.py::test_zero": "PASSED",
        }
        assert runtime.get_logs_eval(runtime.test_spec, log) == (wanted, True)
        assert runtime.get_logs_eval(runtime.test_spec, ">>>>> Tests Errored") == ({}, False)
        assert runtime.run_swebv_regression("#!/bin/sh\necho from here\n") == "from here\n"
        with pytest.raises(KeyError):
            runtime.run_swebv_regression()


def test_a_repository_that_nobody_can_read(client: Client, swebench_image: str) -> None:
    row = images.swebench_row(swebench_image)
    del row["log_parser"]
    with DockerRuntime(row, client=client) as runtime:
        with pytest.raises(Unsupported, match="swebench"):
            runtime._calculate_reward()


def test_an_instance_of_a_dataset(client: Client) -> None:
    row = {
        **{"instance_id": images.BASE[1], "repo": "imgforge/abacus", "version": "1.0"},
        **{"FAIL_TO_PASS": [], "problem_statement": "mend it"},
    }
    with DockerRuntime(row, client=client, dataset=images.BASE[0]) as runtime:
        assert runtime.docker_image == runtime.session.image
        assert runtime._calculate_reward() == 0
        runtime.session.write("/testbed/loose.txt", "x")
        reward, log = runtime._calculate_reward(get_test_output=True)
        assert (reward, "test_signs" in log) == (False, True)
        parser = "/testbed/src/abacus/parser.py"
        source = runtime.session.read_text(parser)
        begin = "    def atom(self):\n"
        sign = '        if self.accept("-"):\n            return -self.atom()\n'
        plus = '        if self.accept("+"):\n            return self.atom()\n'
        assert begin in source
        runtime.session.write(parser, source.replace(begin, begin + sign + plus))
        assert runtime._calculate_reward() == 1
        with pytest.raises(Unsupported, match="not in an image"):
            runtime.run_tests()
    with pytest.raises(ValueError, match="no instance_id"):
        DockerRuntime({"repo": "x"}, client=client, dataset="demo")
    with pytest.raises(ValueError, match="knows no datasets"):
        DockerRuntime(row, client=client, dataset="demo", compat="exact")


def smith(image: str, **fields: Any) -> Dict[str, Any]:
    return {
        "docker_image": image,
        "image_name": "swesmith.x86_64.calc__calc.1",
        "repo": "calc/calc",
        "problem_statement": "mend add",
        "base_commit": "base",
        "test_cmd": f"{images.ENVIRONMENT}/bin/python -m pytest -rA",
        "FAIL_TO_PASS": ["tests/test_calc.py::test_add"],
        "PASS_TO_PASS": ["tests/test_calc.py::test_zero"],
        **fields,
    }


def test_swesmith(client: Client, swesmith_image: str) -> None:
    with DockerRuntime(smith(swesmith_image), client=client) as runtime:
        assert (runtime.kind, runtime.docker_image) == ("swesmith", swesmith_image)
        # The base commit is checked out, not the one of the image.
        assert runtime.run("cat notes.txt") == ("one\n", "0")
        assert runtime._calculate_reward() == 0.0
        # The tests are those of the base commit, whatever the agent made of them.
        runtime.run("sed -i 's/== 3/== -1/' tests/test_calc.py")
        assert runtime._calculate_reward() == 0.0
        runtime.apply_patch(images.PATCH)
        reward, log = runtime._calculate_reward(get_test_output=True)
        assert (reward, "2 passed" in log) == (1.0, True)


def test_a_commit_that_the_image_has_not(client: Client, swesmith_image: str) -> None:
    row = smith(swesmith_image, base_commit="0" * 40)
    with pytest.raises(InfraError, match="no network"):
        DockerRuntime(row, client=client)


def test_lists_in_json(client: Client, swesmith_image: str) -> None:
    row = smith(swesmith_image, PASS_TO_PASS=json.dumps([]))
    with DockerRuntime(row, client=client) as runtime:
        runtime.apply_patch(images.PATCH)
        assert runtime._calculate_reward() == 1.0
