"""Sessions of imgforge: containers that live while you run commands in them.

from imgforge_sandbox import Client

with Client() as client, client.start(image="debian:12") as session:
    print(session.run("uname -a").text)
"""

from __future__ import annotations

import logging

from ._binary import find_binary
from ._errors import (
    BinaryNotFound,
    CommandFailed,
    ConnectionLost,
    ImgforgeError,
    InfraError,
    InvalidRequest,
    LimitExceeded,
    NoSuchCheckpoint,
    NoSuchExec,
    NoSuchImage,
    NoSuchInstance,
    NoSuchPath,
    NoSuchSession,
    NoSuchShell,
    NoSuchSmoke,
    NotFound,
    NoVerdict,
    ProtocolError,
    Refused,
    SessionEnded,
    Unsupported,
    VersionMismatch,
)
from ._progress import Progress, log_progress
from ._version import __version__
from .client import Client, connect
from .process import Process
from .results import (
    Access,
    Change,
    Checkpoint,
    Entry,
    ExecResult,
    Grade,
    Instance,
    Port,
    SessionInfo,
    ShellResult,
    StartInfo,
    Stat,
)
from .session import Session
from .shell import Shell

# A library says nothing unless its user has asked for it.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "Access",
    "BinaryNotFound",
    "Change",
    "Checkpoint",
    "Client",
    "CommandFailed",
    "ConnectionLost",
    "Entry",
    "ExecResult",
    "Grade",
    "ImgforgeError",
    "InfraError",
    "Instance",
    "InvalidRequest",
    "LimitExceeded",
    "NoSuchCheckpoint",
    "NoSuchExec",
    "NoSuchImage",
    "NoSuchInstance",
    "NoSuchPath",
    "NoSuchSession",
    "NoSuchShell",
    "NoSuchSmoke",
    "NoVerdict",
    "NotFound",
    "Port",
    "Process",
    "Progress",
    "ProtocolError",
    "Refused",
    "Session",
    "SessionEnded",
    "SessionInfo",
    "Shell",
    "ShellResult",
    "StartInfo",
    "Stat",
    "Unsupported",
    "VersionMismatch",
    "__version__",
    "connect",
    "find_binary",
    "log_progress",
]
