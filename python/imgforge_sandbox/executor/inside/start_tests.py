"""Starts pytest with the recorder, before any code under test can run.

It is run by `python -I`: neither the workspace nor a directory of the user is in `sys.path` until
pytest and the recorder are imported. Then it has what `python -m pytest` has.
"""

import importlib
import json
import os
import site
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

sys.path.insert(0, HERE)

recorder = importlib.import_module("imgforge_recorder")
pytest = importlib.import_module("pytest")


def main() -> int:
    with open(os.path.join(HERE, "run.json")) as file:
        run = json.load(file)
    recorder.start()
    user = site.getusersitepackages()
    if os.path.isdir(user):
        site.addsitedir(user)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[0:0] = [os.getcwd(), *paths]
    # What is not there would end the whole run.
    files = [file for file in run["files"] if os.path.lexists(file)]
    if not files:
        sys.stderr.write("none of the files of the tests is there\n")
        return 5
    # By its name, so that the workers of xdist have it as well.
    options = ["-p", "imgforge_recorder", *run["options"], "--", *files]
    return int(pytest.main(options))


if __name__ == "__main__":
    sys.exit(main())
