"""What the tests of the executor share: real sandboxes, and repositories made by git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Mapping, Optional

from imgforge_sandbox import Client, Instance
from imgforge_sandbox.executor import SandboxExecutor

ROOT = os.geteuid() == 0
"""Root gets control groups; a plain user has to take a sandbox without them."""


def image_of(client: Client) -> str:
    """An image with git, Python and pytest: IMGFORGE_EXECUTOR_IMAGE, or that of the demo."""
    named = os.environ.get("IMGFORGE_EXECUTOR_IMAGE")
    if named:
        return named
    with client.start(instance=Instance("demo", "imgforge__abacus-1")) as session:
        return session.image


def executor(client: Client, image: str, **settings: Any) -> SandboxExecutor:
    """Makes an executor; as a plain user one whose limits need not be enforced."""
    settings = {"memory_limit": "512m", "unenforced": not ROOT, "client": client, **settings}
    return SandboxExecutor(image, **settings)


def git(directory: Path, *arguments: str, env: Optional[Mapping[str, str]] = None) -> str:
    """Runs git of this host, without settings of anybody."""
    clean = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        **(env or {}),
    }
    done = subprocess.run(
        ["git", "-C", str(directory), *arguments], env=clean, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def repository(directory: Path, files: Mapping[str, str], *options: str) -> str:
    """Makes a repository with one commit of these files, and returns the commit."""
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init", "-q", *options)
    return commit(directory, files)


def commit(directory: Path, files: Mapping[str, str]) -> str:
    """Commits these files, and returns the commit."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "--allow-empty", "-m", "c")
    return git(directory, "rev-parse", "HEAD")
