"""Of the bad inputs of `benchmarks/bad_inputs.py` a few of each area, as the script runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

for needed in ("pyarrow", "av", "transformers"):
    pytest.importorskip(needed)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc, and forks")

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "bad_inputs.py"
AREAS = 12
EACH = 10


def test_a_few_bad_inputs_of_each_area_are_refused_with_a_message(tmp_path: Path) -> None:
    found = tmp_path / "found.jsonl"
    args = [sys.executable, str(SCRIPT), "--out", str(found), "--sample", str(EACH)]
    done = subprocess.run(
        [*args, "--folder", str(tmp_path / "work")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in found.read_text().splitlines()]
    wrong = [
        f"{line['area']}: {line['case']}: {line['verdict']}: {line['seen']}"
        for line in lines
        if line["verdict"] != "right"
    ]
    assert not wrong, "\n".join(wrong)
    assert len(lines) == AREAS * EACH
    assert f"| all | {AREAS * EACH} |" in done.stdout
    assert sum(line["expected"] == "accepted" for line in lines) >= AREAS
