# The fix `pytest-min=N`: pytest N, or the smallest later release that runs on this Python. What
# runs is found out with releases in directories of their own; the environment gets the result.
import re
import shutil

PASSES = "import pytest\n\n\n@pytest.fixture\ndef three():\n    return 3\n\n\n"
FAILS = PASSES + "def test_it(three):\n    assert three == 4\n"
PASSES += "def test_it(three):\n    assert three == 3\n"


def installed():
    """The version of pytest, or None."""
    status, out, error = pip("list", "--format", "json")
    if status != 0:
        fail("pip cannot list what is installed: {}".format(last_lines(error)))
    versions = [package["version"] for package in json.loads(out) if package["name"] == "pytest"]
    return versions[0] if versions else None


def complaint(target=None):
    """What pytest says instead of running tests, or None; of a directory or the environment."""
    env = {"PYTHONPATH": target} if target else {}
    with tempfile.TemporaryDirectory(prefix="imgforge-") as directory:
        for name, text in [
            ("pytest.ini", "[pytest]\n"),
            ("test_p.py", PASSES),
            ("test_f.py", FAILS),
        ]:
            with open(os.path.join(directory, name), "w") as file:
                file.write(text)
        for name, expected in [("test_p.py", 0), ("test_f.py", 1)]:
            argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", name]
            status, out, error = run(*argv, cwd=directory, env=env, without=["PYTEST_ADDOPTS"])
            if status != expected:
                return last_lines(out + error)
    return None


def try_release(version):
    """What a release says instead of running tests, or None."""
    directory = tempfile.mkdtemp(prefix="imgforge-pytest-")
    try:
        argv = ["install", "--quiet", "--target", directory, "pytest==" + version]
        status, out, error = pip(*argv, without=["PIP_USER"])
        if status != 0:
            fail("pip cannot install pytest {}: {}".format(version, last_lines(out + error)))
        return complaint(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def candidates():
    """The releases of pytest for this Python that are large enough, the smallest first."""
    status, out, error = pip("index", "versions", "pytest")
    found = re.search(r"^Available versions: (.*)$", out, re.MULTILINE)
    if status != 0 or not found:
        # Before pip 21.2 only a refusal lists them.
        _, out, error = pip("download", "--no-deps", "pytest==0.0.0")
        found = re.search(r"\(from versions: (.*)\)", out + error)
    if not found:
        fail("pip cannot list the releases of pytest: {}".format(last_lines(out + error)))
    versions = [v.strip() for v in found.group(1).split(",")]
    releases = {release_of(v): v for v in versions if re.match(r"\d+(\.\d+)*$", v)}
    return [releases[release] for release in sorted(releases) if release >= release_of(VALUE)]


def smallest(tried):
    """Finds the smallest release that runs. If one runs, later ones are taken to run as well.

    `tried` gets what each release says that was tried.
    """

    def runs(version):
        tried[version] = try_release(version)
        return tried[version] is None

    versions = candidates()
    if not versions:
        fail("there is no pytest {} or later for Python {}".format(VALUE, VERSION))
    if runs(versions[0]):
        return versions[0]
    # With longer and longer steps to one that runs, then by halves back to the first.
    low, high, step = 0, 0, 1
    while high == 0 and low < len(versions) - 1:
        at = min(low + step, len(versions) - 1)
        low, high = (low, at) if runs(versions[at]) else (at, 0)
        step *= 2
    if high == 0:
        message = "no pytest from {} on runs here; {} says: {}"
        fail(message.format(VALUE, versions[-1], tried[versions[-1]]))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if runs(versions[middle]) else (middle, high)
    return versions[high]


def main():
    before = installed()
    enough = before is not None and release_of(before) >= release_of(VALUE)
    if enough and complaint() is None:
        summary = "nothing to do: pytest {} runs".format(before)
        report("nothing to do", summary, before=before, after=before, tried={})
    tried = {}
    version = smallest(tried)
    if not DRY_RUN:
        status, out, error = pip("install", "pytest==" + version)
        if status != 0:
            fail("pip cannot install pytest {}: {}".format(version, last_lines(out + error)))
        said = complaint()
        if installed() != version or said is not None:
            fail("pytest {} does not run where it was installed: {}".format(version, said))
    verb = "would be" if DRY_RUN else "was"
    summary = "pytest {} {} installed; before it was {}".format(
        version, verb, before or "not there"
    )
    outcome = {v: "runs" if said is None else "does not run" for v, said in tried.items()}
    report("done", summary, before=before, after=version, tried=outcome)


main()
