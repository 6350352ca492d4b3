"""What tests name. It is no `conftest`: of these there may be several."""

from __future__ import annotations

from imgforge_sandbox import Instance

INSTANCE = Instance("demo", "imgforge__abacus-1")
"""An instance of the dataset that is in the program."""
