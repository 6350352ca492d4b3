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
# What the demo's predictions are worth. One more is empty, and one does not apply.
RIGHT, WRONG = ["imgforge__abacus-1"], ["imgforge__ledger-2"]


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
mine = Path("predictions.jsonl")
chosen = set()
with rows.open("w") as file:
    for line in (demo / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        # The harness of version 5 runs the script of the row, and makes none itself.
        if "eval_script" not in row:
            continue
        # The harness takes the name of the image from the row.
        row["image"] = f"sweb.eval.x86_64.{row['instance_id']}:latest"
        file.write(json.dumps(row) + "\n")
        chosen.add(row["instance_id"])
predictions = (demo / "predictions.jsonl").read_text().splitlines()
mine.write_text("".join(f"{line}\n" for line in predictions
                        if json.loads(line)["instance_id"] in chosen))
gold = harness(rows, "gold", "gold")
mixed = harness(rows, str(mine), "mixed")
print(json.dumps(mixed, indent=1))
print(f"result: {gold['resolved_instances']} of {len(chosen)} right patches resolve, "
      f"{mixed['resolved_instances']} of {len(chosen)} mixed ones")
is_as_expected = (gold["resolved_instances"] == len(chosen)
                  and mixed["resolved_ids"] == RIGHT and mixed["unresolved_ids"] == WRONG)
sys.exit(0 if is_as_expected else 1)
