"""The harness of SWE-bench: its verdicts over the demo's patches, right ones and wrong ones.

CLIENTS_ROWS names a file of other rows; their images are there, and their own patches are judged.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

place = os.environ["CLIENTS_PLACE"]
demo = Path(os.environ["CLIENTS"]).parents[1] / "demo"
# What the demo's predictions are worth: the others are wrong, empty, refused, or touch the tests.
RIGHT = {"imgforge__abacus-1", "imgforge__ledger-2"}


def harness(rows: Path, predictions: str, run: str) -> dict:
    """Runs the harness, and returns its report."""
    subprocess.run(
        [sys.executable, "-m", "swebench.harness.run_evaluation", "--dataset_name", rows,
         "--predictions_path", predictions, "--max_workers", "2", "--run_id", run], check=True)
    return json.loads(next(Path().glob(f"*.{run}.json")).read_text())


if os.environ["CLIENTS_ROWS"]:
    rows = Path(os.environ["CLIENTS_ROWS"])
    gold = harness(rows, "gold", "gold")
    print(f"verdicts: {json.dumps(dict.fromkeys(gold['resolved_ids'], 'resolved'))}")
    print(f"result: {gold['resolved_instances']} of {gold['completed_instances']} of their own patches "
          f"resolve, {gold['error_instances']} errors")
    sys.exit(1 if gold["error_instances"] else 0)

engine = "docker" if place == "docker" else "embedded"
subprocess.run([os.environ["CLIENTS_IMGFORGE"], "--engine", engine, "--state-dir",
                os.environ["CLIENTS_STATE"], "build", "-d", "demo", "--bootstrap"], check=True)
rows = Path("rows.jsonl")
with rows.open("w") as file:
    for line in (demo / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        # The harness takes the name of the image from the row.
        row["image"] = f"sweb.eval.x86_64.{row['instance_id']}:latest"
        file.write(json.dumps(row) + "\n")
gold = harness(rows, "gold", "gold")
mixed = harness(rows, str(demo / "predictions.jsonl"), "mixed")
print(json.dumps(mixed, indent=1))
print(f"result: {gold['resolved_instances']} of 8 of the right patches resolve, "
      f"{mixed['resolved_instances']} of the mixed ones")
sys.exit(0 if gold["resolved_instances"] == 8 and set(mixed["resolved_ids"]) == RIGHT else 1)
