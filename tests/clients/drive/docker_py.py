"""docker-py: its own integration tests, of the last source distribution that has them, as they are.

expected/docker-py.txt says which of them cannot pass, where, and why. A test that fails and is not
there is less than is expected. One that passes and is there is named, so that its line goes.
"""

import os
import subprocess
import sys
from pathlib import Path

from suite import expectations, judge

tests = Path(os.environ["CLIENTS_CACHE"]) / "suites" / "docker-py"
left_out, expected = expectations("docker-py", os.environ["CLIENTS_PLACE"])
ignored = [f"--ignore=tests/integration/{name}" for name in left_out]
subprocess.run(
    [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "60", "-W", "ignore",
     "--tb", "short", "--junitxml", os.path.abspath("results.xml"), *ignored, "tests/integration"],
    cwd=tests)
result, is_good = judge(Path("results.xml"), "tests.integration", expected)
print(f"result: {result}")
sys.exit(0 if is_good else 1)
