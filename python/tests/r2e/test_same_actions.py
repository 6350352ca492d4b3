"""R2E-Gym's actions and observations, and those of this package, side by side.

Exact mode gives what R2E-Gym gives, on some thousand generated inputs. Fixed mode differs, and
every difference has a name here: one without a name fails, and a name that nothing has fails too.
"""

from __future__ import annotations

import random
import re
from typing import Set

from imgforge_sandbox.r2e import Action, Observation
from r2e.r2e_gym import R2EGym, outcome

ACTIONS = [
    *["<function=f>", "<function = g >", "<function=finish>", "<function=submit>", "<function=>"],
    *[
        "</function>",
        "<parameter=a>",
        "<parameter = command >",
        "<parameter=b;rm -rf>",
        "<parameter=>",
    ],
    *[
        "<parameter=\n>",
        "</parameter>",
        "</parameter>",
        "x",
        " ",
        "\n",
        "it's",
        "$(id)",
        "é",
        "\0",
        "-",
    ],
    *["<parameter=c>v</parameter>", "<parameter=a>\n w \n</parameter>", "<function=a b>", "\ud800"],
]


def test_actions(theirs: R2EGym) -> None:
    chance = random.Random(1)
    named: Set[str] = set()
    for _ in range(5_000):
        text = "".join(chance.choice(ACTIONS) for _ in range(chance.randint(1, 10)))
        their = theirs.Action.from_string(text)
        exact = Action.from_string(text, compat="exact")
        fixed = Action.from_string(text)
        assert exact.to_dict() == their.to_dict()
        assert str(exact) == str(their)
        shell = outcome(their.to_bashcmd)
        if theirs.is_first and their.function_name == "submit":
            assert exact.to_bashcmd() == "echo '<<<Finished>>>'"
            continue
        assert outcome(exact.to_bashcmd) == shell

        if fixed.to_dict() != their.to_dict():
            if not their.function_name:
                named.add("parameters without a function are no action")
                continue
            named.add("only the first block is read")
            before, behind = re.split(r"<function\s*=\s*[^>]+>", text, maxsplit=1)
            assert "<parameter" in before or "</function>" in behind or "<function" in behind, text
            continue
        found = outcome(fixed.to_bashcmd)
        if found != shell:
            assert found == ("raised", "ValueError"), text
            bad_key = any(not re.fullmatch(r"[A-Za-z_][\w-]*", key) for key in fixed.parameters)
            named.add("a key that is none is refused" if bad_key else "what is no text is refused")
            assert bad_key or "\0" in text or "\ud800" in text, text
    assert named == {
        "parameters without a function are no action",
        "only the first block is read",
        "a key that is none is refused",
        "what is no text is refused",
    }


def test_observations(theirs: R2EGym) -> None:
    chance = random.Random(2)
    names = ["", "finish", "submit", "execute_bash", "bash", "search", "finish_later"]
    for _ in range(3_000):
        ends = chance.choice(["\n", "\r\n", "\r", "\x0b", "\u2028", "\n\n"])
        output = chance.choice([None, "", ends.join(str(n) for n in range(chance.randint(0, 120)))])
        code = chance.choice(["0", 0, -1, "-1", "Error: Exit code 3", None])
        name, lines = chance.choice(names), chance.choice([40, 40, 0, 1, 7])
        ours = str(Observation(output, code, Action(name, {}), lines))
        their = str(theirs.Observation(output, code, theirs.Action(name, {}), lines))
        if theirs.is_first and name in ("submit", "bash"):
            continue
        assert ours == their
