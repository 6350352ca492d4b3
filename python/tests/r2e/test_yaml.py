"""The YAML that is read here is read as PyYAML reads it, or is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

from imgforge_sandbox.r2e import _yaml

pyyaml = pytest.importorskip("yaml", reason="needs PyYAML, which says what is right")

# What is put together to texts: most of them are no YAML, or YAML that is refused.
PIECES = [
    *[
        "a",
        "b:",
        "c: ",
        "- ",
        "-",
        "--",
        "|",
        ">",
        "|-",
        ">-",
        "|+",
        "|2",
        "#",
        " # c",
        "\n",
        "\n\n",
    ],
    *["\n ", "\n  ", "\n    ", " ", "  ", "\t", "'", '"', "'it''s'", '"x\\n"', "'a': b", '"k": v'],
    *[
        "true",
        "no",
        "~",
        "null",
        "1",
        "012",
        "1.5",
        "5.",
        ".5",
        "1e3",
        "+1",
        "1_000",
        "0x1f",
        "1:30",
    ],
    *[
        "2001-01-01",
        "[a, b]",
        "[]",
        "[1,'x']",
        "{}",
        "{a: b}",
        "x: y",
        "&a",
        "*a",
        "!t",
        "%",
        "---",
    ],
    *["...", "?", "? a", ": ", ":", ",", "]", "}", "`", "@", "=", "<<", "\\", "é", "a#b", "a #b"],
    *["key of words: v", "- a\n", "- b: 1\n", "docstring: ", "arguments:"],
]
WORDS = ["opens", "a/b.py", "(default: 1)", "it's", "<path>", "[<line>]", '"so"', "100", "true"]
WORDS += ["#1", "e.g.", "foo:bar", "x-y", "--flag"]


def same(ours: Any, theirs: Any) -> bool:
    """Whether two values are equal, their types and the order of their keys too."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        return same(list(ours), list(theirs)) and same(list(ours.values()), list(theirs.values()))
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


def test_what_is_read_is_what_pyyaml_reads() -> None:
    chance = random.Random(1)
    read = 0
    for _ in range(20_000):
        text = "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 9)))
        try:
            ours = _yaml.load(text)
        except _yaml.YamlError:
            continue
        read += 1
        assert same(ours, pyyaml.safe_load(text)), text
    # The pieces are such that the comparison is about something.
    assert read > 2_000


def test_all_that_a_description_needs_is_read() -> None:
    chance = random.Random(2)

    def text() -> str:
        return " ".join(chance.choice(WORDS) for _ in range(chance.randint(1, 12)))

    for _ in range(500):
        description = {
            "signature": text(),
            "docstring": chance.choice([text(), f"{text()}\n{text()}\n\n{text()}\n"]),
            "arguments": {
                f"p{at}": {
                    "type": "string",
                    "description": text(),
                    "required": chance.random() < 0.5,
                    "enum": ["a", text()],
                }
                for at in range(chance.randint(0, 3))
            },
            "end_name": chance.choice([None, "end"]),
        }
        width = chance.choice([40, 80, 1000])
        written = pyyaml.safe_dump(description, sort_keys=False, width=width, allow_unicode=True)
        assert same(_yaml.load(written), description), written


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# only a comment\n", None),
        ("a: |\n  x\n   y\n\n  z\n", {"a": "x\n y\n\nz\n"}),
        ("a: >-\n  x\n  y\n\n  z\n", {"a": "x y\nz"}),
        ("a: x\n  y # c\nb: 'it''s'\n", {"a": "x y", "b": "it's"}),
        ("a:\n- 1\n- b: yes\n  c: ~\n", {"a": [1, {"b": True, "c": None}]}),
        ('a: "x\\u00e9\\n"\n', {"a": "xé\n"}),
        ("a: [x, 'y, z', 2]\n", {"a": ["x", "y, z", 2]}),
    ],
)
def test_examples(text: str, value: Any) -> None:
    assert same(_yaml.load(text), value)
    assert same(pyyaml.safe_load(text), value)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: b\nc: d: e", 1), ("a: &x b", 0), ("a:\n\tb", 1), ("a: 'b", 0), ("a: 0x1f", 0)],
)
def test_the_line_of_an_error(text: str, line: int) -> None:
    with pytest.raises(_yaml.YamlError) as caught:
        _yaml.load(text)
    assert caught.value.line == line
