"""The paradigm in examples/: short, found once installed, and at home in every composition."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "my_paradigm"


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which the example is installed."""
    info = tmp_path / "wamkit_my_paradigm-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: wamkit-my-paradigm\nVersion: 0.1.0\n"
    )
    (info / "entry_points.txt").write_text("[wamkit]\nmy_paradigm = wamkit_my_paradigm\n")
    paths = [str(tmp_path), str(EXAMPLE), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(args: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *args], env=env, capture_output=True, text=True, cwd=EXAMPLE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_takes_less_than_sixty_lines() -> None:
    files = list((EXAMPLE / "wamkit_my_paradigm").glob("*.py"))
    assert sum(len(file.read_text().splitlines()) for file in files) < 60


def test_it_passes_the_contract_tests(installed: dict[str, str]) -> None:
    out = run(["pytest", "-q", "-p", "no:cacheprovider", "tests"], installed)
    assert " passed" in out and "failed" not in out


def test_it_runs_with_every_backbone_and_head(installed: dict[str, str]) -> None:
    cells = json.loads(run(["wamkit", "matrix", "--paradigm", "glance", "--json"], installed))
    refused = {(c["backbone"], c["conflicts"][0]["why"]) for c in cells["cells"] if not c["runs"]}
    assert cells["runs"] > 50 and {backbone for backbone, _ in refused} <= {"timm_vit"}
