"""What the tests of `imgforge_sandbox.r2e` share."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from imgforge_sandbox import Checkpoint, Client
from r2e import images, r2e_gym


@pytest.fixture(scope="session")
def theirs() -> r2e_gym.R2EGym:
    """R2E-Gym itself; the test is skipped where it is not there."""
    return r2e_gym.load()


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A client of the program that IMGFORGE_BIN names."""
    if not os.environ.get("IMGFORGE_BIN"):
        if os.environ.get("CI"):
            pytest.fail("IMGFORGE_BIN names no program `imgforge`")
        pytest.skip("needs the program imgforge, named in IMGFORGE_BIN")
    with Client(engine=os.environ.get("IMGFORGE_ENGINE", "embedded")) as client:
        yield client


def image_of(client: Client, made: Checkpoint) -> Iterator[str]:
    """Gives the name of a checkpoint, and removes it in the end."""
    yield made.image
    client.remove_checkpoint(made)


@pytest.fixture(scope="session")
def r2e_image(client: Client) -> Iterator[str]:
    yield from image_of(client, images.r2e_image(client))


@pytest.fixture(scope="session")
def swebench_image(client: Client) -> Iterator[str]:
    yield from image_of(client, images.swebench_image(client))


@pytest.fixture(scope="session")
def swesmith_image(client: Client) -> Iterator[str]:
    yield from image_of(client, images.swesmith_image(client))
