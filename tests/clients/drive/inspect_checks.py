"""Inspect: its own checks of a sandbox, and a task, both in the sandbox that is called docker."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

# What cannot pass where commands run as root, and why.
EXPECTED = {
    "test_write_text_file_without_permissions": "root writes what nobody may write",
    "test_write_binary_file_without_permissions": "root writes what nobody may write",
}

here = Path(os.environ["CLIENTS"]) / "drive" / "inspect"
Path("compose.yaml").write_text(f"""services:
  default:
    image: {os.environ["CLIENTS_IMAGE"]}
    command: tail -f /dev/null
    init: true
    network_mode: none
    stop_grace_period: 1s
""")
checks = subprocess.run(
    [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "--tb", "short",
     "-rfE", "-o", "asyncio_mode=auto", "-o", "asyncio_default_test_loop_scope=module",
     here / "test_self_check.py"], stdout=subprocess.PIPE, text=True)
print(checks.stdout)
failed = set(re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)", checks.stdout, re.M))
passed = int((re.search(r"(\d+) passed", checks.stdout) or [0, 0])[1])

# It takes the file of a task by a path from here alone.
shutil.copy(here / "mend.py", "mend.py")
task = subprocess.run(
    ["inspect", "eval", "mend.py", "--model", "mockllm/model", "--display", "plain",
     "--log-dir", "logs", "--log-format", "json"], stdout=subprocess.PIPE, text=True)
print(task.stdout)
solved = task.returncode == 0 and re.search(r"accuracy\D+1(\.0*)?\b", task.stdout) is not None

refused = re.search(r"require Docker Engine >= [\d.]+", task.stdout)
if refused:
    sys.exit(f"result: it refuses this engine: Docker sandboxes {refused[0]}")
words = f"{passed} of {passed + len(failed)} checks"
if failed & EXPECTED.keys():
    words += f", {len(failed & EXPECTED.keys())} fail as root may write all"
if failed - EXPECTED.keys():
    words += f", FAIL: {', '.join(sorted(failed - EXPECTED.keys()))}"
print(f"result: {words}; a task {'is solved' if solved else 'is NOT solved'}")
sys.exit(0 if passed and solved and not failed - EXPECTED.keys() else 1)
