"""`apply(patch())` gives an equal tree, whatever was changed."""

from __future__ import annotations

import shlex
from typing import Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared import INSTANCE

from imgforge_sandbox import Client

CONTENTS = st.one_of(
    st.just(b""),
    st.binary(max_size=60),
    # Lines of all kinds, with and without a line break at the end.
    st.lists(
        st.sampled_from(
            [b"a", b"b\r", b"", b" x ", b"\tt", "ü".encode(), b"\xff", b"\\ No newline"]
        ),
        max_size=6,
    ).map(b"\n".join),
    st.lists(st.sampled_from([b"a", b"b\r", b"c"]), min_size=1, max_size=6).map(
        lambda lines: b"\n".join([*lines, b""])
    ),
)
NAMES = st.sampled_from(
    ["f", "README.md", "src/abacus/parser.py", "d/e/f", "a b", "ü", "q\"'$x", "-dash", "tab\tline"]
)
CHANGES = st.dictionaries(
    NAMES,
    st.one_of(
        st.none(),
        st.tuples(CONTENTS, st.sampled_from([0o644, 0o755])),
    ),
    min_size=1,
    max_size=5,
)

DROP_EMPTY = "find . -not -path './.git/*' -type d -empty -delete"
LIST = (
    "find . -path ./.git -prune -o -printf '%P %y %l %m\\n' | LC_ALL=C sort;"
    "find . -path ./.git -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum"
)


@pytest.mark.slow
def test_a_patch_makes_the_same_tree(client: Client) -> None:
    with client.start(instance=INSTANCE) as one, client.start(instance=INSTANCE) as two:
        base = one.checkpoint()

        @settings(
            max_examples=25,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(changes=CHANGES)
        def check(changes: dict[str, Optional[tuple[bytes, int]]]) -> None:
            one.reset(base)
            two.reset()
            for name, change in changes.items():
                path = f"/testbed/{name}"
                if change is None:
                    one.run(["rm", "-rf", "--", path])
                else:
                    one.write(path, change[0], mode=change[1])
            # Git knows no empty directories.
            one.run(DROP_EMPTY, workdir="/testbed")
            patch = one.patch()
            two.apply(patch)
            two.run(DROP_EMPTY, workdir="/testbed")
            listed = [s.run(LIST, workdir="/testbed").stdout for s in (one, two)]
            assert listed[0] == listed[1], shlex.quote(patch.decode("latin-1"))
            assert two.patch() == patch
            two.apply(patch, reverse=True)
            assert two.patch() == b""

        check()
        client.remove_checkpoint(base)
