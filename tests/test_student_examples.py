"""The numbered scripts in examples/: short, and each shows its point, here in reduced form."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from wamkit.config.registry import forget, registry
from wamkit.testing import CHECKS

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("0*.py"))

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: Any, capsys: Any) -> Iterator[Run]:
    """Run one of the scripts as `python examples/...` does, and give what it prints."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.syspath_prepend(str(EXAMPLES))
        (script,) = EXAMPLES.glob(f"{name}_*.py")
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        runpy.run_path(str(script), run_name="__main__")
        return str(capsys.readouterr().out)

    yield run
    forget()  # one of them registers a head
    sys.modules.pop("toy_task", None)


def images(folder: Path) -> set[str]:
    """The files in a folder; those that are SVG are well formed."""
    for file in folder.glob("*.svg"):
        ElementTree.parse(file)
    return {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("script", [*SCRIPTS, EXAMPLES / "toy_task.py"], ids=lambda p: p.stem)
def test_a_script_is_short_and_begins_with_what_one_learns(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) < 120
    if script in SCRIPTS:
        assert text.startswith('"""What one learns: ') and f"python examples/{script.name}" in text


def test_the_index_names_every_spec_and_every_script() -> None:
    index = (EXAMPLES / "README.md").read_text()
    for file in [*EXAMPLES.glob("*.toml"), *EXAMPLES.glob("*.py")]:
        assert f"`{file.name}`" in index, f"examples/README.md does not name {file.name}"


def test_01_by_hand_is_what_wamkit_does(run: Run) -> None:
    found = run("01", "--quick")
    gaps = [float(gap) for gap in re.findall(r"(\S+) apart", found)]
    assert len(gaps) == 3 and max(gaps) < 1e-4  # of numbers around 1


def test_02_states_what_is_computed_once(run: Run, tmp_path: Path) -> None:
    found = run("02", "--out", str(tmp_path))
    rows = dict(re.findall(r"^(\S.*?) +once: (.+)$", found, re.M))
    assert rows["Fast-WAM"] == rows["Fast-WAM-Joint"] == "context"
    assert rows["Efficient-WAM"] == "nothing" and rows["ImageWAM"] == "text, context"
    assert rows["Fast-WAM-IDM"] == "context, target'" and "did.0" in rows["LingBot-VA, by blocks"]
    assert found.count("only to learn from: target\n") == 2
    assert images(tmp_path) == {"visibility.svg"}


def test_03_acts_the_same_with_a_cache_and_for_less(run: Run, tmp_path: Path) -> None:
    found = run("03", "--quick", "--out", str(tmp_path))
    rows = re.findall(r"WAM\S* +(\S+) .* (\S+)x$", found, re.M)
    assert len(rows) == 2
    assert all(float(gap) < 1e-4 and float(saved) > 1 for gap, saved in rows)
    assert images(tmp_path) == {"cache.svg"}


def test_04_trains_and_draws_what_came_of_it(run: Run, tmp_path: Path) -> None:
    found = run("04", "--quick", "--out", str(tmp_path))
    assert "first loss: action" in found and "after   10 steps" in found
    assert images(tmp_path) == {"loss.svg"}


def test_05_reports_every_seed_and_claims_no_more(run: Run, tmp_path: Path) -> None:
    found = run("05", "--quick", "--out", str(tmp_path))
    assert len(re.findall(r"^ +\d +\d\.\d+ +\d\.\d+ +[+-]\d", found, re.M)) == 2
    assert "The interval contains 0" in found or "The interval leaves out 0" in found
    assert images(tmp_path) == {"video.svg"}


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ([-0.02, 0.03, -0.01], "do not show"),
        ([-0.10, -0.11, -0.10], "is smaller"),
        ([0.10, 0.11, 0.10], "is larger"),
    ],
)
def test_05_states_what_the_interval_allows(
    differences: list[float], message: str, monkeypatch: Any
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    script = runpy.run_path(str(EXAMPLES / "05_video_helps.py"))
    assert message in script["verdict"](differences)


def test_06_measures_every_solver(run: Run, tmp_path: Path) -> None:
    found = run("06", "--quick", "--out", str(tmp_path))
    rows = re.findall(r"^(\w+) +(\d+) +\d\.\d+ ±", found, re.M)
    assert {name for name, _ in rows} == {"euler", "midpoint", "heun", "unipc", "ab2"}
    assert len(rows) == 3 + 2 + 2 + 3 + 3
    assert images(tmp_path) == {"steps.svg", "deviation.svg"}


def test_07_brings_a_head_that_fits_and_is_held_to_the_contract(run: Run) -> None:
    found = run("07", "--quick")
    assert "single_pass  acts [2, 6, 4]" in found and "idm          acts [2, 6, 4]" in found
    assert "joint, mutual: refused." in found
    assert found.count("contract: ") == len(CHECKS["policy"])


def test_07_leaves_no_head_behind() -> None:
    assert "glimpse" not in registry().names("action_head")
