"""Inspect's sandbox: evaluations, errors and configurations."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, Callable, Coroutine

import anyio
import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.scorer import Score, Scorer, Target, accuracy, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import bash, text_editor
from inspect_ai.util import SandboxEnvironmentSpec, SandboxUnavailableError, sandbox
from inspect_ai.util._concurrency import init_concurrency
from mending import DATASET, INSTANCE_ID, MEND, PROOF
from procs import ends, marked_sleep, running, starts

from imgforge_sandbox import InvalidRequest
from imgforge_sandbox._inspect_config import resolve
from imgforge_sandbox.inspect import ImgforgeConfig, ImgforgeSandbox

CONFIG = ImgforgeConfig(dataset=DATASET, instance_id=INSTANCE_ID)
IMAGE = "python:3.11.10-slim-bookworm"


@scorer(metrics=[accuracy()])
def graded() -> Scorer:
    """Grades the patch in a fresh container. No verdict is an error of the sample, not a score."""

    async def score(state: TaskState, target: Target) -> Score:
        grade = await sandbox().as_type(ImgforgeSandbox).session.grade()
        return Score(value=grade.reward, explanation=grade.verdict)

    return score


def run(solve: Any, config: Any = CONFIG, **options: Any) -> EvalLog:
    spec = SandboxEnvironmentSpec("imgforge", config)
    task = Task(dataset=[Sample(input="mend it")], solver=solve, scorer=graded(), sandbox=spec)
    (log,) = eval(task, model="mockllm/model", display="none", log_format="json", **options)
    return log


def value(log: EvalLog) -> Any:
    assert log.status == "success", log.error
    assert log.results is not None
    return log.results.scores[0].metrics["accuracy"].value


@solver
def commands(*texts: str) -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        for text in texts:
            result = await sandbox().exec(["sh", "-c", text])
            assert result.success, result
        return state

    return solve


def test_an_evaluation(binary: str, tmp_path: Path) -> None:
    assert value(run(commands(MEND, PROOF), log_dir=str(tmp_path))) == 1
    assert value(run(commands("true"), log_dir=str(tmp_path))) == 0


@solver
def tools() -> Solver:
    """Calls what a model would call. The editor is a program that Inspect puts into the sandbox."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        shell, editor = bash(timeout=60), text_editor()
        await shell(MEND)
        await editor(command="create", path="/testbed/note.txt", file_text="\u2713 done\n")
        said = str(await shell("cat /testbed/note.txt"))
        assert said == "\u2713 done\n", said
        return state

    return solve


def test_tools_of_a_model_work_in_it(binary: str, tmp_path: Path) -> None:
    assert value(run(tools(), log_dir=str(tmp_path))) == 1


def test_a_grade_without_a_verdict_is_an_error_of_the_sample(binary: str, tmp_path: Path) -> None:
    config = ImgforgeConfig(image=IMAGE)
    log = run(commands("true"), config, log_dir=str(tmp_path))
    assert log.status == "error"
    assert log.error is not None
    assert "instance" in log.error.message, log.error.message


async def with_sandbox(
    work: Callable[[ImgforgeSandbox], Coroutine[Any, Any, None]], config: Any = CONFIG
) -> None:
    init_concurrency()
    await ImgforgeSandbox.task_init("test", config)
    environments = await ImgforgeSandbox.sample_init("test", config, {})
    try:
        await work(environments["default"].as_type(ImgforgeSandbox))
    finally:
        await ImgforgeSandbox.sample_cleanup("test", config, environments, False)


def test_what_is_raised(binary: str) -> None:
    async def work(box: ImgforgeSandbox) -> None:
        with pytest.raises(TimeoutError) as late:
            await box.exec(["sh", "-c", "echo so far; sleep 60"], timeout=1)
        assert late.value.truncated_output == "so far\n"  # type: ignore[attr-defined]
        result = await box.exec(["sh", "-c", "exit 124"], timeout=60)
        assert (result.success, result.returncode) == (False, 124)
        result = await box.exec(["no-such-program"])
        assert result.returncode == 127
        assert "no-such-program" in result.stderr
        result = await box.exec(["pwd"], cwd="no/such/directory")
        assert not result.success
        assert "no/such/directory" in result.stderr
        result = await box.exec(["sh", "-c", "yes | head -c 20000000; echo end"])
        assert len(result.stdout) == 10 << 20
        assert result.stdout.endswith("y\nend\n")
        result = await box.exec(["printf", r"a\377b"])
        assert result.stdout == "a\ufffdb"
        with pytest.raises(OSError, match="/etc/passwd"):
            await box.write_file("/etc/passwd/x", "x")
        with pytest.raises(OSError, match="Errno 22"):
            await box.read_file("/dev/null")

    anyio.run(with_sandbox, work)


def test_a_file_keeps_its_mode_and_its_link(binary: str) -> None:
    async def work(box: ImgforgeSandbox) -> None:
        assert (
            await box.exec(
                ["sh", "-c", "echo a >/tmp/a; chmod 750 /tmp/a; ln -s a /tmp/l; ln -s x /tmp/gone"]
            )
        ).success
        await box.write_file("/tmp/l", "b\r\n")
        assert await box.read_file("/tmp/l") == "b\r\n"
        assert await box.read_file("/tmp/a", text=False) == b"b\r\n"
        told = await box.exec(["stat", "-c", "%a %F", "/tmp/a", "/tmp/l"])
        assert told.stdout == "750 regular file\n777 symbolic link\n"
        with pytest.raises(FileNotFoundError):
            await box.read_file("/tmp/gone")
        await box.write_file("/tmp/a", b"\xff")
        with pytest.raises(UnicodeDecodeError):
            await box.read_file("/tmp/a")

    anyio.run(with_sandbox, work)


def test_a_sandbox_that_is_gone_is_no_result(binary: str) -> None:
    async def work(box: ImgforgeSandbox) -> None:
        await box.session.stop()
        for call in (
            box.exec(["true"]),
            box.read_file("/etc/passwd"),
            box.write_file("/tmp/x", "x"),
        ):
            with pytest.raises(SandboxUnavailableError):
                await call

    anyio.run(with_sandbox, work)


def test_a_command_that_is_cancelled_is_killed(binary: str) -> None:
    command, mark = marked_sleep()

    async def work(box: ImgforgeSandbox) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(box.exec, ["sh", "-c", f"{command} & {command}"])
            assert await anyio.to_thread.run_sync(starts, mark)
            group.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(ends, mark)
        assert (await box.exec(["echo", "alive"])).stdout == "alive\n"

    anyio.run(with_sandbox, work)


def test_another_loop_than_that_of_asyncio_is_refused() -> None:
    # Nothing but asyncio has a running loop in the sense of asyncio.
    with pytest.raises(RuntimeError, match="INSPECT_ASYNC_BACKEND"):
        ImgforgeSandbox.task_init("test", CONFIG).send(None)


def test_nothing_is_left_over(binary: str, tmp_path: Path) -> None:
    command, mark = marked_sleep()
    run(commands(f"{command} >/dev/null 2>&1 &"), log_dir=str(tmp_path))
    assert running(mark) == []


def compose(directory: Path, service: str, name: str = "compose.yaml") -> str:
    path = directory / name
    path.write_text("services:\n  default:\n" + textwrap.indent(textwrap.dedent(service), " " * 4))
    return str(path)


def test_a_compose_file(binary: str, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "note").write_text("seen\n")
    path = compose(
        tmp_path,
        f"""
        image: {IMAGE}
        command: tail -f /dev/null
        init: true
        network_mode: none
        working_dir: /tmp
        user: "65534:65534"
        environment: ["GREETING=$$5 ${{SAMPLE_METADATA_WHO}} ${{NO_SUCH_VARIABLE:-x}}"]
        mem_limit: 256m
        volumes: ["./shared:/shared:ro"]
        """,
    )
    config = resolve(path, {"who": "me"})
    assert config.memory == 256 << 20

    async def work(box: ImgforgeSandbox) -> None:
        told = await box.exec(["sh", "-c", "pwd; id -u; echo $GREETING; cat /shared/note"])
        assert told.stdout == "/tmp\n65534\n$5 me x\nseen\n", told
        assert not (await box.exec(["touch", "/shared/x"])).success

    anyio.run(with_sandbox, work, config)


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ("image: a\nprivileged: true", "privileged"),
        ("build: .", "build the image first"),
        ("image: a\ncommand: nginx", "nginx"),
        ("image: a\nvolumes: ['data:/data']", "data:/data"),
        ("image: a\nmem_limit: much", "much"),
        ("image: $NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE"),
        ("image: a\nx-imgforge: {netwrok: none}", "netwrok"),
        ("user: a", "none of them"),
    ],
)
def test_what_a_session_does_not_have_is_refused(service: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=said):
        resolve(compose(tmp_path, service), {}).start_options()


def test_files_of_fields(tmp_path: Path) -> None:
    path = tmp_path / "imgforge.yaml"
    path.write_text("dataset: demo\ninstance_id: a-1\nallow: [pypi.org]\n")
    assert resolve(str(path), {}).allow == ["pypi.org"]
    path.write_text("dataset: demo\nimages: a\n")
    with pytest.raises(InvalidRequest, match="images"):
        resolve(str(path), {})
    for nothing in (None, str(tmp_path / "debian:12")):
        with pytest.raises(InvalidRequest):
            resolve(nothing, {})
