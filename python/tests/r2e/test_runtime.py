"""The runtime: commands, files, patches and commits in a real container."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgforge_sandbox import Client, CommandFailed, InfraError, NoSuchImage, NoSuchPath
from imgforge_sandbox.r2e import DockerRuntime
from r2e import images

Start = Callable[[str], DockerRuntime]


@pytest.fixture(scope="module")
def runtime(client: Client, r2e_image: str) -> Iterator[DockerRuntime]:
    with DockerRuntime(images.r2e_row(r2e_image), client=client) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def exact(client: Client, r2e_image: str) -> Iterator[DockerRuntime]:
    with DockerRuntime(images.r2e_row(r2e_image), client=client, compat="exact") as runtime:
        yield runtime


@pytest.fixture(autouse=True)
def as_it_was(request: pytest.FixtureRequest) -> None:
    """The repository is as in the image, before every test of the runtime that is shared."""
    if "runtime" in request.fixturenames:
        runtime = request.getfixturevalue("runtime")
        runtime.run("git reset -q --hard $(git rev-list --max-parents=0 HEAD) && git clean -qfd")


# Commands


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("echo hi", ("hi\n", "0")),
        ("cd /tmp && pwd", ("/tmp\n", "0")),
        ("false && echo no", ("", "Error: Exit code 1")),
        ("echo 'x=5' > /tmp/f; source /tmp/f; echo $x", ("5\n", "0")),
        ("exit 3", ("", "Error: Exit code 3")),
        ("exit 124", ("", "Error: Exit code 124")),
        ("kill -9 $$", ("", "Error: Exit code 137")),
        ("echo a; echo b >&2; echo c", ("a\nb\nc\n", "0")),
        ("printf '\\033[1;31mred\\033[0m\\r\\n'", ("red\n", "0")),
        ("printf '\\033[31mred\\r\\n'; exit 1", ("\x1b[31mred\r\n", "Error: Exit code 1")),
        ("printf '\\377'", ("\ufffd", "0")),
        ("nothing-of-this-name 2>/dev/null", ("", "Error: Exit code 127")),
        ("echo $PATH | cut -d: -f1", ("/root/.venv/bin\n", "0")),
        ("pwd", ("/testbed\n", "0")),
    ],
)
def test_a_command(runtime: DockerRuntime, code: str, told: tuple[str, str]) -> None:
    assert runtime.run(code) == told


def test_where_and_with_what(runtime: DockerRuntime) -> None:
    assert runtime.run("echo", args="a 'b c'", workdir="/usr") == ("a b c\n", "0")
    assert runtime.run("pwd", workdir="/usr") == ("/usr\n", "0")
    # An agent may remove directories: that is no fault of the engine.
    output, code = runtime.run("pwd", workdir="/nowhere")
    assert ("/nowhere" in output, code) == (True, "Error: Exit code 126")
    output, _, code = runtime.demux_run("pwd", workdir="/nowhere")
    assert ("/nowhere" in output, code) == (True, "Error: Exit code 126")


def test_outputs_apart(runtime: DockerRuntime) -> None:
    assert runtime.demux_run("echo a; echo b >&2; exit 2") == ("a\n", "b\n", "Error: Exit code 2")
    assert runtime.demux_run("true") == ("", "", "0")
    assert runtime.demux_run("printf '\\r' | cat") == ("\r", "", "0")


@pytest.mark.parametrize(
    "code",
    [
        "echo begun; sleep 4321",
        "echo begun; trap '' TERM; sleep 4321; sleep 4321",
        "echo begun; setsid sleep 4321 & wait",
        "true && echo begun && sleep 4321",
    ],
)
def test_a_command_that_takes_too_long(runtime: DockerRuntime, code: str) -> None:
    start = time.monotonic()
    output, exit_code = runtime.run(code, timeout=1)
    assert time.monotonic() - start < 4
    assert (output, exit_code) == ("The command took too long to execute (>1s)\nbegun\n", "-1")
    # Nothing of it is left.
    assert (
        runtime.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'slee[p] 4321'")[0] == "0\n"
    )
    stdout, stderr, exit_code = runtime.demux_run("echo begun; echo e >&2; sleep 9", timeout=1)
    assert stdout == "The command took too long to execute (>1s)\nbegun\n"
    assert (stderr, exit_code) == ("e\n", "-1")


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_time_that_is_none(runtime: DockerRuntime, timeout: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        runtime.run("true", timeout=timeout)


@pytest.mark.slow
def test_exact_mode_has_a_limit_for_the_first_program(exact: DockerRuntime) -> None:
    assert exact.run("cd /tmp && pwd")[1] == "Error: Exit code 127"
    assert exact.run("exit 124")[1] == "Error: Exit code 127"
    assert exact.run("sh -c 'exit 124'") == ("The command took too long to execute (>120s)", "-1")
    assert exact.run("sleep 9", timeout=1) == ("The command took too long to execute (>1s)", "-1")
    assert exact.run("true && sleep 2; echo end", timeout=1) == ("end\n", "0")
    assert exact.demux_run("echo a | cat") == ("a | cat\n", "", "0")
    assert exact.demux_run("sleep 9", timeout=1) == ("", "", "Error: Exit code 124")


# Files


def test_files_are_copied(runtime: DockerRuntime, tmp_path: Path) -> None:
    script = tmp_path / "a script"
    script.write_bytes(b"#!/bin/sh\necho hi\n")
    script.chmod(0o751)
    os.utime(script, (1_000_000_000, 1_000_000_000))
    runtime.copy_to_container(script, "/new/directory/x")
    assert runtime.run("/new/directory/x") == ("hi\n", "0")
    assert runtime.run("stat -c '%a %Y %u' /new/directory/x")[0] == "751 1000000000 0\n"
    (tmp_path / "empty").touch()
    runtime.copy_to_container(tmp_path / "empty", "only-a-name")
    assert runtime.run("stat -c %s /only-a-name") == ("0\n", "0")
    (tmp_path / "long").write_bytes(os.urandom(1 << 20) * 50)
    runtime.copy_to_container(tmp_path / "long", "/tmp/long")
    assert runtime.run("stat -c %s /tmp/long") == (f"{50 << 20}\n", "0")


def test_directories_are_copied(runtime: DockerRuntime, tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").write_text("x")
    (tmp_path / "d" / "link").symlink_to("e/f")
    runtime.copy_to_container(tmp_path / "d", "/tmp/copy")
    assert runtime.run("cat /tmp/copy/e/f; readlink /tmp/copy/link") == ("xe/f\n", "0")


def test_exact_mode_makes_no_directories(exact: DockerRuntime, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(NoSuchPath):
        exact.copy_to_container(tmp_path / "x", "/no/such/x")


def test_files_are_written_and_read(runtime: DockerRuntime) -> None:
    assert runtime.create_file("made/é.txt", "é\r\n") == ("", "0")
    assert runtime.run("cat /made/é.txt | wc -c")[0] == "4\n"
    runtime.run("echo x > /root/y")
    assert runtime.read_file("y") == "x\n"
    with pytest.raises(NoSuchPath):
        runtime.read_file("no such file")


# Patches and commits


def test_a_patch_is_applied_and_taken_back(runtime: DockerRuntime) -> None:
    assert runtime.apply_patch(images.PATCH) == ("", "0")
    assert "+    return a + b" in runtime.get_patch()
    assert runtime.apply_patch(images.PATCH)[1] == "Error: Exit code 1"
    assert runtime.reverse_patch(images.PATCH) == ("", "0")
    assert runtime.get_patch() == ""
    assert runtime.run("ls /tmp/*.patch 2>/dev/null")[0] == ""


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ("", "0"),
        ("\n", "0"),
        ("nonsense\n", "Error: Exit code 128"),
        (images.PATCH.replace("calc.py", "none.py"), "Error: Exit code 1"),
        ("--- a/../../x\n+++ b/../../x\n@@ -0,0 +1 @@\n+x\n", "Error: Exit code 128"),
    ],
)
def test_patches_that_are_odd(runtime: DockerRuntime, patch: str, code: str) -> None:
    assert runtime.apply_patch(patch)[1] == code
    assert runtime.run("ls /x")[1] == "Error: Exit code 2"


def test_spaces_at_the_ends_of_lines(runtime: DockerRuntime) -> None:
    patch = images.PATCH.replace("a + b", "a + b   ")
    runtime.apply_patch(patch)
    assert runtime.run("grep -c 'b $' calc.py")[0] == "0\n"
    runtime.run("git checkout -q calc.py")
    runtime.apply_patch(patch, whitespace="nowarn")
    assert runtime.run("grep -c 'b   $' calc.py") == ("1\n", "0")
    with pytest.raises(ValueError, match="whitespace"):
        runtime.apply_patch(patch, whitespace="fix; rm -rf /")


def tree(runtime: DockerRuntime) -> str:
    return runtime.run("git add -A && git write-tree")[0]


CONTENTS = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([b"a", b"b  ", b"\r", b"\xff", b"", b"-- x", b"+++ y"])).map(
        b"\n".join
    ),
)
NAMES = st.sampled_from(
    ["calc.py", "line ends.txt", "notes.txt", "new", "sub/new.bin", "é", "q'uote"]
)


# The container is shared by all examples, which take a second each.
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=15, deadline=None, suppress_health_check=SHARED)
@given(st.dictionaries(NAMES, st.tuples(CONTENTS, st.sampled_from([0o644, 0o755]))), st.booleans())
def test_a_patch_makes_an_equal_tree(
    runtime: DockerRuntime, files: dict[str, tuple[bytes, int]], remove: bool
) -> None:
    runtime.run("git reset -q --hard && git clean -qfd")
    if remove:
        runtime.run("git mv notes.txt moved.txt")
    for name, (content, mode) in files.items():
        runtime.session.write(f"/testbed/{name}", content, mode=mode)
    wanted = tree(runtime)
    patch = runtime.get_patch()
    runtime.run("git reset -q --hard && git clean -qfd")
    assert runtime.apply_patch(patch, whitespace="nowarn")[1] == "0"
    assert tree(runtime) == wanted


def test_carriage_returns_are_kept(runtime: DockerRuntime) -> None:
    runtime.run("printf 'a\\r\\nc\\r\\n' > 'line ends.txt'")
    assert "-b\r\n+c\r\n" in runtime.get_patch()


def test_a_patch_that_cannot_be_read(client: Client, r2e_image: str) -> None:
    with DockerRuntime(images.r2e_row(r2e_image), client=client) as runtime:
        runtime.run("rm -rf .git")
        with pytest.raises(CommandFailed, match="not a git repository"):
            runtime.get_patch()


def test_commits(runtime: DockerRuntime) -> None:
    runtime.current_commit = None
    with pytest.raises(ValueError, match="start_new_branch"):
        runtime.soft_git_reset()
    first = runtime.get_current_commit_hash()
    assert len(first) == 40
    assert runtime.start_new_branch() == (f"{first}\n", "0")
    assert runtime.commit_after_step(0)[1] == "Error: Exit code 1"
    runtime.run("echo x > x")
    output, code = runtime.commit_after_step(1)
    assert (code, " 1\n" in output) == ("0", True)
    runtime.run("echo y > x")
    assert runtime.commit_after_step(2)[1] == "0"
    assert runtime.undo_last_commit()[1] == "0"
    assert runtime.run("cat x") == ("x\n", "0")
    assert runtime.soft_git_reset() == ("", "0")
    assert runtime.get_current_commit_hash() == first
    assert "+++ b/x" in runtime.get_patch()
    assert runtime.checkout(first)[1] == "0"
    assert runtime.checkout("no such")[1] == "Error: Exit code 1"
    assert runtime.checkout("main")[1] == "0"
    with pytest.raises(ValueError, match="no commit"):
        runtime.checkout("--orphan=x")
    runtime.run("git reset -q --hard")
    assert runtime.undo_last_commit()[1] == "Error: Exit code 128"


# The container


def test_what_the_row_says(runtime: DockerRuntime, r2e_image: str) -> None:
    assert (runtime.repo_name, runtime.docker_image) == ("orange3", r2e_image)
    assert (runtime.kind, runtime.swebench_verified, runtime.swesmith) == ("r2e", False, False)
    assert runtime.commit["commit_message"] == "mend add"
    assert runtime.get_task_instruction() == "\nmend add\n"


@pytest.mark.parametrize(
    ("image", "begin"),
    [
        ("a/b:c", "a-b-c-"),
        ("Reg:5000/A@sha256:00", "Reg-5000-A-sha256-00-"),
        ("_x", "x-"),
        ("///", "image-"),
        ("é" * 9, "image-"),
        ("x" * 200, "x" * 52 + "-"),
    ],
)
def test_names(image: str, begin: str) -> None:
    names = {DockerRuntime._get_container_name(image) for _ in range(200)}
    assert len(names) == 200
    for name in names:
        assert name.startswith(begin)
        assert len(name) <= 63
        assert len(name) == len(begin) + 10


def test_the_tests_are_not_in_an_agents_container(runtime: DockerRuntime) -> None:
    found = runtime.run("find / -xdev -name 'r2e_tests' -o -xdev -name run_tests.sh")
    assert found == ("", "0")
    steps = {step.name: step.status for step in runtime.setup_steps}
    assert steps["hide the tests"] == "ok"
    assert steps["link the environment"] == "ok"
    assert runtime.run("readlink /root/.venv /root/.local/bin/python") == (
        "/testbed/.venv\n/testbed/.venv/bin/python\n",
        "0",
    )
    [chardet] = [step for step in runtime.setup_steps if step.name == "install chardet"]
    assert (chardet.status, chardet.detail) == (
        "skipped",
        "it is not there, and there is no network",
    )


def test_in_exact_mode_they_are(exact: DockerRuntime) -> None:
    assert exact.run("readlink /testbed/r2e_tests") == ("/root/r2e_tests\n", "0")
    assert exact.run("ls /root/run_tests.sh")[1] == "0"


def test_a_container_is_started_again(client: Client, r2e_image: str) -> None:
    runtime = DockerRuntime(images.r2e_row(r2e_image), client=client)
    runtime.run("touch /x")
    first = runtime.session.id
    runtime.reset()
    assert runtime.session.id != first
    assert runtime.run("ls /x /root/run_tests.sh")[1] == "Error: Exit code 2"
    runtime.close()
    runtime.close()
    with pytest.raises(InfraError, match="was stopped"):
        runtime.run("true")
    assert first not in [session.id for session in client.sessions()]


@pytest.mark.slow
def test_a_container_that_dies(client: Client, r2e_image: str) -> None:
    for compat in ("fixed", "exact"):
        row = images.r2e_row(r2e_image)
        with DockerRuntime(row, client=client, compat=compat) as runtime:
            client.session(runtime.session.id).stop()
            if compat == "fixed":
                with pytest.raises(Exception, match=r"session"):
                    runtime.run("true")
            else:
                assert runtime.run("true")[1] == "-1"
            # It is never a reward of 0.
            with pytest.raises(Exception, match=r"session"):
                runtime._calculate_reward()


def test_what_cannot_be_started(client: Client, r2e_image: str) -> None:
    row = images.r2e_row(r2e_image)
    with pytest.raises(NoSuchImage):
        DockerRuntime(images.r2e_row("no/such:image"), client=client)
    with pytest.raises(ValueError, match="docker, embedded, kubernetes"):
        DockerRuntime(row, backend="podman")
    with pytest.raises(ValueError, match="ds is empty"):
        DockerRuntime({}, client=client)
    with pytest.raises(InfraError, match="does not start in /nowhere"):
        DockerRuntime(row, repo_path="/nowhere", client=client)
    assert client.sessions() == [] or all(
        "no-such" not in session.labels.get("name", "") for session in client.sessions()
    )
