"""Unpacks an archive that came out of a session, whoever made what is in it.

Nothing is written outside of the destination, whatever the names and links in the archive are:
unpacking happens in a new directory of its own, nothing is written through a link, and what the
destination was stays as it was until all is there.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Callable, Optional

from ._errors import LimitExceeded, Refused

MOST_LINKS = 40
"""How many links lead on from one to the next, before the kernel gives up."""

Links = str
"""What happens to links that lead out: `refuse`, `skip` or `keep`."""


def unpack(
    stream: IO[bytes],
    target: Path,
    *,
    links: Links = "refuse",
    max_bytes: Optional[int] = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Unpacks the one file or directory in an archive as `target`.

    A file is replaced at once; a directory must not be there. The owner is this user, modes have no
    set-user-id, times stay. `max_bytes` counts the contents of files. `check` is called before the
    result is put into its place: it raises where the archive is not all of it.

    Raises `FileExistsError`, `IsADirectoryError`, `Refused` for what is hostile or no archive, and
    `LimitExceeded`. Then nothing of it is left.
    """
    if links not in ("refuse", "skip", "keep"):
        raise ValueError(f"links={links!r}: it is `refuse`, `skip` or `keep`")
    target = Path(os.path.abspath(target))
    with tempfile.TemporaryDirectory(prefix=".imgforge-", dir=target.parent) as directory:
        root = Path(directory) / "root"
        root.mkdir()
        try:
            top = _Unpacking(root, max_bytes).all(stream)
        except (tarfile.TarError, EOFError, UnicodeError, OverflowError) as error:
            check()
            raise Refused(f"what came is no whole archive: {error}") from error
        except ValueError as error:
            raise Refused(
                f"the archive has a name or number that is not allowed: {error}"
            ) from error
        check()
        if top is None:
            raise Refused("the archive is empty")
        if links != "keep":
            _leave_out_links(root, top, links)
        _put(root / top, target)


def _put(made: Path, target: Path) -> None:
    """Puts what was made into its place, in one step."""
    if not os.path.lexists(made):
        raise Refused(
            f"{target.name} is a link that leads elsewhere", hint="`links='keep'` copies links"
        )
    is_directory = stat.S_ISDIR(os.lstat(made).st_mode)
    if is_directory and os.path.lexists(target):
        raise FileExistsError(f"{target} is there already: name a directory that is not")
    if not is_directory and target.is_dir() and not target.is_symlink():
        raise IsADirectoryError(f"{target} is a directory: name the file in it")
    os.rename(made, target)


class _Unpacking:
    """An archive on its way into a new directory."""

    def __init__(self, root: Path, max_bytes: Optional[int]) -> None:
        self._root = root
        self._left = max_bytes
        self._directories: list[tuple[Path, tarfile.TarInfo]] = []

    def all(self, stream: IO[bytes]) -> Optional[str]:
        """Unpacks all of it; returns the name of the one thing at its top."""
        top: Optional[str] = None
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                names = _names(member.name)
                if not names:
                    # The archive of `/` has no name at its top.
                    names = ["."]
                if names[0] == "." or (top is not None and names[0] != top):
                    raise Refused(
                        f"the archive has {member.name!r} beside what was asked for",
                        hint="get a directory below the root",
                    )
                top = names[0]
                self._one(archive, member, names)
        # The times of directories, when nothing is put into them any more.
        for path, member in reversed(self._directories):
            os.chmod(path, member.mode & 0o777 | 0o700)
            _set_time(path, member)
        return top

    def _one(self, archive: tarfile.TarFile, member: tarfile.TarInfo, names: list[str]) -> None:
        path = self._place(names, member)
        if member.isdir():
            if not os.path.lexists(path):
                os.mkdir(path, 0o700)
            elif not stat.S_ISDIR(os.lstat(path).st_mode):
                raise _hostile(member, "is a directory and something else")
            self._directories.append((path, member))
            return
        if os.path.lexists(path):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                raise _hostile(member, "is a directory and something else")
            os.unlink(path)
        if member.isfile():
            self._file(archive, member, path)
        elif member.issym():
            os.symlink(member.linkname, path)
        elif member.islnk():
            source = self._place(_names(member.linkname), member)
            if not os.path.lexists(source) or not stat.S_ISREG(os.lstat(source).st_mode):
                raise _hostile(member, f"is a hard link to {member.linkname!r}, which is no file")
            os.link(source, path, follow_symlinks=False)
        elif member.isfifo():
            os.mkfifo(path, 0o600)
        else:
            raise _hostile(member, "is a device")

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        if self._left is not None:
            self._left -= member.size
            if self._left < 0:
                raise LimitExceeded(
                    f"{member.name!r} makes it longer than `max_bytes`", hint="give it a larger one"
                )
        content = archive.extractfile(member)
        if content is None:
            raise _hostile(member, "has no content")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            shutil.copyfileobj(content, file, 1 << 18)
            os.fchmod(file.fileno(), member.mode & 0o777 | 0o600)
        _set_time(path, member)

    def _place(self, names: list[str], member: tarfile.TarInfo) -> Path:
        """Returns the path of a name, whose directories are directories and no links."""
        path = self._root
        for name in names[:-1]:
            path = path / name
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                os.mkdir(path, 0o700)
                continue
            if not stat.S_ISDIR(mode):
                raise _hostile(member, "goes through what is no directory")
        if not names:
            raise _hostile(member, "has no name")
        return path / names[-1]


def _names(name: str) -> list[str]:
    """Splits a name of an archive. One that leads out is refused."""
    names = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in names or "\0" in name:
        raise Refused(f"the archive has the name {name!r}, which leads out of it")
    return names


def _hostile(member: tarfile.TarInfo, why: str) -> Refused:
    return Refused(f"{member.name!r} of the archive {why}")


def _set_time(path: Path, member: tarfile.TarInfo) -> None:
    os.utime(path, (float(member.mtime), float(member.mtime)), follow_symlinks=False)


def _leave_out_links(root: Path, top: str, links: Links) -> None:
    """Refuses or removes links that lead out of what was unpacked."""
    found: dict[tuple[str, ...], str] = {}
    for directory, directories, files in os.walk(root):
        base = os.path.relpath(directory, root)
        above = () if base == "." else tuple(base.split(os.sep))
        for name in directories + files:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                place = (*above, name)
                found[place] = os.readlink(path)
    for place in found:
        if not leads_out(place, found, top):
            continue
        if links == "refuse":
            name = "/".join(place)
            raise Refused(
                f"{name!r} is a link to {found[place]!r}, which leads out of what is copied",
                hint="`links='skip'` leaves such links out, `links='keep'` copies them: follow "
                "none of them then",
            )
        os.unlink(root.joinpath(*place))


def leads_out(place: tuple[str, ...], links: dict[tuple[str, ...], str], top: str) -> bool:
    """Says whether a link leads out of the directory `top`, by way of other links too.

    `links` has where each link is and where it leads. No file is looked at.
    """
    left = MOST_LINKS
    where: list[str] = list(place[:-1])
    parts = [place[-1]]
    while parts:
        part = parts.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            if len(where) <= 1:
                return True
            where.pop()
            continue
        where.append(part)
        target = links.get(tuple(where))
        if target is None:
            continue
        left -= 1
        if left < 0:
            # The kernel does not follow it either.
            return False
        if target.startswith("/"):
            return True
        where.pop()
        parts = target.split("/") + parts
    return where[:1] != [top]
