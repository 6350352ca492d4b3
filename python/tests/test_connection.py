"""The connection, on servers that misbehave. What the real one does is in other files."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Callable

import pytest

from imgforge_sandbox import (
    BinaryNotFound,
    Client,
    ConnectionLost,
    InfraError,
    InvalidRequest,
    LimitExceeded,
    ProtocolError,
    VersionMismatch,
    _connection,
    connect,
)

Make = Callable[[str], str]


def test_hello_says_what_the_server_is(server: Make) -> None:
    with Client(server("for request in requests(): pass")) as client:
        assert (client.version, client.engine, client.features) == ("1.2.3", "none", ["a"])


def test_the_options_reach_the_program(program: Make, tmp_path: Path) -> None:
    path = program(f"import json, sys; json.dump(sys.argv[1:], open({str(tmp_path / 'a')!r}, 'w'))")
    with pytest.raises(ConnectionLost):
        Client(path, engine="embedded", state_dir="/s", options=["--quiet"])
    arguments = json.loads((tmp_path / "a").read_text())
    assert arguments[:2] == ["serve", "--stdio"]
    assert arguments[2:] == ["--quiet", "--engine", "embedded", "--state-dir", "/s"]


def test_a_program_that_is_too_old_says_so(program: Make) -> None:
    path = program("import sys; sys.exit(\"error: unexpected argument '--stdio' found\")")
    with pytest.raises(ConnectionLost, match="ended before it answered") as caught:
        Client(path)
    assert "unexpected argument '--stdio'" in str(caught.value)
    assert "too old" in (caught.value.hint or "")
    assert "--stdio" in caught.value.stderr


def test_a_program_that_is_too_new_says_so(program: Make) -> None:
    path = program(
        """
        import json, sys
        request = json.loads(sys.stdin.readline())
        data = {"kind": "protocol", "supported": [2, 3], "hint": "update the package"}
        error = {"code": -32001, "message": "protocol 1 is not known", "data": data}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}), flush=True)
        sys.stdin.read()
        """
    )
    with pytest.raises(VersionMismatch) as caught:
        Client(path)
    assert caught.value.supported == [2, 3]
    assert caught.value.hint == "update the package"


def test_an_answer_of_another_version_is_refused(program: Make) -> None:
    path = program(
        """
        import json, sys
        request = json.loads(sys.stdin.readline())
        print(json.dumps({"id": request["id"], "result": {"protocol": 7}}), flush=True)
        sys.stdin.read()
        """
    )
    with pytest.raises(VersionMismatch, match="speaks protocol 7"):
        Client(path)


def test_a_program_that_says_nothing_is_given_up(
    program: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    path = program(
        f"""
        import os, time
        open({str(pid)!r}, "w").write(str(os.getpid()))
        time.sleep(1000)
        """
    )
    monkeypatch.setattr(_connection, "HELLO_SECONDS", 1.0)
    with pytest.raises(InfraError, match="did not answer"):
        Client(path)
    assert not is_alive(int(pid.read_text()))


@pytest.mark.parametrize("line", ["hello", "[1]", '{"id": 1}', "{", "3"])
def test_what_is_no_message_ends_the_connection(program: Make, line: str) -> None:
    path = program(
        f"""
        import sys
        sys.stdin.readline()
        print({line!r}, flush=True)
        sys.stdin.read()
        """
    )
    with pytest.raises(ProtocolError, match="no message"):
        Client(path)


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    path = tmp_path / "imgforge"
    path.write_bytes(b"\x7fELF and nothing else")
    path.chmod(0o755)
    with pytest.raises(BinaryNotFound, match="cannot run") as caught:
        Client(path)
    assert caught.value.hint


def test_death_ends_all_calls_that_wait(server: Make) -> None:
    path = server(
        """
        waiting = 0
        for request in requests():
            waiting += 1
            if waiting == 5:
                print("first line\\nthe disk is gone", file=sys.stderr, flush=True)
                os.kill(os.getpid(), 9)
        """
    )
    client = Client(path)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            client.sessions()
        except ConnectionLost as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(errors) == 5
    assert len({id(error) for error in errors}) == 5
    for error in errors:
        assert isinstance(error, ConnectionLost)
        assert "SIGKILL" in str(error)
        assert "the disk is gone" in str(error)
        assert error.stderr == "first line\nthe disk is gone"
    # It stays lost, and says so at once.
    with pytest.raises(ConnectionLost):
        client.sessions()
    client.close()


def test_what_is_not_known_is_left_alone(server: Make) -> None:
    path = server(
        """
        for request in requests():
            send(method="weather", params={"rain": True})
            send(method="output", params=[1])
            send(method="output", params={"session": "s", "exec": "e", "data": "!"})
            send(id=99999, result={})
            send(id=request["id"], result={"sessions": [], "more": 1})
        """
    )
    with Client(path) as client:
        assert client.sessions() == []


def test_a_result_of_another_form_is_an_error(server: Make) -> None:
    path = server(
        """
        for number, request in enumerate(requests()):
            send(id=request["id"], result=[3, {}, {"sessions": [{"session": 3}]}][number])
        """
    )
    with Client(path) as client:
        for _ in range(3):
            with pytest.raises(ProtocolError):
                client.sessions()


def test_answers_may_come_in_any_order(server: Make) -> None:
    path = server(
        """
        waiting = []
        for request in requests():
            waiting.append(request)
            if len(waiting) == 20:
                for request in reversed(waiting):
                    label = request["params"]["checkpoint"]
                    send(id=request["id"], error={"message": label, "data": {"kind": "refused"}})
        """
    )
    found: dict[str, str] = {}

    def ask(label: str) -> None:
        try:
            client.remove_checkpoint(label)
        except Exception as error:
            found[label] = str(error)

    with Client(path) as client:
        threads = [threading.Thread(target=ask, args=(str(n),)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert found == {str(n): str(n) for n in range(20)}


def test_long_lines_in_small_pieces(server: Make) -> None:
    path = server(
        """
        for request in requests():
            result = {"sessions": [], "x": "y" * (8 << 20)}
            text = json.dumps({"id": request["id"], "result": result})
            data = (text + "\\n").encode()
            for offset in range(0, len(data), 70001):
                os.write(1, data[offset:offset + 70001])
        """
    )
    with Client(path) as client:
        assert client.sessions() == []


def test_input_that_cannot_be_written_gives_no_result(server: Make, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    path = server(
        f"""
        start = {{"session": "s", "image": "i", "engine": "e", "ports": [], "warnings": []}}
        for request in requests():
            method = request["method"]
            if method == "session.start":
                send(id=request["id"], result=start)
            elif method == "session.exec":
                send(id=request["id"], result={{"exec": request["params"]["exec"]}})
            elif method == "exec.input":
                send(id=request["id"], error={{"message": "broken", "data": {{"kind": "infra"}}}})
            elif method == "exec.kill":
                open({str(killed)!r}, "w").close()
                send(id=request["id"], result={{}})
            elif method == "session.stop":
                send(id=request["id"], result={{"how": "it was stopped"}})
        """
    )
    with Client(path) as client, client.start(image="i") as session:
        # The command would go on with a part of it.
        with pytest.raises(InfraError, match="broken"):
            session.exec("cat", stdin=b"x" * (20 << 20))
        session.stop()
    assert killed.exists()


def test_what_cannot_be_sent_is_said_before(server: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = server("for request in requests(): send(id=request['id'], result={})")
    with Client(path) as client:
        with pytest.raises(InvalidRequest, match="no text that can be sent"):
            client.remove_checkpoint("\udc80")
        with pytest.raises(InvalidRequest):
            client.start(image="a", cpus=float("nan"))
        with pytest.raises(TypeError, match="list of texts"):
            client.start(image="a", allow="pypi.org")
        monkeypatch.setattr(_connection, "LONGEST_LINE", 1000)
        with pytest.raises(LimitExceeded):
            client.remove_checkpoint("a" * 1000)
        # The connection is whole.
        client.remove_checkpoint("a")


def test_closing_twice_and_using_it_then(server: Make) -> None:
    client = Client(server("for request in requests(): pass"))
    client.close()
    client.close()
    with pytest.raises(ConnectionLost, match="closed"):
        client.sessions()


def test_closing_ends_a_call_that_waits(server: Make) -> None:
    client = Client(server("for request in requests(): pass"))
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            client.sessions()
        except ConnectionLost as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    client.close()
    thread.join(20)
    assert "closed" in str(errors[0])


def test_a_server_that_does_not_end_is_killed(
    server: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = server(
        f"""
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        for request in requests(): pass
        time.sleep(1000)
        """
    )
    monkeypatch.setattr(_connection.Connection.close, "__defaults__", (0.5,))
    client = Client(path)
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 10
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_a_client_that_nobody_has_ends_its_server(server: Make, tmp_path: Path) -> None:
    path = server(
        f"""
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        for request in requests(): pass
        """
    )
    client = Client(path)
    pid = int((tmp_path / "pid").read_text())
    assert is_alive(pid)
    del client
    assert ends(pid)


def test_a_socket_is_as_good_as_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    lines: list[bytes] = []

    def serve() -> None:
        for _ in range(2):
            stream, _ = listener.accept()
            with stream, stream.makefile("rwb") as file:
                for line in file:
                    lines.append(line)
                    number = json.loads(line)["id"]
                    result = {"protocol": 1, "version": "9", "sessions": []}
                    file.write(json.dumps({"id": number, "result": result}).encode() + b"\n")
                    file.flush()

    thread = threading.Thread(target=serve)
    thread.start()
    for _ in range(2):
        with connect(f"unix://{path}") as client:
            assert client.version == "9"
            assert client.sessions() == []
    thread.join(20)
    listener.close()
    assert not thread.is_alive()
    assert len(lines) == 4


def test_a_socket_where_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost, match="cannot connect") as caught:
        connect(f"unix://{tmp_path}/nothing")
    assert "imgforge serve --rpc" in (caught.value.hint or "")
    for url in ("tcp://1.2.3.4", "unix://relative", "/run/x"):
        with pytest.raises(InvalidRequest):
            connect(url)


def is_alive(pid: int) -> bool:
    """Says whether a process lives; one that has ended and is not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def ends(pid: int, seconds: float = 20) -> bool:
    """Waits for the end of a process."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not is_alive(pid):
            return True
        time.sleep(0.02)
    return False


def test_the_words_of_a_test_are_right() -> None:
    assert is_alive(os.getpid())
    assert not is_alive(2**22 + 1)
