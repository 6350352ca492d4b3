"""What the tests of `imgforge_sandbox.r2e` share."""

from __future__ import annotations

import pytest
import r2e_gym


@pytest.fixture(scope="session")
def theirs() -> r2e_gym.R2EGym:
    """R2E-Gym itself; the test is skipped where it is not there."""
    return r2e_gym.load()
