"""docker-py: its own integration tests, of the last source distribution that has them, as they are.

expected/docker-py.txt says which of them cannot pass, where, and why. A test that fails and is not
there is less than is expected. One that passes and is there is named, so that its line goes.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

place = os.environ["CLIENTS_PLACE"]
suite = Path(os.environ["CLIENTS_CACHE"]) / "suites" / "docker-py"

# What is expected: a line has the places, the file, class or test, and the reason.
left_out, expected = {}, {}
for line in (Path(os.environ["CLIENTS"]) / "expected" / "docker-py.txt").read_text().splitlines():
    if not line.strip() or line.startswith("#"):
        continue
    places, name, reason = line.split(maxsplit=2)
    if places == "left-out":
        left_out[name] = reason
    elif places == "all" or place in places.split(","):
        expected[name] = reason

ignored = [f"--ignore=tests/integration/{name}" for name in left_out]
subprocess.run(
    [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "60", "-W", "ignore",
     "--tb", "short", "--junitxml", os.path.abspath("results.xml"), *ignored, "tests/integration"],
    cwd=suite)

if not Path("results.xml").exists():
    sys.exit("result: pytest ran nothing")
passed, failed, skipped = set(), {}, 0
for case in xml.parse("results.xml").iter("testcase"):
    module = case.get("classname").removeprefix("tests.integration.").split(".")
    name = "::".join([f"{module[0]}.py", *module[1:], case.get("name")])
    bad = case.find("failure") if case.find("failure") is not None else case.find("error")
    if bad is not None:
        failed[name] = (bad.get("message") or "").splitlines()[:1]
    elif case.find("skipped") is not None:
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
words = [f"{len(passed)} pass", f"{len(set(failed) & set(expected))} fail as expected"]
if skipped:
    words.append(f"{skipped} skipped by the suite")
if surprising:
    words.append(f"{len(surprising)} pass that were expected to fail")
if unexpected:
    words.append(f"{len(unexpected)} fail and should not")
print(f"result: {', '.join(words)}")
sys.exit(1 if unexpected or not passed else 0)
