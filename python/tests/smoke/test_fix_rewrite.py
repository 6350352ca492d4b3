"""The fix `collections-abc=rewrite`, on every Python that is there: the same bytes on each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import pytest
from fix_scripts import Ended, Python, commit_all, fix, git_status, named_python, pythons


class Case(NamedTuple):
    """A file, what becomes of it, and the places that are left: their line and their text."""

    name: str
    before: bytes
    after: bytes
    left: Tuple[Tuple[int, str], ...] = ()


def changed(name: str, before: str, after: str, *left: Tuple[int, str]) -> Case:
    return Case(name, before.encode(), after.encode(), left)


def kept(name: str, text: str, *left: Tuple[int, str]) -> Case:
    return Case(name, text.encode(), text.encode(), left)


CASES = [
    changed(
        "one_name",
        "from collections import Mapping\n",
        "from collections.abc import Mapping\n",
    ),
    changed(
        "all_names_move_and_keep_their_form",
        "from collections import (  # base classes\n    Mapping as M,\n    Set,  # a set\n)\n",
        "from collections.abc import (  # base classes\n    Mapping as M,\n    Set,  # a set\n)\n",
    ),
    changed(
        "mixed",
        "from collections import OrderedDict, Mapping, defaultdict\n",
        "from collections import OrderedDict, defaultdict\nfrom collections.abc import Mapping\n",
    ),
    changed(
        "mixed_with_as_and_a_comment",
        "from collections import Mapping as M, deque as d, Set  # noqa: F401\nx = 1\n",
        "from collections import deque as d  # noqa: F401\n"
        "from collections.abc import Mapping as M, Set\nx = 1\n",
    ),
    changed(
        "indented",
        "def f():\n\tfrom collections import deque, Mapping\n\treturn Mapping\n",
        "def f():\n\tfrom collections import deque\n\tfrom collections.abc import Mapping\n"
        "\treturn Mapping\n",
    ),
    changed(
        "brackets_in_one_line",
        "from collections import (Mapping, deque)\nfrom collections import (deque, Mapping, Set)\n"
        "from collections import (deque, Mapping, Set, Counter,)\n",
        "from collections import (deque)\nfrom collections.abc import Mapping\n"
        "from collections import (deque)\nfrom collections.abc import Mapping, Set\n"
        "from collections import (deque, Counter,)\nfrom collections.abc import Mapping, Set\n",
    ),
    changed(
        "lines_in_brackets",
        "from collections import (\n    Mapping,  # a map\n    # of its own line\n"
        "    OrderedDict,  # in order\n    Sequence\n)\n",
        "from collections import (\n    # of its own line\n    OrderedDict,  # in order\n)\n"
        "from collections.abc import (\n    Mapping,  # a map\n    Sequence,\n)\n",
    ),
    changed(
        "indented_lines_in_brackets",
        "if 1:\n    from collections import (\n        deque,\n        Set,  # a set\n    )\n",
        "if 1:\n    from collections import (\n        deque,\n    )\n"
        "    from collections.abc import (\n        Set,  # a set\n    )\n",
    ),
    changed(
        "several_names_in_a_line_in_brackets",
        "from collections import (\n    Mapping, Set,\n    deque, Sized, Counter,\n"
        "    Hashable,\n)\n",
        "from collections import (\n    deque, Counter,\n)\n"
        "from collections.abc import (\n    Mapping,\n    Set,\n    Sized,\n    Hashable,\n)\n",
    ),
    changed(
        "the_last_name_before_a_bracket",
        "from collections import (deque,\n                         Mapping)\n"
        "from collections import (deque,  # first\n                         Mapping)\n",
        "from collections import (deque)\nfrom collections.abc import Mapping\n"
        "from collections import (deque,  # first\n)\nfrom collections.abc import Mapping\n",
    ),
    changed(
        "commas_first",
        "from collections import (\n      Mapping\n    , deque\n    , Set\n)\n",
        "from collections import (\n      deque\n)\nfrom collections.abc import Mapping, Set\n",
    ),
    changed(
        "a_line_that_goes_on",
        "from collections import deque, \\\n    Mapping\nfrom collections import Mapping, \\\n"
        "    deque, Set\nfrom collections \\\n    import Mapping\n",
        "from collections import deque\nfrom collections.abc import Mapping\n"
        "from collections import deque\nfrom collections.abc import Mapping, Set\n"
        "from collections.abc \\\n    import Mapping\n",
    ),
    changed(
        "between_semicolons",
        "import os; from collections import Set, deque; x = 1\n"
        "import os; from collections import Set; x = 1\n",
        "import os; from collections import deque; from collections.abc import Set; x = 1\n"
        "import os; from collections.abc import Set; x = 1\n",
    ),
    changed(
        "behind_a_colon",
        "if 1: from collections import deque, Set  # both\nif 1: import collections\n"
        "class C: x = collections.Set\nif 1: \\\n    from collections import deque, Set\n",
        "if 1: from collections import deque; from collections.abc import Set  # both\n"
        "if 1: import collections; import collections.abc\n"
        "class C: x = collections.abc.Set\n"
        "if 1: \\\n    from collections import deque; from collections.abc import Set\n",
    ),
    changed(
        "uses",
        "import collections\n\nclass C(collections.Mapping, collections.OrderedDict):\n"
        "    x = collections.abc.Set\n",
        "import collections\nimport collections.abc\n\n"
        "class C(collections.abc.Mapping, collections.OrderedDict):\n    x = collections.abc.Set\n",
    ),
    changed(
        "uses_in_odd_places",
        "import collections\nprint((collections).Set, collections . \\\n  Set, collections.  Set)\n"
        "@collections.Callable\ndef f(x: collections.Set = collections.Sized)"
        " -> collections.Sized:\n    return [collections.Set for _ in x]\n",
        "import collections\nimport collections.abc\n"
        "print((collections).abc.Set, collections . \\\n  abc.Set, collections.  abc.Set)\n"
        "@collections.abc.Callable\ndef f(x: collections.abc.Set = collections.abc.Sized)"
        " -> collections.abc.Sized:\n    return [collections.abc.Set for _ in x]\n",
    ),
    changed(
        "several_imports_in_one",
        "import os, collections as c, sys  # three\nprint(c.Set)\n",
        "import os, collections as c, sys  # three\nimport collections.abc\nprint(c.abc.Set)\n",
    ),
    changed(
        "abc_is_imported_already",
        "import collections.abc\nimport collections\nprint(collections.Set)\n",
        "import collections.abc\nimport collections\nprint(collections.abc.Set)\n",
    ),
    changed(
        "abc_is_imported_by_the_change",
        "import collections\nfrom collections import Set\nprint(collections.Sized)\n",
        "import collections\nfrom collections.abc import Set\nprint(collections.abc.Sized)\n",
    ),
    changed(
        "only_abc_is_imported",
        "import collections.abc\nprint(collections.Set)\n",
        "import collections.abc\nprint(collections.abc.Set)\n",
    ),
    changed(
        "an_import_in_a_function",
        "def f():\n    import collections\n    return lambda: collections.Set\n",
        "def f():\n    import collections\n    import collections.abc\n"
        "    return lambda: collections.abc.Set\n",
    ),
    changed(
        "a_parameter_is_something_else",
        "import collections\ndef f(collections):\n    return collections.Set\n"
        "def g():\n    return collections.Set\n",
        "import collections\nimport collections.abc\ndef f(collections):\n"
        "    return collections.Set\ndef g():\n    return collections.abc.Set\n",
        (3, "collections.Set"),
    ),
    kept(
        "two_meanings",
        "import collections\nif 0:\n    collections = None\nprint(collections.Set)\n",
        (4, "collections.Set"),
    ),
    kept(
        "not_imported",
        "from os import *\nprint(collections.Set)\n",
        (2, "collections.Set"),
    ),
    kept(
        "an_alias_where_the_name_is_taken",
        "import collections as c\ncollections = []\nprint(c.Set)\n",
        (3, "c.Set"),
    ),
    kept(
        "a_star",
        "from collections import *\nprint(Mapping)\n",
        (1, "from collections import *"),
    ),
    kept(
        "names_as_values",
        'import collections as c\nx = "Set"\n'
        'print(getattr(c, "Mapping"), getattr(c, "deque"), getattr(c, x), hasattr(c, "Set"))\n',
        (3, "getattr(c, 'Mapping')"),
        (3, "getattr(c, a computed name)"),
        (3, "hasattr(c, 'Set')"),
    ),
    kept(
        "set_here",
        "import collections\ncollections.Mapping = dict\n",
        (2, "collections.Mapping"),
    ),
    kept(
        "in_an_f_string",
        'import collections\nprint(f"{collections.Set}")\n',
        (2, "collections.Set"),
    ),
    kept(
        "through_another_module",
        "import shim\nprint(shim.collections.Set)\n",
        (2, "….collections.Set"),
    ),
    kept(
        "guarded",
        "try:\n    from collections.abc import Mapping\nexcept ImportError:  # Python 2\n"
        "    from collections import Mapping, deque\n",
        (4, "from collections import Mapping"),
    ),
    kept(
        "guarded_the_other_way_round",
        "try:\n    from collections import Set\nexcept (ImportError, KeyError):\n"
        "    from collections.abc import Set\n",
        (2, "from collections import Set"),
    ),
    kept(
        "guarded_uses",
        "import collections\ntry:\n    x = collections.Set\nexcept AttributeError:\n    x = set\n"
        "try:\n    from collections.abc import Set\nexcept ImportError:\n"
        "    Set = collections.Set\n",
        (3, "collections.Set"),
        (9, "collections.Set"),
    ),
    changed(
        "a_guard_ends_where_a_function_begins",
        "import collections\ntry:\n    def f():\n        return collections.Set\n"
        "except AttributeError:\n    pass\ntry:\n    x = collections.Set\n"
        "except Exception:\n    pass\n",
        "import collections\nimport collections.abc\ntry:\n    def f():\n"
        "        return collections.abc.Set\n"
        "except AttributeError:\n    pass\ntry:\n    x = collections.abc.Set\n"
        "except Exception:\n    pass\n",
    ),
    kept(
        "texts_and_comments",
        '"""from collections import Mapping"""\n# collections.Mapping\nx = "collections.Mapping"\n'
        "from .collections import Set\nfrom mycollections import Mapping\n",
    ),
    kept("nothing", "from collections import OrderedDict\nimport collections\n"),
    Case(
        "crlf",
        b"import collections\r\nfrom collections import deque, Set\r\nprint(collections.Set)\r\n",
        b"import collections\r\nfrom collections import deque\r\n"
        b"from collections.abc import Set\r\nprint(collections.abc.Set)\r\n",
    ),
    Case(
        "bom",
        b"\xef\xbb\xbffrom collections import deque, Set\n",
        b"\xef\xbb\xbffrom collections import deque\nfrom collections.abc import Set\n",
    ),
    Case(
        "latin_1",
        b'# -*- coding: latin-1 -*-\nx = "\xe9\xe9"; from collections import Set  # \xe9\n',
        b'# -*- coding: latin-1 -*-\nx = "\xe9\xe9"; from collections.abc import Set  # \xe9\n',
    ),
    Case(
        "wide_letters_before",
        "import collections\nprint('äß€😀', collections.Set)\n".encode(),
        "import collections\nimport collections.abc\n"
        "print('äß€😀', collections.abc.Set)\n".encode(),
    ),
    Case(
        "no_final_line_break",
        b"from collections import deque, Set",
        b"from collections import deque\nfrom collections.abc import Set",
    ),
    Case(
        "form_feed",
        b"import os\n\x0c\nfrom collections import deque, Set\n",
        b"import os\n\x0c\nfrom collections import deque\nfrom collections.abc import Set\n",
    ),
]

SKIPPED = {
    "python_2.py": b"from collections import Mapping\nprint 'a'\n",
    "broken.py": b"from collections import Mapping\ndef f(:\n",
    "unknown_encoding.py": b"# coding: klingon\nfrom collections import Mapping\n",
    "wrong_bytes.py": b"from collections import Mapping\nx = '\xff'\n",
    "carriage_returns.py": b"from collections import Mapping\rx = 1\r",
}
"""Files that are left as they are, and named."""

LEFT_OUT = {
    "lib/site-packages/a.py": "site-packages",
    "src/_vendor/a.py": "_vendor",
    "env/lib/a.py": "env",
}
"""Files that others made, and the directory that is named."""

BEFORE = b"from collections import Mapping\n"


class Run(NamedTuple):
    """A tree before and after: three runs on one Python."""

    tree: Path
    status: str
    dry: Ended
    status_after_dry: str
    first: Ended
    second: Ended


@pytest.fixture(scope="module", params=pythons(), ids=str)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    python: Python = request.param
    top = tmp_path_factory.mktemp("rewrite")
    tree = top / "tree"
    for case in CASES:
        put(tree / f"{case.name}.py", case.before)
    for name, text in SKIPPED.items():
        put(tree / name, text)
    for name in LEFT_OUT:
        put(tree / name, BEFORE)
    put(tree / "env/pyvenv.cfg", b"")
    put(tree / "script", b"#!/usr/bin/env python3\n" + BEFORE)
    put(tree / "notes.txt", BEFORE)
    put(tree / "data", BEFORE)
    put(top / "outside.py", BEFORE)
    (tree / "link.py").symlink_to(top / "outside.py")
    (tree / "linked").symlink_to(top, target_is_directory=True)
    (tree / "script").chmod(0o750)
    # A module of the tree does not stand in for one of Python.
    put(tree / "json.py", b"raise SystemExit('this is not json')\n")
    commit_all(tree)
    path = named_python(top / "bin", python.path)
    status = git_status(tree)
    dry = fix(path, "collections-abc=rewrite", tree, dry_run=True)
    after_dry = git_status(tree)
    first = fix(path, "collections-abc=rewrite", tree)
    return Run(tree, status, dry, after_dry, first, fix(path, "collections-abc=rewrite", tree))


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def of_file(run: Ended, name: str) -> List[Tuple[int, str]]:
    return [(at["line"], at["text"]) for at in run.report["left"] if at["path"] == name]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_is_changed_to_the_byte(run: Run, case: Case) -> None:
    name = f"{case.name}.py"
    assert (run.tree / name).read_bytes() == case.after
    assert sorted(of_file(run.first, name)) == sorted(case.left)
    assert sorted(of_file(run.dry, name)) == sorted(case.left)
    files = {file["path"] for file in run.first.report["files"]}
    assert (name in files) == (case.before != case.after)


def test_a_dry_run_says_the_same_and_changes_nothing(run: Run) -> None:
    assert run.status == run.status_after_dry == ""
    assert run.dry.code == 0, run.dry.error
    assert run.dry.report["status"] == "would do"
    assert run.dry.report["summary"].startswith("would change ")
    same = ["imports", "uses", "added", "files", "left", "skipped", "left_out"]
    assert {key: run.dry.report[key] for key in same} == {
        key: run.first.report[key] for key in same
    }


def test_counts_are_those_of_the_files(run: Run) -> None:
    report = run.first.report
    assert (report["fix"], report["status"]) == ("collections-abc=rewrite", "done")
    for key in ["imports", "uses", "added"]:
        assert report[key] == sum(file[key] for file in report["files"]) > 0
    changed = {case.name + ".py" for case in CASES if case.before != case.after}
    assert {file["path"] for file in report["files"]} == {*changed, "script"}


def test_a_second_run_has_nothing_to_do(run: Run) -> None:
    assert run.second.report["status"] == "nothing to do"
    assert run.second.report["files"] == []
    # A place that was left is named again, perhaps in another line.
    assert len(run.second.report["left"]) == len(run.first.report["left"])


def test_what_is_no_python_of_this_version_is_skipped_and_named(run: Run) -> None:
    skipped: Dict[str, str] = {at["path"]: at["why"] for at in run.first.report["skipped"]}
    assert set(skipped) == set(SKIPPED)
    assert all(skipped.values())
    for name, text in SKIPPED.items():
        assert (run.tree / name).read_bytes() == text


def test_what_others_made_is_left_out_and_named(run: Run) -> None:
    left_out = {Path(path).name for path in run.first.report["left_out"]}
    assert left_out == set(LEFT_OUT.values())
    for name in [*LEFT_OUT, "notes.txt", "data", "link.py", "../outside.py"]:
        assert (run.tree / name).read_bytes() == BEFORE
    assert (run.tree / "link.py").is_symlink()


def test_a_script_without_an_ending_is_changed_and_keeps_its_mode(run: Run) -> None:
    after = b"#!/usr/bin/env python3\nfrom collections.abc import Mapping\n"
    assert (run.tree / "script").read_bytes() == after
    assert (run.tree / "script").stat().st_mode & 0o777 == 0o750


NEWER = """\
import collections
def f[collections](x): return collections.Set
class C[T: collections.Mapping]: pass
type A = collections.Set
match x:
    case {"a": 1, **c}: print(c.Set)
try: pass
except* ValueError as c: print([c := 1, (lambda: collections.Sized)])
"""


@pytest.mark.parametrize("python", pythons((3, 12)), ids=str)
def test_syntax_of_newer_pythons_is_understood(python: Python, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    put(tree / "a.py", NEWER.encode())
    path = named_python(tmp_path / "bin", python.path)
    ended = fix(path, "collections-abc=rewrite", tree)
    assert of_file(ended, "a.py") == [(2, "collections.Set")], ended
    after = NEWER.replace("collections\n", "collections\nimport collections.abc\n", 1)
    for name in ["Mapping", "Sized"]:
        after = after.replace(f"collections.{name}", f"collections.abc.{name}")
    after = after.replace("A = collections.Set", "A = collections.abc.Set")
    assert (tree / "a.py").read_text() == after


@pytest.mark.parametrize("python", pythons(), ids=str)
def test_names_of_files_are_told_whatever_the_locale(python: Python, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    put(tree / "äß.py", BEFORE)
    put(tree / os.fsdecode(b"\xff.py"), BEFORE)
    path = named_python(tmp_path / "bin", python.path)
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = fix(path, "collections-abc=rewrite", tree, env=env)
    assert [file["path"] for file in ended.report["files"]] == ["äß.py", "\\xff.py"], ended


def test_a_tree_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = named_python(tmp_path / "bin", pythons()[0].path)
    ended = fix(path, "collections-abc=rewrite", tmp_path / "nowhere", cwd=tmp_path)
    assert ended.code == 1
    assert ended.error == f"error: the working tree {tmp_path / 'nowhere'} is not there\n"
