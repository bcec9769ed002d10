"""What replaces or adds to something is killed on the way: old or new is there, and nothing else.

A reduced form of `benchmarks/crash_points.py`: a few kills of each command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "crash_points.py"
VERBS = ("build over", "slice over", "precompute text", "precompute latents", "add")
KILLS = 4


def test_a_killed_command_leaves_old_or_new_and_no_file_for_ever(tmp_path: Path) -> None:
    words = [word for verb in VERBS for word in ("--only", verb)]
    done = subprocess.run(
        [sys.executable, SCRIPT, *words, "--kills", str(KILLS)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    head, *rows = [line for line in done.stdout.splitlines() if "---" not in line]
    if not rows:
        pytest.skip(head)  # this kernel lets no process watch another's changes
    names = [cell.strip() for cell in head.strip("|").split("|")]
    found = [
        dict(zip(names, map(str.strip, row.strip("|").split("|")), strict=True)) for row in rows
    ]
    assert {row["verb"] for row in found} == set(VERBS)
    for row in found:
        wrong = [row[name] for name in ("lost", "leftovers", "not on disk")]
        assert wrong == ["0", "0", "0"], done.stderr
        assert row["killed"] == str(KILLS)
