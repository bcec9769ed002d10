"""What `wamkit act` tells of its time: the whole since the process began, and its parts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from wamkit.cli import act

ROOT = Path(__file__).parent.parent
WORDS = [
    *("act", str(ROOT / "examples" / "toy.toml"), "--tiny", "--prompt", "go"),
    *("--image", str(ROOT / "examples" / "images" / "coffee.jpg")),
]


def test_the_parts_of_a_cold_start_are_its_whole() -> None:
    begin = time.perf_counter()
    args = [sys.executable, "-m", "wamkit", *WORDS]
    env = dict(os.environ)  # without what readline put there behind Python's back: COLUMNS
    done = subprocess.run(args, capture_output=True, text=True, env=env)
    wall = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    line = done.stdout.strip().splitlines()[-1]
    whole, *parts = [float(number) for number in re.findall(r"(\d+\.\d\d) s ", line)]
    spent = dict(zip(act.PARTS, parts, strict=True))
    assert sum(parts) == pytest.approx(whole, abs=0.01 * len(parts))  # each is rounded
    assert whole <= wall + 0.02  # the clock of processes ticks every hundredth
    if act.age() is not None:
        assert spent["start"] > 0  # the interpreter takes its time too
        assert whole > 0.5 * wall
    assert spent["torch"] > 0


def test_the_split_is_printed_with_descriptions(wamkit: Any) -> None:
    code, out, _ = wamkit(*WORDS)
    line = out.strip().splitlines()[-1]
    assert code == 0 and ("s since the process began: " in line or act.age() is None)
    for args in act.PARTS.values():
        assert args in line


def test_where_the_age_of_a_process_is_unknown_the_command_is_timed(
    wamkit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act, "age", lambda: None)
    code, out, _ = wamkit(*WORDS)
    assert code == 0 and "s since the command was called: 0.00 s Python" in out


def test_the_age_of_a_process_grows() -> None:
    first = act.age()
    if first is None:
        pytest.skip("this system does not tell when a process began")
    time.sleep(0.05)
    second = act.age()
    assert second is not None and 0.03 < second - first < 30
