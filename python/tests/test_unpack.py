"""Archives from a session that nobody trusts: nothing is written outside of the destination."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgforge_sandbox import LimitExceeded, Refused
from imgforge_sandbox._unpack import leads_out, unpack

FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
DIRECTORY, FIFO, DEVICE = tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE


def archive(*members: tuple[str, bytes, str], size: Optional[int] = None) -> io.BytesIO:
    """Makes an archive: names, kinds, and the content or the target of a link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = kind, 0o755, 1_000_000_000
            data = content.encode() if kind == FILE else b""
            member.size = len(data)
            if kind in (LINK, HARD):
                member.linkname = content
            tar.addfile(member, io.BytesIO(data))
    out.seek(0)
    return out


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A directory with a neighbour that has a secret."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "room").mkdir()
    return tmp_path / "room"


def untouched(room: Path) -> bool:
    """Says whether the neighbour is as it was, and nothing else came there."""
    outside = room.parent / "outside"
    return (
        sorted(path.name for path in outside.iterdir()) == ["secret"]
        and (outside / "secret").read_text() == "secret"
        and sorted(path.name for path in room.parent.iterdir()) == ["outside", "room"]
    )


def test_a_tree_comes_whole(room: Path) -> None:
    unpack(
        archive(
            ("top", DIRECTORY, ""),
            ("top/empty", DIRECTORY, ""),
            ("top/file", FILE, "content"),
            ("top/deep/er/file", FILE, "made on the way"),
            ("top/link", LINK, "file"),
            ("top/deep/up", LINK, "../file"),
            ("top/hard", HARD, "top/file"),
            ("top/fifo", FIFO, ""),
            ("top/zurück\n", FILE, ""),
        ),
        room / "new",
    )
    new = room / "new"
    assert (new / "file").read_text() == "content"
    assert (new / "deep/er/file").read_text() == "made on the way"
    assert os.readlink(new / "link") == "file"
    assert (new / "deep/up").read_text() == "content"
    assert (new / "hard").samefile(new / "file")
    assert (new / "fifo").is_fifo()
    assert (new / "zurück\n").read_bytes() == b""
    assert (new / "empty").stat().st_mode & 0o777 == 0o755
    assert (new / "file").stat().st_mtime == 1_000_000_000
    assert (new / "empty").stat().st_mtime == 1_000_000_000
    assert [path.name for path in room.iterdir()] == ["new"]


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", FILE, "x")],
        [("top/../../evil", FILE, "x")],
        [("/evil", FILE, "x")],
        [("..", DIRECTORY, "")],
        [("top", LINK, ".."), ("top/evil", FILE, "x")],
        [("top/a", LINK, "../../../outside"), ("top/a/evil", FILE, "x")],
        [("top/a", LINK, "/"), ("top/a/evil", DIRECTORY, "")],
        [("top/a", LINK, "b"), ("top/b", LINK, "../.."), ("top/a/evil", FILE, "x")],
        [("top/a", LINK, "../../outside/secret"), ("top/a", DIRECTORY, "")],
        [("top/a", HARD, "../outside/secret")],
        [("top/a", HARD, "/etc/passwd")],
        [("top/l", LINK, "../../outside/secret"), ("top/a", HARD, "top/l")],
        [("top/l", LINK, "../../outside"), ("top/a", HARD, "top/l/secret")],
        [("top/device", DEVICE, "")],
        [("top", DIRECTORY, ""), ("other", FILE, "x")],
        [("top", FILE, "x"), ("top/a", FILE, "x")],
        [("top/a/b", FILE, "x"), ("top/a", FILE, "x")],
        [(".", DIRECTORY, "")],
        [],
    ],
)
def test_what_is_hostile_is_refused(room: Path, members: list[tuple[str, bytes, str]]) -> None:
    for links in ("refuse", "skip", "keep"):
        with pytest.raises(Refused):
            unpack(archive(*members), room / "new", links=links)
        assert list(room.iterdir()) == []
        assert untouched(room)


def test_the_last_of_one_name_counts_and_no_link_is_written_through(room: Path) -> None:
    unpack(
        archive(
            ("top/a", LINK, "../../outside/secret"),
            ("top/a", FILE, "mine"),
            ("top/b", FILE, "first"),
            ("top/b", FILE, "second"),
        ),
        room / "new",
    )
    assert (room / "new/a").read_text() == "mine"
    assert (room / "new/b").read_text() == "second"
    assert untouched(room)


def test_links_that_lead_out(room: Path) -> None:
    def made() -> io.BytesIO:
        return archive(
            ("top/ok", FILE, "x"),
            ("top/inside", LINK, "ok"),
            ("top/absolute", LINK, "/etc/passwd"),
            ("top/up", LINK, "../../outside"),
            ("top/through", LINK, "up/secret"),
        )

    with pytest.raises(Refused, match="leads out") as caught:
        unpack(made(), room / "new")
    assert "links='skip'" in (caught.value.hint or "")
    assert list(room.iterdir()) == []
    unpack(made(), room / "skipped", links="skip")
    assert sorted(os.listdir(room / "skipped")) == ["inside", "ok"]
    unpack(made(), room / "kept", links="keep")
    assert sorted(os.listdir(room / "kept")) == ["absolute", "inside", "ok", "through", "up"]
    assert os.readlink(room / "kept/absolute") == "/etc/passwd"
    with pytest.raises(ValueError, match="refuse"):
        unpack(made(), room / "x", links="all")


def test_one_link_alone(room: Path) -> None:
    for links in ("refuse", "skip"):
        with pytest.raises(Refused):
            unpack(archive(("top", LINK, "file")), room / "new", links=links)
    unpack(archive(("top", LINK, "file")), room / "new", links="keep")
    assert os.readlink(room / "new") == "file"


def test_modes_have_no_set_user_id_and_the_owner_can_read(room: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, mode in (("top/suid", 0o6755), ("top/closed", 0)):
            member = tarfile.TarInfo(name)
            member.mode = mode
            tar.addfile(member)
    out.seek(0)
    unpack(out, room / "new")
    assert (room / "new/suid").stat().st_mode & 0o7777 == 0o755
    assert (room / "new/closed").stat().st_mode & 0o7777 == 0o600


def test_a_file_is_replaced_and_a_directory_is_not(room: Path) -> None:
    (room / "file").write_text("old")
    unpack(archive(("top", FILE, "new")), room / "file")
    assert (room / "file").read_text() == "new"
    (room / "directory").mkdir()
    with pytest.raises(FileExistsError):
        unpack(archive(("top/a", FILE, "x")), room / "directory")
    with pytest.raises(IsADirectoryError):
        unpack(archive(("top", FILE, "x")), room / "directory")
    # A link that is there is replaced, and where it leads stays.
    (room / "link").symlink_to(room.parent / "outside/secret")
    unpack(archive(("top", FILE, "new")), room / "link")
    assert not (room / "link").is_symlink()
    assert untouched(room)


def test_a_limit_of_bytes(room: Path) -> None:
    members = (("top/a", FILE, "x" * 60), ("top/b", FILE, "x" * 60))
    with pytest.raises(LimitExceeded):
        unpack(archive(*members), room / "new", max_bytes=119)
    assert list(room.iterdir()) == []
    unpack(archive(*members), room / "new", max_bytes=120)


def test_half_an_archive_is_none(room: Path) -> None:
    whole = archive(("top/a", FILE, "x" * 5000), ("top/b", FILE, "x" * 5000)).getvalue()
    # In a header or in a content. Between two members `check` has to know that more was to come.
    for length in (0, 100, 512, 3000, 8000):
        with pytest.raises(Refused):
            unpack(io.BytesIO(whole[:length]), room / "new")
        assert list(room.iterdir()) == []


class Late(Exception):
    """The transfer failed."""


def test_what_failed_on_the_way_is_raised(room: Path) -> None:
    def fail() -> None:
        raise Late

    for stream in (archive(("top", FILE, "x")), io.BytesIO(b"")):
        with pytest.raises(Late):
            unpack(stream, room / "new", check=fail)
        assert list(room.iterdir()) == []


NAMES = st.sampled_from(["a", "b", "c"])
PLACES = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/".join(["top", *parts]))
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", ".", "top", ""]), min_size=1, max_size=5)
MEMBERS = st.lists(
    st.one_of(
        st.tuples(PLACES, st.just(LINK), TARGETS.map("/".join).filter(bool)),
        st.tuples(PLACES, st.just(FILE), st.just("content")),
        st.tuples(PLACES, st.just(DIRECTORY), st.just("")),
        st.tuples(PLACES, st.just(HARD), PLACES),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=400, deadline=None)
@given(members=MEMBERS)
def test_no_link_of_what_was_made_leads_out(
    members: list[tuple[str, bytes, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    room = tmp_path_factory.mktemp("room") / "room"
    room.mkdir()
    target = room / "new"
    try:
        unpack(archive(*members), target, links="skip")
    except Refused:
        assert list(room.iterdir()) == []
        return
    inside = os.path.realpath(target)
    assert os.listdir(room) == ["new"]
    for directory, directories, files in os.walk(target):
        for name in directories + files:
            path = os.path.join(directory, name)
            try:
                os.stat(path)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    # It leads nowhere, and `realpath` answers what it likes.
                    continue
            real = os.path.realpath(path)
            assert real == inside or real.startswith(inside + os.sep)


def test_links_by_themselves() -> None:
    links = {
        ("top", "a"): "b",
        ("top", "b"): "../top/c",
        ("top", "d", "e"): "..",
        ("top", "d", "f"): "e/../x",
        ("top", "loop"): "loop",
        ("top", "ping"): "pong",
        ("top", "pong"): "ping",
    }
    out = {place for place in links if leads_out(place, links, "top")}
    assert out == {("top", "b"), ("top", "a"), ("top", "d", "f")}
