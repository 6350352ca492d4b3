"""The two ways in which the classes of this package behave."""

from __future__ import annotations

from typing import Any, Literal, cast

Compat = Literal["fixed", "exact"]
"""`"fixed"` corrects what R2E-Gym does wrong, `"exact"` does as R2E-Gym does."""


def compat_of(value: Any) -> Compat:
    """Returns `value` where it names a way; raises `ValueError` where it does not."""
    if value not in ("fixed", "exact"):
        raise ValueError(f'compat is {value!r}: it is "fixed" or "exact"')
    return cast(Compat, value)
