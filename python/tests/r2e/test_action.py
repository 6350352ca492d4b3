"""Actions: what is read of a text, and what comes into the shell."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgforge_sandbox.r2e import Action

VIEW = """I look at it first.
<function=file_editor>
  <parameter=command> view </parameter>
  <parameter = path>./a b.py</parameter>
  <parameter=note>two
lines</parameter>
</function>"""

KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]*", fullmatch=True)
TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))


def test_a_text_is_read() -> None:
    action = Action.from_string(VIEW)
    assert action.to_dict() == {
        "function": "file_editor",
        "parameters": {"command": "view", "path": "./a b.py", "note": "two\nlines"},
    }
    assert action.to_bashcmd() == "file_editor view --path './a b.py' --note 'two\nlines'"
    assert str(action) == (
        "<function=file_editor>\n  <parameter=command>view</parameter>\n"
        "  <parameter=path>./a b.py</parameter>\n"
        "  <parameter=note>two\nlines</parameter>\n</function>"
    )


@pytest.mark.parametrize(
    ("text", "name", "parameters"),
    [
        ("", "", {}),
        ("no call", "", {}),
        ("<function=f></function>", "f", {}),
        ("<function = f >", "f", {}),
        ("<function=f><parameter=a></parameter></function>", "f", {"a": ""}),
        ("<function=f><parameter=a>1</parameter><parameter=a>2</parameter>", "f", {"a": "2"}),
        ("<function=f><parameter=a>x</parameter>y</parameter></function>", "f", {"a": "x"}),
        ("<function=f><parameter=a>é\u2028😀</parameter></function>", "f", {"a": "é\u2028😀"}),
        # What is in a value does not end the block.
        (
            "<function=f><parameter=a>x</function>y</parameter></function>",
            "f",
            {"a": "x</function>y"},
        ),
    ],
)
def test_both_modes_read_the_same(text: str, name: str, parameters: dict[str, str]) -> None:
    for action in (Action.from_string(text), Action.from_string(text, compat="exact")):
        assert action.to_dict() == {"function": name, "parameters": parameters}


@pytest.mark.parametrize(
    "text",
    [
        "<function=f><parameter=a>1</parameter></function><function=g><parameter=b>2</parameter></function>",
        "<function=f><parameter=a>1</parameter><function=g><parameter=b>2</parameter></function>",
        "<parameter=b>2</parameter><function=f><parameter=a>1</parameter></function>",
    ],
)
def test_only_the_first_block_is_read(text: str) -> None:
    assert Action.from_string(text).parameters == {"a": "1"}
    assert Action.from_string(text, compat="exact").parameters == {"a": "1", "b": "2"}


def test_parameters_without_a_function_are_no_action() -> None:
    action = Action.from_string("<parameter=a>1</parameter>")
    assert (action.function_name, action.parameters, action.to_bashcmd()) == ("", {}, "")


@pytest.mark.parametrize("name", ["finish", "submit"])
def test_the_end_is_an_echo(name: str) -> None:
    assert Action(name, {"command": "x", "a;b": "c"}).to_bashcmd() == "echo '<<<Finished>>>'"


@pytest.mark.parametrize(
    "key", ["a;rm -rf", "", "a b", "-a", "$(id)", "a\nb", "é", "a\n", "1a", "a=b"]
)
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="no valid name"):
        Action("f", {key: "1"}).to_bashcmd()
    assert Action("f", {key: "1"}, compat="exact").to_bashcmd() == f"f --{key} 1"


@pytest.mark.parametrize(("value", "message"), [("a\0b", "NUL"), ("\ud800", "UTF-8")])
def test_a_value_that_no_program_can_get_is_refused(value: str, message: str) -> None:
    for parameters in ({"a": value}, {"command": value}):
        with pytest.raises(ValueError, match=message):
            Action("f", parameters).to_bashcmd()
    with pytest.raises(ValueError, match=message):
        Action(f"f{value}", {}).to_bashcmd()


def test_a_mode_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match='"fixed" or "exact"'):
        Action("f", {}, compat="right")  # type: ignore[arg-type]


@given(TEXTS.filter(bool), st.dictionaries(KEYS, TEXTS))
def test_the_shell_gives_the_values_back(name: str, parameters: dict[str, str]) -> None:
    if name in ("finish", "submit"):
        return
    wanted = [name]
    if "command" in parameters:
        wanted.append(parameters["command"])
    for key, value in parameters.items():
        if key != "command":
            wanted += [f"--{key}", value]
    assert shlex.split(Action(name, parameters).to_bashcmd()) == wanted


@given(
    KEYS,
    st.dictionaries(KEYS, TEXTS.map(str.strip).filter(lambda text: "</parameter>" not in text)),
)
def test_a_written_action_is_read_again(name: str, parameters: dict[str, str]) -> None:
    assert Action.from_string(Action(name, parameters).to_xml_string()).to_dict() == {
        "function": name,
        "parameters": parameters,
    }


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    Action.from_string(text).to_dict()
