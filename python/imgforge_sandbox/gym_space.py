"""A space of Gymnasium that has texts: any that can be written as UTF-8."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np
from gymnasium import spaces

# Without letters that shells and terminals take for something else.
_SAMPLED = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789äéλж漢🙂"))


class Utf8(spaces.Space[str]):
    """All texts of up to `max_length` characters, without lone surrogates.

    With `nul=False` also without the character U+0000, which no argument of a program can have. A
    sample is a few words that are the name of no program. `spaces.Text` has a list of its
    characters; of all of Unicode that would be 1.1 million.
    """

    def __init__(
        self,
        max_length: int,
        *,
        nul: bool = True,
        seed: Optional[Union[int, np.random.Generator]] = None,
    ) -> None:
        super().__init__(dtype=np.str_, seed=seed)
        self.max_length = max_length
        self.nul = nul

    @property
    def is_np_flattenable(self) -> bool:
        """It is not."""
        return False

    def sample(self, mask: Optional[Any] = None, probability: Optional[Any] = None) -> str:
        """Returns some words. There are no masks."""
        if mask is not None or probability is not None:
            raise ValueError("`Utf8` has no masks")
        words = [
            "".join(self.np_random.choice(_SAMPLED, size=8))
            for _ in range(int(self.np_random.integers(1, 5)))
        ]
        return " ".join(words)[: self.max_length]

    def contains(self, x: Any) -> bool:
        """Says whether it is such a text."""
        if not isinstance(x, str) or len(x) > self.max_length or (not self.nul and "\0" in x):
            return False
        try:
            x.encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Utf8)
            and self.max_length == other.max_length
            and self.nul == other.nul
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Utf8({self.max_length}{'' if self.nul else ', nul=False'})"
