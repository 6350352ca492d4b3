"""What a session can be started with, on the real program."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import pytest
from shared import INSTANCE

from imgforge_sandbox import Client, InvalidRequest


def test_directories_of_this_machine(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("here")
    bind = [f"{tmp_path}:/rw", f"{tmp_path}:/ro:ro"]
    with client.start(instance=INSTANCE, bind=bind) as session:
        assert session.run("cat /rw/a /ro/a").text == "herehere"
        session.run("echo there > /rw/b")
        assert session.exec("echo x > /ro/c").code != 0
    assert (tmp_path / "b").read_text() == "there\n"
    assert not (tmp_path / "c").exists()
    with pytest.raises(InvalidRequest):
        client.start(instance=INSTANCE, bind=["/nowhere:/a"])


def test_a_root_that_is_not_written_to(client: Client) -> None:
    with client.start(instance=INSTANCE, read_only=True, tmpfs=["/scratch:size=1m"]) as session:
        assert "Read-only" in session.exec("echo x > /testbed/x").stderr.decode()
        assert session.run("echo x > /scratch/x; cat /scratch/x").text == "x\n"
        assert session.exec("head -c 2000000 /dev/zero > /scratch/y").code != 0


def test_a_port_that_this_machine_reaches(client: Client) -> None:
    if client.engine != "embedded":
        pytest.skip("needs the embedded engine: Docker publishes no port of a session")
    with client.start(instance=INSTANCE, publish=[8000]) as session:
        assert [port.port for port in session.ports] == [8000]
        session.write("/srv/hello", "from inside")
        server = session.spawn(["python", "-m", "http.server", "8000", "-d", "/srv"])
        until = time.monotonic() + 30
        while True:
            try:
                url = f"http://{session.ports[0].address}/hello"
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                with opener.open(url, timeout=5) as answer:
                    assert answer.read() == b"from inside"
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.05)
        server.kill()


def test_numbers_of_processes(client: Client) -> None:
    with client.start(instance=INSTANCE, pids=20) as session:
        if session.warnings:
            pytest.skip(f"needs control groups, for limits: {session.warnings}")
        assert not session.exec("for i in $(seq 50); do sleep 5 & done; wait", timeout=60).ok
        assert session.exec("true").ok


def test_from_an_image(client: Client) -> None:
    with client.start(instance=INSTANCE) as session:
        image = session.image
    with client.start(image=image) as session:
        assert session.instance is None
        assert session.repository == "/testbed"
        assert session.exec("git status").ok
