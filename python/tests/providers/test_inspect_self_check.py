"""Inspect's own checks of a sandbox, on ours."""

from __future__ import annotations

from typing import AsyncIterator

import pytest
import pytest_asyncio
from inspect_ai.util import SandboxEnvironment
from inspect_ai.util._concurrency import init_concurrency
from inspect_ai.util._sandbox.registry import registry_find_sandboxenv
from inspect_ai.util._sandbox.self_check import *  # noqa: F403  # pyright: ignore[reportWildcardImportFromLibrary]
from inspect_ai.util._subprocess import init_max_subprocesses

from imgforge_sandbox.inspect import ImgforgeConfig

ROOT = ImgforgeConfig(dataset="demo", instance_id="imgforge__abacus-1")
USER = ROOT.model_copy(update={"user": "nobody", "workdir": "/tmp"})

EXPECTED = {
    "test_write_text_file_without_permissions": "root writes what nobody may write",
    "test_write_binary_file_without_permissions": "root writes what nobody may write",
}
"""What cannot pass where commands run as root."""


@pytest_asyncio.fixture(
    loop_scope="module", scope="module", params=[ROOT, USER], ids=["root", "user"]
)
async def environment(
    binary: str, request: pytest.FixtureRequest
) -> AsyncIterator[SandboxEnvironment]:
    # It is found by its name: the entry point of the package is part of what is tested.
    provider = registry_find_sandboxenv("imgforge")
    init_concurrency()
    init_max_subprocesses()
    await provider.task_init("checks", request.param)
    environments = await provider.sample_init("checks", request.param, {})
    yield environments["default"]
    await provider.sample_cleanup("checks", request.param, environments, False)
    await provider.task_cleanup("checks", request.param, True)


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox_env(
    environment: SandboxEnvironment, request: pytest.FixtureRequest
) -> AsyncIterator[SandboxEnvironment]:
    init_concurrency()
    init_max_subprocesses()
    reason = EXPECTED.get(request.node.originalname)
    if reason and request.node.callspec.params["environment"] is ROOT:
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    yield environment
