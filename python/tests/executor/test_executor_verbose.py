"""What `pytest -v` prints."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgforge_sandbox.executor._verbose import read

WORDS = {
    "PASSED": "passed",
    "FAILED": "failed",
    "ERROR": "error",
    "SKIPPED": "skipped",
    "XFAIL": "xfailed",
    "XPASS": "xpassed",
}

# What pytest leaves in an id: it escapes what cannot be printed.
PARAMETERS = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FFF, categories=["L", "N", "P", "S", "Zs"]),
    min_size=1,
    max_size=30,
)
IDS = st.builds(
    lambda name, parameters: f"tests/test_a.py::test_{name}[{parameters}]",
    st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    PARAMETERS,
)


@given(
    tests=st.dictionaries(IDS, st.sampled_from(sorted(WORDS)), max_size=8),
    form=st.sampled_from(["plain", "percent", "colour", "xdist", "colours", "crlf"]),
)
def test_ids_round_trip(tests: dict[str, str], form: str) -> None:
    lines = []
    for number, (test, word) in enumerate(tests.items()):
        reason = " (because)" if word in ("SKIPPED", "XFAIL") else ""
        percent = f" [{number:3d}%]"
        lines.append(
            {
                "plain": f"{test} {word}{reason}",
                "percent": f"{test} {word}{reason}      {percent}",
                "colour": f"{test} \x1b[32m{word}\x1b[0m{reason}\x1b[32m    {percent}\x1b[0m",
                "xdist": f"[gw{number}]{percent} {word} {test} ",
                "colours": f"[gw{number}]\x1b[36m{percent} \x1b[0m\x1b[31m{word}\x1b[0m {test} ",
                "crlf": f"{test} {word}{reason} {percent}\r",
            }[form]
        )
    assert read("\n".join(lines)) == {test: WORDS[word] for test, word in tests.items()}


def test_the_worst_counts() -> None:
    assert read("t.py::a PASSED\nt.py::a ERROR\n") == {"t.py::a": "error"}
    assert read("t.py::a FAILED\nt.py::a PASSED\n") == {"t.py::a": "failed"}


def test_lines_are_not_joined() -> None:
    assert read("t.py::a\nPASSED\n") == {}
    assert read("t.py::a \n PASSED [ 50%]\n") == {}
    assert read("PASSED\n[gw0] PASSED\n") == {}


def test_what_could_not_be_collected() -> None:
    text = "=== short test summary info ===\nERROR t/a.py - ImportError: no\nERROR t/b.py\n"
    assert read(text) == {"t/a.py": "error", "t/b.py": "error"}


def test_output_of_pytest_8() -> None:
    text = """\
tests/test_a.py::test_p[i::j] PASSED                                     [ 26%]
tests/test_a.py::test_p[[k]] PASSED                                      [ 31%]
tests/test_a.py::test_p[x PASSED [ 50%]] PASSED                          [ 42%]
tests/test_a.py::test_sk SKIPPED (unconditional skip)                    [ 63%]
FAILED tests/test_a.py::test_fail - assert 0
=== 2 failed, 10 passed, 3 skipped, 2 xfailed, 1 xpassed, 2 errors in 0.06s ====
"""
    assert read(text) == {
        "tests/test_a.py::test_p[i::j]": "passed",
        "tests/test_a.py::test_p[[k]]": "passed",
        "tests/test_a.py::test_p[x PASSED [ 50%]]": "passed",
        "tests/test_a.py::test_sk": "skipped",
    }
