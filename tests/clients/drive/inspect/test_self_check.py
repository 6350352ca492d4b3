"""Inspect's own checks of a sandbox, on the one that is called docker."""

import pytest_asyncio
from inspect_ai.util._concurrency import init_concurrency
from inspect_ai.util._sandbox.registry import registry_find_sandboxenv
from inspect_ai.util._sandbox.self_check import *  # noqa: F403
from inspect_ai.util._subprocess import init_max_subprocesses

CONFIGURATION = "compose.yaml"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def project():
    provider = registry_find_sandboxenv("docker")
    await provider.task_init("startup", CONFIGURATION)
    environments = await provider.sample_init("checks", CONFIGURATION, {})
    yield environments["default"]
    await provider.sample_cleanup("checks", CONFIGURATION, environments, False)
    await provider.task_cleanup("startup", CONFIGURATION, True)


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox_env(project):
    init_concurrency()
    init_max_subprocesses()
    yield project
