"""What holds for commands in the sandbox, on the real program."""

from __future__ import annotations

import json
import textwrap
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from executor_boxes import ROOT, executor, image_of, repository
from procs import ends, marked_sleep, running, starts

from imgforge_sandbox import Client
from imgforge_sandbox.executor import ExecResult, SandboxEnded, SandboxExecutor


@pytest.fixture(scope="module")
def image(client: Client) -> str:
    return image_of(client)


@pytest.fixture(scope="module")
def commit_and_path(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    path = tmp_path_factory.mktemp("repos") / "small"
    return repository(path, {"README": "small\n", "evil/git": "#!/bin/sh\necho evil\n"}), str(path)


@pytest.fixture
def box(client: Client, image: str, commit_and_path: tuple[str, str]) -> Iterator[SandboxExecutor]:
    """An executor with a clone."""
    commit, path = commit_and_path
    with executor(client, image) as box:
        assert box.clone_repo(path, commit).success
        yield box


def python(box: SandboxExecutor, text: str, **options: Any) -> ExecResult:
    return box.run(["python", "-c", textwrap.dedent(text)], **options)


def test_no_network(box: SandboxExecutor) -> None:
    started = time.monotonic()
    done = python(
        box,
        """
        import errno, socket
        for address in ("1.1.1.1", 80), ("10.0.0.1", 80):
            try:
                socket.create_connection(address, timeout=20)
                raise SystemExit("connected")
            except OSError as error:
                print(errno.errorcode[error.errno])
        try:
            socket.getaddrinfo("pypi.org", 443)
            raise SystemExit("found")
        except socket.gaierror:
            print("no name")
        print(open("/proc/net/dev").read().count(":"))
        """,
    )
    assert done.stdout == "ENETUNREACH\nENETUNREACH\nno name\n1\n", done
    assert time.monotonic() - started < 10


def test_loopback_and_the_own_name(box: SandboxExecutor) -> None:
    done = python(
        box,
        """
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname(), timeout=5)
        server.accept()[0].sendall(b"hello")
        print(client.recv(5), socket.gethostbyname(socket.gethostname()))
        """,
    )
    assert done.stdout == "b'hello' 127.0.0.1\n", done


CHILD = "import subprocess, sys; print('begun', flush=True); sys.exit(not subprocess.call({}))"
EAT = ["python", "-c", "x = bytearray(900 << 20); print(len(x))"]


def test_out_of_memory(client: Client, image: str, commit_and_path: tuple[str, str]) -> None:
    for words in (EAT, ["python", "-c", CHILD.format(EAT)]):
        with executor(client, image, memory_limit="300m") as box:
            box.clone_repo(commit_and_path[1], commit_and_path[0])
            done = box.run(words)
            assert done.out_of_memory, done
            assert not done.success
            assert not done.timed_out
            if words is not EAT:
                assert done.stdout == "begun\n"
            if ROOT:
                # The kernel kills in the control group, and the sandbox lives on.
                assert done.returncode == (137 if words is EAT else 0)
                assert box.run("ls").stdout == "README\nevil\n"
            else:
                with pytest.raises(SandboxEnded, match="memory"):
                    box.run("ls")


def test_what_is_in_the_directories_counts_as_memory(
    client: Client, image: str, commit_and_path: tuple[str, str]
) -> None:
    if not ROOT:
        pytest.skip("needs root, who has control groups")
    with executor(client, image, memory_limit="256m") as box:
        box.clone_repo(commit_and_path[1], commit_and_path[0])
        most = "x = bytearray(180 << 20)"
        assert python(box, most).success
        fill = """
        with open("big", "wb") as file:
            for _ in range(110):
                file.write(bytes(1 << 20))
        """
        assert python(box, fill).success
        assert python(box, most).out_of_memory
        assert box.run("ls").stdout == "README\nbig\nevil\n"


def test_processors(client: Client, image: str, commit_and_path: tuple[str, str]) -> None:
    with executor(client, image, cpu_limit=0.5) as box:
        box.clone_repo(commit_and_path[1], commit_and_path[0])
        done = python(
            box,
            """
            import os, subprocess, time
            print(subprocess.check_output(["nproc"]).decode().strip())
            print(os.environ["PYTEST_XDIST_AUTO_NUM_WORKERS"])
            begin = time.monotonic(), time.process_time()
            while time.monotonic() - begin[0] < 2:
                pass
            print(time.process_time() - begin[1])
            """,
        )
        nproc, workers, seconds = done.stdout.split()
        assert (nproc, workers) == ("1", "1")
        if ROOT:
            # Half of two seconds, and the period that had begun.
            assert float(seconds) < 1.3


def test_processes(client: Client, image: str, commit_and_path: tuple[str, str]) -> None:
    with executor(client, image, pids_limit=40, timeout=60) as box:
        box.clone_repo(commit_and_path[1], commit_and_path[0])
        done = python(
            box,
            """
            import os, sys, time
            made = 0
            while True:
                try:
                    if os.fork() == 0:
                        time.sleep(1000)
                    made += 1
                except OSError as error:
                    print(made, error.errno)
                    sys.exit(0)
            """,
        )
        made, error = done.stdout.split()
        assert 10 < int(made) < 40
        assert error == "11"
        # They are killed with the command, and others can be started.
        assert box.run("ls").stdout == "README\nevil\n"


def test_a_fork_bomb_ends(client: Client, image: str, commit_and_path: tuple[str, str]) -> None:
    command, mark = marked_sleep()
    with executor(client, image, pids_limit=64, timeout=3) as box:
        box.clone_repo(commit_and_path[1], commit_and_path[0])
        text = f"""
        import os
        print("begun", flush=True)
        if os.fork() == 0:
            os.execvp("sleep", {command.split()!r})
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """
        started = time.monotonic()
        done = python(box, text)
        assert done.timed_out, done
        assert done.stdout in ("begun\n", ""), done
        assert time.monotonic() - started < 30
        assert not running(mark)


def test_only_the_workspace_and_tmp_are_writable(box: SandboxExecutor) -> None:
    done = python(
        box,
        """
        import errno, os, tempfile
        for path in "/x", "/etc/x", "/usr/bin/x", "/home/x", "/var/tmp/x":
            try:
                open(path, "w")
                print(path, "written")
            except OSError as error:
                assert error.errno == errno.EROFS, (path, error)
        for path in "/.imgforge/x", "/.imgforge/inside/x", "/workspace/../.imgforge/gitconfig":
            try:
                open(path, "w")
                print(path, "written")
            except OSError as error:
                assert error.errno == errno.EACCES, (path, error)
        try:
            os.listdir("/.imgforge/results")
            print("seen")
        except OSError as error:
            assert error.errno == errno.EACCES
        for path in "/workspace/x", "/tmp/x", os.path.expanduser("~/x"), tempfile.mkstemp()[1]:
            open(path, "w").close()
        print(os.environ["HOME"])
        """,
    )
    assert (done.stdout, done.stderr) == ("/workspace/.home\n", "")


def test_programs_run_from_tmp_and_the_workspace(box: SandboxExecutor) -> None:
    done = python(
        box,
        """
        import shutil, subprocess
        for place in "/tmp/true", "/workspace/true":
            shutil.copy(shutil.which("true"), place)
            print(subprocess.call([place]))
        """,
    )
    assert done.stdout == "0\n0\n", done


def test_the_size_of_the_workspace(
    client: Client, image: str, commit_and_path: tuple[str, str]
) -> None:
    with executor(client, image, workspace_size="32m", tmp_size="16m") as box:
        box.clone_repo(commit_and_path[1], commit_and_path[0])
        done = python(
            box,
            """
            for path in "/workspace/big", "/tmp/big":
                try:
                    with open(path, "wb") as file:
                        for _ in range(64):
                            file.write(bytes(1 << 20))
                except OSError as error:
                    print(error.errno)
            """,
        )
        assert done.stdout == "28\n28\n", done
        # Nothing of it is on the disk.
        assert box._box is not None
        stats = box._box.session.stats()
        written = stats.get("written_bytes", stats.get("written"))
        assert written < 1 << 20


def test_the_user(box: SandboxExecutor) -> None:
    done = python(
        box,
        """
        import json, os
        names = "CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs", "Seccomp"
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        found = {name: int(status[name], 16) for name in names}
        found["ids"] = [*os.getresuid(), *os.getresgid(), *os.getgroups()]
        print(json.dumps(found))
        """,
    )
    found = json.loads(done.stdout)
    assert set(found.pop("ids")) == {1000}
    assert found.pop("NoNewPrivs") == 1
    assert found.pop("Seccomp") == 2
    assert set(found.values()) == {0}


def test_set_user_id_gains_nothing(box: SandboxExecutor) -> None:
    done = python(
        box,
        """
        import os, shutil, stat, subprocess, time
        su = shutil.which("su")
        assert os.stat(su).st_mode & stat.S_ISUID and os.stat(su).st_uid == 0
        # It waits for a password.
        process = subprocess.Popen([su], stdin=subprocess.PIPE)
        for _ in range(500):
            name = os.readlink(f"/proc/{process.pid}/exe")
            if name.endswith("/su"):
                break
            time.sleep(0.01)
        time.sleep(0.1)
        status = open(f"/proc/{process.pid}/status").read()
        print([line.split()[1:] for line in status.splitlines() if line.startswith("Uid")][0])
        process.kill()
        """,
    )
    assert done.stdout == "['1000', '1000', '1000', '1000']\n", done


def test_no_variable_of_this_process_is_there(
    box: SandboxExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET_TOKEN", "secret")
    assert "MY_SECRET_TOKEN" not in python(box, "import os; print(list(os.environ))").stdout


def test_git_works(box: SandboxExecutor) -> None:
    assert box.run("git status --porcelain").success
    assert box.run("git log --oneline").stdout.endswith(" c\n")
    done = box.run(["git", "commit", "--allow-empty", "-m", "more"])
    assert done.success, done
    assert python(box, "import os; print(os.stat('.').st_uid, os.stat('.git').st_uid)").stdout == (
        "1000 1000\n"
    )


def test_git_trusts_what_root_owns(box: SandboxExecutor) -> None:
    # The repository of an image is root's.
    done = python(
        box,
        """
        import os, subprocess
        if os.path.isdir("/testbed/.git"):
            assert os.stat("/testbed").st_uid == 0
            print(subprocess.call(["git", "-C", "/testbed", "status"], stdout=-3))
        else:
            print(0)
        """,
    )
    assert done.stdout == "0\n", done


def test_programs_of_the_workspace_are_refused(box: SandboxExecutor) -> None:
    for command in ("/workspace/repo/evil/git status", "evil/git", "./evil/git", "bash -c true"):
        with pytest.raises(ValueError, match="not in the allowed command whitelist"):
            box.run(command)
    with pytest.raises(ValueError, match="Empty command"):
        box.run("")
    assert box.run("git --version").stdout.startswith("git version")


def test_a_directory_outside_is_refused(box: SandboxExecutor) -> None:
    for directory in ("/etc", "/workspace", "/workspace/../etc", "../x", "/workspace/.home"):
        with pytest.raises(ValueError, match="not in the workspace"):
            box.run("ls", directory)


def test_results_of_commands(box: SandboxExecutor) -> None:
    done = python(box, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert not done.success
    assert not done.timed_out
    done = python(box, "import os; os.kill(os.getpid(), 9)")
    assert (done.returncode, done.out_of_memory) == (137, False)
    # A code of its own is no limit of time.
    done = python(box, "import sys; sys.exit(124)")
    assert (done.returncode, done.timed_out) == (124, False)
    done = box.run("ls", "nowhere")
    assert done.returncode == 126
    assert done.stderr


LEAVE = """
import os, subprocess, sys, time
print("before", flush=True)
print("said", file=sys.stderr, flush=True)
subprocess.Popen({0!r})
subprocess.Popen({0!r}, start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp({0!r}[0], {0!r})
    os._exit(0)
time.sleep({1})
"""


def test_at_the_time_limit_nothing_is_left(box: SandboxExecutor, client: Client) -> None:
    command, mark = marked_sleep()
    assert box._box is not None
    session = box._box.session.id
    assert session in [one.id for one in client.sessions()]
    started = time.monotonic()
    done = python(box, LEAVE.format(command.split(), 1000), timeout=1.5)
    assert time.monotonic() - started < 10
    assert done.timed_out
    assert done.returncode == -1
    assert (done.stdout, done.stderr) == ("before\n", "said\nTIMEOUT after 1.5s")
    assert not done.success
    assert not running(mark)
    assert session not in [one.id for one in client.sessions()]
    with pytest.raises(SandboxEnded, match=r"more than 1\.5s.*\nhint: clone_repo"):
        box.run("ls")
    with pytest.raises(SandboxEnded):
        box.apply_patch("")


def test_what_a_command_leaves_is_killed(box: SandboxExecutor) -> None:
    command, mark = marked_sleep()
    done = python(box, LEAVE.format(command.split(), 0.2))
    assert done.returncode == 0
    assert not running(mark)
    assert box.run("ls").success


def test_a_clone_starts_the_next_sandbox(
    box: SandboxExecutor, commit_and_path: tuple[str, str]
) -> None:
    assert python(box, "import time; time.sleep(100)", timeout=0.5).timed_out
    assert box.clone_repo(commit_and_path[1], commit_and_path[0]).success
    assert box.run("ls").stdout == "README\nevil\n"


def test_the_end(client: Client, image: str, commit_and_path: tuple[str, str]) -> None:
    commit, path = commit_and_path
    before = len(client.sessions())
    box = executor(client, image)
    with box.workspace({"instance_id": "a/b: c"}) as first:
        assert first == "/workspace/a_b_c"
        assert box.clone_repo(path, commit, first).success
        assert box.run("ls", first).stdout == "README\nevil\n"
        assert len(client.sessions()) == before + 1
    assert len(client.sessions()) == before
    with box.workspace() as second:
        # It is a fresh one.
        assert second == "/workspace/repo"
        assert box.run("ls").returncode == 126
        assert box.clone_repo(path, commit).success
    box.cleanup()
    box.cleanup()
    assert len(client.sessions()) == before


def test_its_own_client_ends_too(image: str, binary: str, commit_and_path: tuple[str, str]) -> None:
    command, mark = marked_sleep()
    with SandboxExecutor(
        image, memory_limit="256m", use_docker=False, binary=binary, unenforced=not ROOT
    ) as box:
        box.clone_repo(commit_and_path[1], commit_and_path[0])
        assert box._box is not None
        box._box.session.spawn(command.split())
        assert starts(mark)
    assert ends(mark, 10)


def test_settings_of_the_caller(
    client: Client, image: str, commit_and_path: tuple[str, str], tmp_path: Path
) -> None:
    with executor(client, image, env={"STAGE": "dev"}) as box:
        box.clone_repo(commit_and_path[1], commit_and_path[0])
        assert python(box, "import os; print(os.environ['STAGE'])").stdout == "dev\n"
