"""Brings a repository into the sandbox.

On this host it is read as files, by this program: no git runs, and neither the repository's
configuration nor its hooks go along. What is cloned has the commit and what came before it, no
later commit, branch or reflog.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import List, Optional

# $1 the source, $2 the new repository, $3 the commit, $4 how many commits, or nothing.
CLONE = r"""
set -eu
source=$1 target=$2 commit=$3 depth=$4
export GIT_TERMINAL_PROMPT=0 GIT_PROTOCOL_FROM_USER=1
if [ -e "$target" ] && [ -n "$(ls -A "$target")" ]; then
    echo "fatal: destination path '$target' already exists and is not an empty directory" >&2
    exit 128
fi
format=
case $source in
/*)
    format=$(git --git-dir="$source" rev-parse --show-object-format 2>/dev/null || echo sha1)
    commit=$(git --git-dir="$source" rev-parse --verify --quiet "$commit^{commit}") || {
        echo "fatal: commit '$3' is not in the repository" >&2
        exit 128
    }
    ;;
esac
if [ "$format" = sha256 ]; then
    git init -q --object-format=sha256 "$target"
else
    git init -q "$target"
fi
git -C "$target" fetch -q --no-tags ${depth:+--depth "$depth"} "$source" "$commit"
git -C "$target" -c advice.detachedHead=false checkout -q --detach FETCH_HEAD
if [ -z "$depth" ] && [ "${source#/}" != "$source" ]; then
    tags=$(git --git-dir="$source" for-each-ref --merged "$commit" \
        --format='%(refname):%(refname)' refs/tags)
    [ -z "$tags" ] || git -C "$target" fetch -q --no-tags "$source" $tags
fi
rm -f "$target/.git/FETCH_HEAD"
git -C "$target" rev-parse HEAD
"""

_REMOTE = re.compile(r"(https?|git|ssh)://|[\w.-]+@[\w.-]+:")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_remote(repo: str) -> bool:
    """Tells whether a repository is named by a URL that only a network reaches."""
    return _REMOTE.match(repo) is not None


def find(repo: str, mirrors: Optional[Path]) -> Path:
    """Finds the git directory of a repository of this host: a path, or a name in `mirrors`.

    Raises `FileNotFoundError`, and `ValueError` for what cannot be brought in.
    """
    repo = repo[len("file://") :] if repo.startswith("file://") else repo
    tried: List[Path] = [Path(repo)]
    if mirrors is not None and _NAME.fullmatch(repo) and ".." not in repo.split("/"):
        owner, name = repo.split("/")
        tried += [mirrors / f"{owner}__{name}.git", mirrors / owner / f"{name}.git"]
        tried += [mirrors / owner / name]
    for path in tried:
        for directory in (path / ".git", path):
            if (directory / "objects").is_dir() and (directory / "HEAD").exists():
                _check(directory)
                return directory
        if (path / ".git").is_file():
            raise ValueError(f"{path} is a work tree of another repository: name that one")
    where = "" if mirrors is None else f", and none in {mirrors}"
    raise FileNotFoundError(
        f"there is no repository {repo!r}{where}; give a path of this host, or the directory of "
        "mirrors as SandboxExecutor(mirrors=…)"
    )


def _check(directory: Path) -> None:
    if directory.is_symlink():
        raise ValueError(f"{directory} is a symbolic link: name the directory that it leads to")
    if (directory / "objects" / "info" / "alternates").exists():
        raise ValueError(
            f"{directory} borrows objects of other repositories: make one of its own of it, with "
            "`git clone --mirror --no-local`"
        )
    if (directory / "reftable").exists():
        raise ValueError(
            f"{directory} keeps its references as a reftable: make a mirror with files of it, with "
            "`git clone --mirror --ref-format=files`"
        )


def parts(directory: Path) -> List[str]:
    """Names what of a git directory is brought in: objects and references, no configuration."""
    names = []
    for name in ("objects", "refs", "packed-refs", "HEAD", "shallow"):
        try:
            mode = os.lstat(directory / name).st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            names.append(name)
    return names


def configuration(directory: Path) -> str:
    """Returns the configuration of the source in the sandbox."""
    text = "[core]\n\trepositoryformatversion = {}\n\tbare = true\n"
    text += "[uploadpack]\n\tallowAnySHA1InWant = true\n"
    if _is_sha256(directory):
        return text.format(1) + "[extensions]\n\tobjectformat = sha256\n"
    return text.format(0)


def _is_sha256(directory: Path) -> bool:
    """Tells the format of the names of objects, from the names of packs, objects or commits."""
    pack = directory / "objects" / "pack"
    names = [path.name for path in pack.glob("pack-*.idx")] if pack.is_dir() else []
    if any(len(name) == len("pack-.idx") + 64 for name in names):
        return True
    for loose in (directory / "objects").glob("[0-9a-f][0-9a-f]/*"):
        return len(loose.name) == 62
    return False
