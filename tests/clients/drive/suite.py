"""A client's own tests: what of them is expected to fail, and what came of them."""

import os
import xml.etree.ElementTree as xml
from pathlib import Path


def expectations(client: str, place: str) -> tuple[list[str], dict[str, str]]:
    """Returns the files that are left out, and the tests that cannot pass in a place, with their reasons.

    A line of expected/CLIENT.txt has the places, the file or test, and the reason.
    """
    left_out, expected = [], {}
    lines = (Path(os.environ["CLIENTS"]) / "expected" / f"{client}.txt").read_text().splitlines()
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        places, name, reason = line.split(maxsplit=2)
        if places == "left-out":
            left_out.append(name)
        elif places == "all" or place in places.split(","):
            expected[name] = reason
    return left_out, expected


def judge(results: Path, package: str, expected: dict[str, str]) -> tuple[str, bool]:
    """Says what came of the tests in a report of pytest's, and whether it is what was expected."""
    if not results.exists():
        return "pytest ran nothing", False
    passed, failed, skipped, counted_out = set(), {}, 0, 0
    for case in xml.parse(results).iter("testcase"):
        module = case.get("classname").removeprefix(f"{package}.").split(".")
        name = "::".join([f"{module[0]}.py", *module[1:], case.get("name")])
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        skip = case.find("skipped")
        if bad is not None:
            failed[name] = (bad.get("message") or "").splitlines()[:1]
        elif skip is not None and skip.get("type") == "pytest.xfail":
            counted_out += 1
        elif skip is not None:
            skipped += 1
        else:
            passed.add(name)
    unexpected = sorted(set(failed) - set(expected))
    surprising = sorted(name for name in passed & set(expected)
                        if not expected[name].startswith("now and then"))
    for name in unexpected:
        print(f"UNEXPECTED FAILURE  {name}  {''.join(failed[name])[:300]}")
    for name in surprising:
        print(f"PASSES, remove its line  {name}")
    words = [f"{len(passed)} pass"]
    if failed:
        words.append(f"{len(set(failed) & set(expected))} fail as expected")
    if counted_out:
        words.append(f"{counted_out} that the suite itself counts out")
    if skipped:
        words.append(f"{skipped} skipped by the suite")
    if surprising:
        words.append(f"{len(surprising)} pass that were expected to fail")
    if unexpected:
        words.append(f"{len(unexpected)} fail and should not")
    return ", ".join(words), bool(passed) and not unexpected
