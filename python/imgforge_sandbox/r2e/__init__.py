"""The interface of R2E-Gym, over sessions of imgforge.

    from imgforge_sandbox.r2e import Action, EnvArgs, RepoEnv

`compat="fixed"`, the default, has R2E-Gym's names and shapes, and corrects what it does wrong.
`compat="exact"` does as R2E-Gym does, for comparing the two.
"""

from .action import Action
from .commands import Command, CommandFileError, ParseCommandBash
from .env import EnvArgs, RepoEnv
from .errors import OutOfMemory, TimedOut
from .observation import CONTINUE_MSG, Observation
from .reward import reward_r2e, reward_swebench, reward_swesmith
from .runtime import DockerRuntime

__all__ = [
    "CONTINUE_MSG",
    "Action",
    "Command",
    "CommandFileError",
    "DockerRuntime",
    "EnvArgs",
    "Observation",
    "OutOfMemory",
    "ParseCommandBash",
    "RepoEnv",
    "TimedOut",
    "reward_r2e",
    "reward_swebench",
    "reward_swesmith",
]
