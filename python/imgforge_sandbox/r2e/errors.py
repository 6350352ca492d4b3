"""What is raised where there is no reward.

A reward says something about what an agent did. Where the tests did not run to their end, nobody
knows it, and a reward of 0 would be a guess.
"""

from __future__ import annotations

from .._errors import InfraError


class TimedOut(InfraError):
    """The tests did not end within their time. `log` is what they printed until then."""

    def __init__(self, seconds: float, log: str) -> None:
        super().__init__(
            f"the tests did not end within {seconds:g} s: there is no reward",
            hint="give them more time (reward_timeout), or leave the row out",
        )
        self.seconds = seconds
        self.log = log


class OutOfMemory(InfraError):
    """The tests had too little memory. `log` is what they printed until then."""

    def __init__(self, log: str) -> None:
        super().__init__(
            "the tests used up the memory: there is no reward",
            hint="give the session more (memory=…), or leave the row out",
        )
        self.log = log
