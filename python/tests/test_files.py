"""Files, patches and checkpoints of a session, on the real program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import pytest
from shared import INSTANCE

from imgforge_sandbox import (
    Client,
    ImgforgeError,
    InvalidRequest,
    LimitExceeded,
    NoSuchCheckpoint,
    NoSuchPath,
    Refused,
    Session,
)


def test_reading_and_writing(session: Session) -> None:
    every_byte = bytes(range(256))
    session.write("/new/deep/er/file", every_byte)
    assert session.read("/new/deep/er/file") == every_byte
    session.write("/new/text", "zurück\r\n")
    assert session.read_text("/new/text") == "zurück\r\n"
    session.write("/new/empty", b"")
    assert session.read("/new/empty") == b""
    session.write("/new/owned", "x", mode=0o640, user="5:7")
    assert session.run("stat -c '%a %u %g' /new/owned").text == "640 5 7\n"
    session.run(["ln", "-s", "text", "/new/link"])
    assert session.read("/new/link") == "zurück\r\n".encode()
    with pytest.raises(NoSuchPath) as caught:
        session.read("/new/nothing")
    assert caught.value.path == "/new/nothing"
    with pytest.raises(LimitExceeded):
        session.read("/new/deep/er/file", max_bytes=255)
    assert session.read("/new/deep/er/file", max_bytes=256) == every_byte
    with pytest.raises(UnicodeDecodeError):
        session.read_text("/new/deep/er/file")
    with pytest.raises(Refused):
        session.read("/new")
    with pytest.raises(InvalidRequest):
        session.read("relative")


@pytest.mark.slow
def test_a_file_that_is_longer_than_a_line(session: Session) -> None:
    data = os.urandom(1 << 20) * 70
    session.write("/tmp/long", data, mode=0o600, user="5:7")
    assert session.run("stat -c '%a %u %g %s' /tmp/long").text == f"600 5 7 {len(data)}\n"
    assert session.read("/tmp/long") == data
    with pytest.raises(InvalidRequest):
        session.write("/tmp/long", data, user="root")


@pytest.mark.parametrize(("user", "owner"), [(None, "0 0"), ("5:7", "5 7"), ("nobody", "0 0")])
def test_whose_a_file_is(
    client: Client, user: Optional[str], owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgforge_sandbox.session.INLINE_INPUT", 1000)
    with client.start(instance=INSTANCE, user=user) as session:
        session.write("/tmp/short", b"x", mode=0o604)
        session.write("/tmp/long", bytes(1001), mode=0o604)
        shown = session.run("stat -c '%u %g %a' /tmp/short /tmp/long").text
        assert shown == f"{owner} 604\n" * 2


def test_looking_at_paths(session: Session) -> None:
    session.write("/new/a", "12345", mode=0o640)
    session.run("ln -s a /new/link; mkdir /new/sub; touch -d @1000000000 /new/a")
    found = session.stat("/new/a")
    assert (found.kind, found.size, found.mode, found.modified) == ("file", 5, 0o640, 1e9)
    found = session.stat("/new/link")
    assert (found.kind, found.target) == ("link", "a")
    assert session.stat("/new/sub").kind == "directory"
    assert [(one.name, one.kind) for one in session.list("/new")] == [
        ("a", "file"),
        ("link", "link"),
        ("sub", "directory"),
    ]
    assert session.list("/new/sub") == []
    for look in (session.stat, session.list):
        with pytest.raises(NoSuchPath):
            look("/nothing")


def tree(directory: Path) -> dict[str, tuple[object, ...]]:
    """What is in a directory: kinds, modes, times, and contents or targets."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        name = str(path.relative_to(directory))
        status = path.lstat()
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("directory", status.st_mode)
        else:
            found[name] = ("file", status.st_mode, int(status.st_mtime), path.read_bytes())
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with something of each kind."""
    root = tmp_path / "source"
    (root / "sub/empty").mkdir(parents=True)
    (root / "file").write_bytes(bytes(range(256)))
    (root / "sub/program").write_text("#!/bin/sh\necho ran\n")
    (root / "sub/program").chmod(0o755)
    (root / "sub/zurück mit\nUmbruch").write_text("x")
    (root / ("n" * 200)).write_text("long name")
    (root / "link").symlink_to("sub/program")
    (root / "none").touch()
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe"))).write_text("no UTF-8 in its name")
    deep = root.joinpath(*["d" * 60] * 10)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    os.utime(root / "file", (1e9, 1e9))
    return root


def test_a_directory_in_and_out(session: Session, source: Path, tmp_path: Path) -> None:
    session.put(source, "/new/deep/copy")
    assert session.run("/new/deep/copy/link").text == "ran\n"
    got = session.get("/new/deep/copy", tmp_path / "got")
    assert got == tmp_path / "got"
    assert tree(got) == tree(source)
    with pytest.raises(FileExistsError):
        session.get("/new/deep/copy", got)
    # Once more into the same place: it is added to.
    session.write("/new/deep/copy/more", "x")
    session.put(source, "/new/deep/copy", owner=(5, 7))
    assert session.read("/new/deep/copy/more") == b"x"
    assert session.run("stat -c '%u %g' /new/deep/copy/file").text == "5 7\n"


def test_a_file_in_and_out(session: Session, source: Path, tmp_path: Path) -> None:
    session.put(source / "file", "/new/name")
    assert session.read("/new/name") == bytes(range(256))
    session.get("/new/name", tmp_path / "name")
    assert (tmp_path / "name").read_bytes() == bytes(range(256))
    session.write("/new/name", "other")
    session.get("/new/name", tmp_path / "name")
    assert (tmp_path / "name").read_text() == "other"


def test_what_cannot_be_copied(session: Session, tmp_path: Path) -> None:
    with pytest.raises(NoSuchPath):
        session.get("/nothing", tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        session.put(tmp_path / "nothing", "/new")
    for target in ("relative", "/", "/a/..", ""):
        with pytest.raises(InvalidRequest):
            session.put(tmp_path, target)
    with pytest.raises(FileNotFoundError):
        session.get("/etc/passwd", tmp_path / "nothing" / "x")
    assert list(tmp_path.iterdir()) == []
    # The directory above it is a file.
    with pytest.raises(ImgforgeError):
        session.put(tmp_path, "/etc/passwd/x")
    assert session.exec("true").ok


def test_links_that_lead_out_of_a_session(session: Session, tmp_path: Path) -> None:
    session.run("mkdir /new; echo x > /new/a; ln -s /etc/passwd /new/out; ln -s a /new/in")
    with pytest.raises(Refused, match="leads out"):
        session.get("/new", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
    session.get("/new", tmp_path / "x", links="skip")
    assert sorted(os.listdir(tmp_path / "x")) == ["a", "in"]
    session.get("/new", tmp_path / "y", links="keep")
    assert os.readlink(tmp_path / "y/out") == "/etc/passwd"
    with pytest.raises(LimitExceeded):
        session.get("/new", tmp_path / "z", links="skip", max_bytes=1)
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]


@pytest.mark.slow
def test_copying_much(session: Session, tmp_path: Path) -> None:
    block = os.urandom(1 << 20)
    (tmp_path / "big").mkdir()
    for number in range(10):
        (tmp_path / "big" / str(number)).write_bytes(block * 10)
    session.put(tmp_path / "big", "/tmp/big")
    session.get("/tmp/big", tmp_path / "got")
    assert [path.stat().st_size for path in (tmp_path / "got").iterdir()] == [10 << 20] * 10
    assert (tmp_path / "got/7").read_bytes() == block * 10


def test_what_was_changed(session: Session) -> None:
    assert session.patch() == b""
    assert session.apply(b"") == ""
    session.run("echo new > new; echo more >> README.md; echo c > /elsewhere", workdir="/testbed")
    changed = {change.path: change.kind for change in session.diff()}
    assert changed["/testbed/new"] == "added"
    assert changed["/testbed/README.md"] == "modified"
    assert changed["/elsewhere"] == "added"
    patch = session.patch()
    assert b"+more" in patch
    assert b"elsewhere" not in patch
    assert b"+new" not in session.patch(untracked=False)
    assert b"README" not in session.patch(exclude=["*.md"])
    session.apply(patch, reverse=True)
    assert session.patch() == b""
    session.apply(patch)
    assert session.patch() == patch
    with pytest.raises(Refused):
        session.apply(patch)
    assert session.patch() == patch
    with pytest.raises(Refused):
        session.apply("this is no patch")


def test_checkpoints(client: Client, session: Session) -> None:
    session.write("/testbed/a", "1")
    checkpoint = session.checkpoint()
    session.write("/testbed/a", "2")
    with client.start(checkpoint=checkpoint) as other:
        assert other.read("/testbed/a") == b"1"
        assert other.patch() != b""
    forks = client.fork(checkpoint, 2) + session.fork(2)
    assert [fork.read("/testbed/a") for fork in forks] == [b"1", b"1", b"2", b"2"]
    forks[0].write("/testbed/a", "3")
    assert session.read("/testbed/a") == b"2"
    made = {str(fork.info.checkpoint) for fork in forks}
    assert len(made) == 2
    assert checkpoint.id in made
    for fork in forks:
        fork.stop()
    session.reset(checkpoint)
    assert session.read("/testbed/a") == b"1"
    session.reset()
    with pytest.raises(NoSuchPath):
        session.read("/testbed/a")
    session.write("/testbed/a", "4")
    moved = session.checkpoint(move=True)
    assert session.read("/testbed/a") == b"4"
    ids = {moved.id, *made}
    assert all(id in str(client.checkpoints()) for id in ids)
    for id in ids:
        client.remove_checkpoint(id)
    with pytest.raises(NoSuchCheckpoint):
        client.start(checkpoint=checkpoint)
    assert session.read("/testbed/a") == b"4"


def test_the_network(client: Client) -> None:
    with client.start(instance=INSTANCE) as session, pytest.raises(Refused):
        session.network()
    with client.start(instance=INSTANCE, allow=["pypi.org"]) as session:
        fetch = "python -c \"import urllib.request as r; r.urlopen('http://example.org/')\""
        assert not session.exec(fetch).ok
        access = session.network()
        assert access.allowed == ["pypi.org"]
        assert access.denied == {"example.org:80": 1}
        assert session.network([]).allowed == []
    with pytest.raises(InvalidRequest):
        client.start(instance=INSTANCE, allow=["10.0.0.1"])
