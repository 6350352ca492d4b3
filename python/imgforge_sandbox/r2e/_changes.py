"""What an agent changed, as a patch for another box of the same image."""

from __future__ import annotations

import secrets
from typing import Sequence

from .._errors import CommandFailed, InfraError
from ._box import Box

_BASE = "refs/imgforge/base"


def note_base(box: Box) -> str:
    """Notes how the repository is now, and returns its name. Its index is not touched.

    An image may have changes that are in no commit, and an agent may commit: what it changed is
    the difference to this, and to no commit.
    """
    tree = _tree(box)
    box.git(f"git update-ref {_BASE} {tree}")
    return tree


def changes(box: Box, base: str, without: Sequence[str] = ()) -> bytes:
    """Returns the patch from `base` to now. The bytes are exact.

    What git ignores is not in it, and neither is what is below the paths `without`.
    """
    left_out = " ".join(f"':(top,exclude){path}'" for path in without)
    try:
        return box.git(
            "git diff --binary --no-color --no-ext-diff --no-textconv --no-renames "
            f"--src-prefix=a/ --dst-prefix=b/ {base} {_tree(box)} -- ':(top)' {left_out}"
        )
    except CommandFailed as error:
        raise InfraError(
            f"the changes cannot be read: {error.message}",
            hint="the repository is damaged, or its objects were removed",
        ) from error


def carry(patch: bytes, box: Box) -> None:
    """Applies a patch of `changes` in another box. Raises `InfraError` where it does not apply."""
    if not patch:
        return
    try:
        box.git("git apply --whitespace=nowarn -", stdin=patch)
    except CommandFailed as error:
        raise InfraError(
            f"the changes do not apply to a new box of the image: {error.message}",
            hint="two boxes of one image have to be equal: is something made when it starts?",
        ) from error


def _tree(box: Box) -> str:
    """Writes what is in the repository as a tree, by an index of its own."""
    index = f"/tmp/imgforge-index-{secrets.token_hex(8)}"
    # git finds its own index as long as no other one is named.
    script = (
        'index="$(git rev-parse --git-path index)" || exit; '
        f'[ ! -e "$index" ] || cp -p "$index" {index} || exit; '
        f"export GIT_INDEX_FILE={index}; git add -A && git write-tree; "
        f"code=$?; rm -f {index} {index}.lock; exit $code"
    )
    return box.git(script).decode().strip()
