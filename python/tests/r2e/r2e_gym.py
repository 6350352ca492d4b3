"""R2E-Gym itself, to compare with. `R2E_GYM` names its checkout (the directory that has `src`).

It is not on PyPI, and imports much that it does not need for what is compared here: what of that
is not installed is a stub. PyYAML, simple-parsing, pydantic and swebench (3.0.2) have to be
installed.

Two states were compared: 69bc953, the first release, and fa83e02 of a fork, a later one, whose
interface this package has. What only the first one does is left out where `is_first` is asked:
`submit` and `bash` are tools like others, a test that nobody expects is a KeyError, and there is
no SWE-smith.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Set, Tuple
from unittest.mock import MagicMock

import pytest

# What R2E-Gym and swebench import, and what no compared function uses.
UNUSED = {
    *["bs4", "datasets", "docker", "dotenv", "fire", "ghapi", "git", "gym", "huggingface_hub"],
    *["kubernetes", "modal", "numpy", "openai", "requests", "rich", "tenacity", "tqdm"],
    *["transformers", "unidiff", "litellm", "fastcore", "modal_proto", "grpclib"],
}


class _Stubs(importlib.abc.MetaPathFinder):
    def __init__(self) -> None:
        self.stubs: Set[str] = set()

    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]],
        target: Optional[types.ModuleType] = None,
    ) -> Optional[importlib.machinery.ModuleSpec]:
        # A package that is installed keeps what it has, and what it has not.
        package, dot, _ = fullname.partition(".")
        if package not in (self.stubs if dot else UNUSED):
            return None
        self.stubs.add(package)
        loader: Any = _StubLoader()
        return importlib.machinery.ModuleSpec(fullname, loader, is_package=True)


class _StubLoader:
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        module: Any = types.ModuleType(spec.name)
        module.__getattr__ = _stub
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Kind(type):
    def __getattr__(cls, name: str) -> Any:
        return _stub(name)


class _Anything(metaclass=_Kind):
    """Classes are derived from it, functions are decorated with it, and it has every attribute."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **_: Any) -> Any:
        return arguments[0] if len(arguments) == 1 else self

    def __getattr__(self, name: str) -> Any:
        return _stub(name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def _stub(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (_Anything,), {})


class R2EGym:
    """The classes of R2E-Gym that are compared."""

    def __init__(self, source: Path) -> None:
        sys.path.insert(0, str(source))
        # Behind all others: what is installed is used.
        sys.meta_path.append(_Stubs())
        self.source = source / "r2egym"
        self.tools = self.source / "agenthub" / "tools"
        self.Action = importlib.import_module("r2egym.agenthub.action").Action
        self.Observation = importlib.import_module("r2egym.agenthub.observation").Observation
        self.commands = importlib.import_module("r2egym.agenthub.agent.commands")
        self.logs = importlib.import_module("r2egym.repo_analysis.execution_log_parser")
        self.runtime = importlib.import_module("r2egym.agenthub.runtime.docker")
        self.is_first = not hasattr(self.runtime.DockerRuntime, "_calculate_reward_swesmith")

    def runtime_of(self, row: Dict[str, Any], log: str) -> Any:
        """A runtime whose commands print `log`, without a container."""
        runtime = object.__new__(self.runtime.DockerRuntime)
        runtime.ds = row
        runtime.repo_name = row.get("repo_name", "")
        runtime.alt_path = "/root"
        runtime.swebench_verified = False
        runtime.swesmith = "image_name" in row
        runtime.logger = logging.getLogger("r2e-gym")
        runtime.logger.disabled = True
        runtime.run = MagicMock(return_value=(log, "0"))
        return runtime


def load() -> R2EGym:
    """Returns R2E-Gym, or skips the test where `R2E_GYM` does not name it."""
    place = os.environ.get("R2E_GYM")
    if not place:
        pytest.skip("needs a checkout of R2E-Gym, named in R2E_GYM")
    with warnings.catch_warnings():
        # It has warnings of its own when it is compiled.
        warnings.simplefilter("ignore")
        return R2EGym(Path(place) / "src")


def outcome(function: Callable[..., Any], *arguments: Any) -> Tuple[str, Any]:
    """What a function returns, or the kind of exception that it raises."""
    try:
        return "returned", function(*arguments)
    except Exception as error:
        return "raised", type(error).__name__
