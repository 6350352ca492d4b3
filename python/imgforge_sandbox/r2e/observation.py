"""What an agent is told after an action."""

from __future__ import annotations

from typing import Any, Optional

from .action import Action

CONTINUE_MSG = (
    "\nYou forgot to use a function call in your response. \n"
    "YOU MUST USE A FUNCTION CALL IN EACH RESPONSE.\n\n"
    "IMPORTANT: YOU SHOULD NEVER ASK FOR HUMAN HELP.\n"
)
"""What an agent is told whose answer has no function, letter by letter as R2E-Gym has it."""

FINISHED_MSG = "<<< Finished >>>"
"""What an agent is told after `finish` and `submit`."""

_DIVIDER = "-" * 50


class Observation:
    """The output of an action, its exit code, and the action itself.

    `str()` is what the agent reads. The output of `execute_bash` and `bash` has the exit code
    before it, and of more than twice `num_lines` lines the first and the last `num_lines`.
    """

    def __init__(
        self, bash_output: Optional[str], error_code: Any, action: Action, num_lines: int = 40
    ) -> None:
        self.bash_output = bash_output
        self.error_code = error_code
        self.action = action
        self.num_lines = num_lines

    def __str__(self) -> str:
        name = self.action.function_name
        if not name:
            return CONTINUE_MSG
        if name in ("finish", "submit"):
            return FINISHED_MSG
        if name in ("execute_bash", "bash"):
            return (
                f"Exit code: {self.error_code}\nExecution output of [{name}]:\n{self._shortened()}"
            )
        return f"Execution output of [{name}]:\n{self.bash_output}"

    def _shortened(self) -> Optional[str]:
        lines = self.bash_output.splitlines() if self.bash_output else []
        if len(lines) <= 2 * self.num_lines:
            return self.bash_output
        # As R2E-Gym cuts: `[-0:]` is everything, so 0 lines are no cut at the end.
        return "\n".join(
            [
                "\n".join(lines[: self.num_lines]),
                _DIVIDER,
                "<Observation truncated in middle for saving context>",
                _DIVIDER,
                "\n".join(lines[-self.num_lines :]),
            ]
        )
