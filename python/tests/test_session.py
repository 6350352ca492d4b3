"""Commands, shells and processes of a session, on the real program."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest
from procs import ends, marked_sleep, running, starts
from shared import INSTANCE

from imgforge_sandbox import (
    Client,
    CommandFailed,
    InvalidRequest,
    NoSuchExec,
    NoSuchImage,
    NoSuchInstance,
    NoSuchSession,
    NoSuchShell,
    Session,
    SessionEnded,
    ShellResult,
)


def test_what_is_known_of_it(client: Client, session: Session) -> None:
    assert session.instance == INSTANCE
    assert session.repository == "/testbed"
    assert session.base == session.run("git rev-parse HEAD").text.strip()
    assert session.engine == client.engine
    assert list(session.ports) == []


def test_a_command(session: Session) -> None:
    result = session.exec(["printf", "%s|", "a b", "$HOME", "ü"])
    assert result.ok
    assert (result.stdout, result.stderr) == ("a b|$HOME|ü|".encode(), b"")
    assert result.end == "exited"
    assert result.duration > 0
    result = session.exec("echo out; echo err >&2; exit 3")
    assert (result.code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert not result.ok
    assert session.exec("echo a; echo b >&2; echo c", merge=True).stdout == b"a\nb\nc\n"


def test_what_a_command_gets(client: Client) -> None:
    with client.start(
        instance=INSTANCE, env={"A": "1", "B": "1"}, workdir="/tmp", user="nobody"
    ) as session:
        shown = session.run("pwd; id -un; echo $A $B $C", env={"B": "2", "C": "3"}).text
        assert shown.splitlines() == ["/tmp", "nobody", "1 2 3"]
        shown = session.run("pwd; id -u; id -g", workdir="/usr", user="5:7").text
        assert shown.splitlines() == ["/usr", "5", "7"]
    with client.start(instance=INSTANCE) as session:
        assert session.run("shopt -q login_shell && echo yes", login=True).text == "yes\n"
        with pytest.raises(InvalidRequest):
            session.exec(["true"], login=True)


def test_how_commands_end(session: Session) -> None:
    result = session.exec("kill -9 $$")
    assert (result.end, result.code, result.signal) == ("signaled", 137, 9)
    result = session.exec(["/nothing"])
    assert (result.end, result.code) == ("not_started", 127)
    assert result.reason
    result = session.exec(["/etc/passwd"])
    assert (result.end, result.code) == ("not_started", 126)
    result = session.exec("exit 124")
    assert (result.end, result.code) == ("exited", 124)
    with pytest.raises(CommandFailed, match="code 3") as caught:
        session.run("echo why >&2; exit 3")
    assert caught.value.result.code == 3
    assert "why" in str(caught.value)
    assert session.run("exit 3", check=False).code == 3


def test_limits_of_time_kill_all_of_it(session: Session) -> None:
    sleep, mark = marked_sleep()
    result = session.exec(f"setsid {sleep} & echo begun; wait", timeout=1)
    assert (result.end, result.code, result.stdout) == ("timed_out", 124, b"begun\n")
    assert ends(mark)
    result = session.exec("echo a; sleep 0.2; echo b; sleep 100", idle_timeout=1)
    assert (result.end, result.stdout) == ("idle", b"a\nb\n")
    assert session.exec("true").ok


def test_input(session: Session) -> None:
    assert session.exec("cat", stdin="zwei\n").stdout == b"zwei\n"
    assert session.exec("wc -c", stdin=b"").text.strip() == "0"
    assert session.exec("wc -c").text.strip() == "0"
    every_byte = bytes(range(256)) * 10
    assert session.exec("cat", stdin=every_byte).stdout == every_byte


def test_long_input_goes_in_pieces(session: Session) -> None:
    data = bytes(range(256)) * (80 << 12)
    result = session.exec("sha256sum", stdin=data)
    assert result.text.split()[0] == hashlib.sha256(data).hexdigest()
    # A command that does not read it ends as it likes.
    assert session.exec("exit 5", stdin=data).code == 5
    assert session.exec("head -c 3 | wc -c", stdin=data).text.strip() == "3"
    result = session.exec(["/nothing"], stdin=data)
    assert (result.end, result.code) == ("not_started", 127)
    result = session.exec("sleep 100", stdin=data, timeout=1)
    assert result.end == "timed_out"


def test_output_is_bytes(session: Session) -> None:
    odd = b"\xff\xfe\x00\x1b[31mred\x1b[0m\r\n\xe4"
    assert session.exec("cat", stdin=odd).stdout == odd
    assert session.exec("cat >&2", stdin=odd).stderr == odd
    seen: list[tuple[str, bytes]] = []
    session.exec("cat", stdin=odd, on_output=lambda *piece: seen.append(piece))
    assert b"".join(data for _, data in seen) == odd
    assert "\N{REPLACEMENT CHARACTER}" in session.exec("cat", stdin=odd).text


def test_how_much_of_the_output_is_kept(session: Session) -> None:
    count = "seq 100000 199999"
    whole = b"".join(b"%d\n" % n for n in range(100000, 200000))
    result = session.exec(count)
    assert (result.stdout, result.dropped_stdout) == (whole, 0)
    result = session.exec(count, max_output=1000)
    assert (result.stdout, result.dropped_stdout) == (whole[-1000:], len(whole) - 1000)
    result = session.exec(count, max_output=1000, keep="head_tail")
    assert result.stdout == whole[:500] + whole[-500:]
    result = session.exec(count, max_output=1000, keep="all")
    assert (result.stdout, result.dropped_stdout) == (whole, 0)
    with pytest.raises(InvalidRequest):
        session.exec(count, keep="middle")


def test_output_while_it_runs(session: Session) -> None:
    seen: list[tuple[str, bytes]] = []
    threads: set[int] = set()

    def take(stream: str, data: bytes) -> None:
        threads.add(threading.get_ident())
        seen.append((stream, data))
        if b"go?" in data:
            # The command waits for what is said here.
            session.write("/tmp/go", "")

    result = session.exec(
        "echo go?; until [ -e /tmp/go ]; do sleep 0.05; done; echo went; echo x >&2",
        on_output=take,
        timeout=30,
    )
    assert result.ok
    assert threads == {threading.get_ident()}
    assert b"".join(d for s, d in seen if s == "stdout") == result.stdout == b"go?\nwent\n"
    assert b"".join(d for s, d in seen if s == "stderr") == result.stderr == b"x\n"


def test_an_exception_of_the_caller_kills_the_command(session: Session) -> None:
    sleep, mark = marked_sleep()

    def take(stream: str, data: bytes) -> None:
        assert starts(mark)
        raise ZeroDivisionError

    started = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        session.exec(f"echo a; {sleep}", on_output=take)
    assert time.monotonic() - started < 20
    assert not running(mark)
    assert session.exec("true").ok


def test_commands_of_threads_run_at_once(session: Session) -> None:
    results: list[int] = []

    def one(number: int) -> None:
        # Each waits for all others: one after another they would wait for ever.
        wait = f"touch /tmp/at-{number}; until [ $(ls /tmp/at-* | wc -l) = 8 ]; do sleep 0.05; done"
        result = session.exec(wait, timeout=60)
        results.append(-1 if result.code is None else result.code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0] * 8


def test_a_shell_keeps_what_it_has(session: Session) -> None:
    with session.shell() as shell:
        assert shell.run("cd /usr; X=1; f() { echo f$X; }").ok
        assert shell.run("pwd; f").output == b"/usr\nf1\n"
        assert shell.run("false").code == 1
        assert shell.run("if").code == 2
        assert shell.run("printf 'a\\0\\377'").output == b"a\0\xff"
        sleep, mark = marked_sleep()
        result = shell.run(f"echo a; {sleep}", timeout=1)
        # What follows is what bash says of it.
        assert (result.end, result.output[:2]) == ("timed_out", b"a\n")
        assert ends(mark)
        assert shell.run("echo $X").output == b"1\n"
        seen: list[bytes] = []
        result = shell.run("echo a; echo b", on_output=lambda _, data: seen.append(data))
        assert b"".join(seen) == result.output == b"a\nb\n"
        result = shell.run("seq 100000 199999", max_output=700)
        assert (len(result.output), result.dropped) == (700, 700000 - 700)
        result = shell.run("exit 7")
        assert (result.end, result.code) == ("shell_ended", 7)
        with pytest.raises(NoSuchShell):
            shell.run("true")


def test_a_shell_by_its_name(session: Session) -> None:
    first = session.shell("first", env={"A": "1"}, workdir="/usr")
    assert first.name == "first"
    assert first.run("echo $A; pwd").output == b"1\n/usr\n"
    with pytest.raises(InvalidRequest):
        session.shell("first")
    first.close()
    first.close()
    with pytest.raises(NoSuchShell):
        first.run("true")
    assert session.shell("first").run("echo $A").output == b"\n"


def test_another_thread_ends_what_a_shell_runs(session: Session) -> None:
    # Another shell may end with what is interrupted in it.
    shell = session.shell(interactive=True)
    for end in (shell.interrupt, shell.kill):
        sleep, mark = marked_sleep()
        results: list[ShellResult] = []
        thread = threading.Thread(target=lambda s=sleep, r=results: r.append(shell.run(s)))
        thread.start()
        assert starts(mark)
        end()
        thread.join(30)
        assert not thread.is_alive()
        assert not results[0].ok
        assert ends(mark)
        assert shell.run("echo here").output == b"here\n"


def test_an_exception_of_the_caller_ends_what_a_shell_runs(session: Session) -> None:
    shell = session.shell()
    sleep, mark = marked_sleep()

    def take(stream: str, data: bytes) -> None:
        assert starts(mark)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shell.run(f"X=2; echo a; {sleep}", on_output=take)
    assert not running(mark)
    assert shell.run("echo $X").output == b"2\n"


def test_a_process_with_open_input(session: Session) -> None:
    process = session.spawn("read a; echo got $a; cat; echo err >&2", stream=True)
    assert process.running
    process.write("one\n")
    pieces = process.output()
    assert next(pieces) == ("stdout", b"got one\n")
    process.write(b"two\n")
    process.close_stdin()
    result = process.wait()
    assert (result.code, result.stdout, result.stderr) == (0, b"got one\ntwo\n", b"err\n")
    assert process.wait() == result
    assert not process.running
    rest = list(pieces)
    assert b"".join(data for stream, data in rest if stream == "stdout") == b"two\n"
    assert list(process.output()) == []
    with pytest.raises(NoSuchExec):
        process.write("three\n")


def test_a_process_on_a_terminal(session: Session) -> None:
    process = session.spawn(["bash", "--norc"], tty=(33, 77), env={"PS1": "> "})
    process.write("stty size\n")
    process.write("exit 4\n")
    result = process.wait(60)
    assert result.code == 4
    assert b"33 77" in result.stdout


def test_signals_to_a_process(session: Session) -> None:
    process = session.spawn(
        "trap 'echo term; exit 9' TERM; echo on; while :; do sleep 0.05; done", stream=True
    )
    assert next(process.output()) == ("stdout", b"on\n")
    process.kill(15)
    assert process.wait(60).code == 9
    process = session.spawn(["sleep", "1000"])
    process.kill()
    assert process.wait(60).code == 137
    result = session.spawn(["/nothing"]).wait(60)
    assert (result.end, result.code) == ("not_started", 127)


def test_what_is_not_there_to_start_from(client: Client) -> None:
    with pytest.raises(NoSuchImage):
        client.start(image="nothing.example/nothing:1")
    with pytest.raises(NoSuchInstance):
        client.start(instance=("demo", "nothing"))
    with pytest.raises(InvalidRequest):
        client.start()
    with pytest.raises(InvalidRequest):
        client.start(instance=INSTANCE, network="everything")


def test_the_end_of_a_session(client: Client) -> None:
    session = client.start(instance=INSTANCE, labels={"who": "me"})
    assert [(s.labels, s.instance) for s in client.sessions() if s.id == session.id] == [
        ({"who": "me"}, INSTANCE)
    ]
    again = client.session(session.id)
    assert again.run("echo here").text == "here\n"
    del again
    assert session.exec("true").ok
    how: list[str] = []
    thread = threading.Thread(target=lambda: how.append(session.wait()))
    thread.start()
    said = session.stop()
    thread.join(30)
    assert how == [said]
    assert session.stop() == ""
    assert session.id not in {s.id for s in client.sessions()}
    for use in (lambda: session.exec("true"), lambda: session.read("/etc/passwd")):
        with pytest.raises(NoSuchSession):
            use()
    with pytest.raises(NoSuchSession):
        client.session(session.id)


def test_a_session_that_ends_under_a_command_gives_no_result(client: Client) -> None:
    with client.start(instance=INSTANCE) as session:
        sleep, mark = marked_sleep()
        thread = threading.Thread(target=lambda: starts(mark) and session.stop())
        thread.start()
        with pytest.raises(SessionEnded) as caught:
            session.exec(f"echo until here; {sleep}")
        thread.join(30)
        assert caught.value.result is not None
        assert caught.value.result.stdout == b"until here\n"
        assert ends(mark)


def test_a_time_to_live(client: Client) -> None:
    with client.start(instance=INSTANCE, ttl=1.5) as session:
        with pytest.raises(SessionEnded):
            session.exec("sleep 100")


def test_a_session_that_is_forgotten_ends(client: Client) -> None:
    session = client.start(instance=INSTANCE)
    id = session.id
    with pytest.warns(ResourceWarning, match="was not stopped"):
        del session
    until = time.monotonic() + 20
    while id in {s.id for s in client.sessions()}:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_too_little_memory(client: Client) -> None:
    with client.start(instance=INSTANCE, memory=64 << 20) as session:
        if session.warnings:
            pytest.skip(f"needs control groups, for limits: {session.warnings}")
        result = session.exec(["python", "-c", "b = bytearray(512 << 20); print(len(b))"])
        assert result.end == "out_of_memory"
        assert not result.ok


def test_standing_still(session: Session) -> None:
    process = session.spawn("while :; do date +%s%N > /tmp/now; sleep 0.02; done")
    until = time.monotonic() + 20
    while session.exec(["test", "-s", "/tmp/now"]).code != 0:
        assert time.monotonic() < until
    session.pause()
    before = session.read("/tmp/now")
    time.sleep(0.3)
    assert session.read("/tmp/now") == before
    session.resume()
    until = time.monotonic() + 20
    while session.read("/tmp/now") in (before, b""):
        assert time.monotonic() < until
    process.kill()


def test_what_it_uses(session: Session) -> None:
    sleep, mark = marked_sleep()
    process = session.spawn(sleep)
    assert starts(mark)
    assert any(mark in one["command"] for one in session.processes())
    assert session.stats()["processes"] >= 1
    process.kill()
