"""The exceptions of the executor."""

from __future__ import annotations

from .._errors import InfraError


class SandboxUnavailable(InfraError):
    """There is no sandbox, or not one with the limits that were asked for.

    Nothing was run, least of all on this host.
    """


class SandboxEnded(InfraError):
    """The sandbox of an earlier call has ended, and its workspace with it.

    `clone_repo` starts the next one.
    """
