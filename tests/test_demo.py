"""`wamkit demo` as it is typed: what it makes, how it is continued, and the page about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from wamkit.cli.demo import drawing, page
from wamkit.cli.demo.stages import Settings, Way, begin, spec_of
from wamkit.cli.explain import explain_spec
from wamkit.config.registry import registry
from wamkit.errors import WamkitError

Wamkit = Callable[..., tuple[int, str, str]]

RESULT = {
    "episodes": 4,
    "successes": 3,
    "success_rate": 0.75,
    "interval_95": [0.3, 0.95],
    "steps_to_success": 60.0,
    "latency_ms": {"policy": {"p50": 20.0, "p95": 30.0}},
    "execute_steps": 4,
    "chunk_size": 8,
    "batch": 2,
    "control_hz": 80.0,
    "seconds": 12.0,
}
LOG = (
    {"step": 10, "loss": 1.0, "parts": {"action": 1.0, "video": 1.2}},
    {"step": 20, "loss": 0.1, "parts": {"action": 0.1, "video": 1.0}},
    {"step": 20, "validation": {"loss": 0.2, "action": 0.2, "video": 1.1}},
)


def expect_page(file: Path) -> ElementTree.Element:
    """The page as a tree. It is well-formed, fetches nothing and names its images."""
    text = file.read_text()
    root = ElementTree.fromstring(text)
    assert text.startswith("<!DOCTYPE html>") and root.get("lang") == "en"
    for element in root.iter():
        for name in ("src", "srcset", "href"):
            assert element.get(name, "data:").startswith("data:"), element.attrib
        if element.tag == "img":
            assert element.get("alt")
        if element.tag.endswith("svg"):
            title = element.find("{http://www.w3.org/2000/svg}title")
            assert element.get("aria-label") or (title is not None and title.text)
    assert not re.search(r"url\(|@import|<script", text)
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    return root


def settings(**changes: Any) -> Settings:
    given = {"task": "metaworld:reach-v3", "episodes": 4, "steps": 20, "eval_episodes": 4}
    return Settings(**{**given, "seed": 0, **changes})


def test_a_quick_demo_is_made_and_continued(wamkit: Wamkit, tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    args = ("demo", "--quick", "--out", tmp_path / "demo", "--processes", 1)
    code, out, err = wamkit(*args)
    assert code == 0, err
    assert "single_pass" in out and "expert" in out and "wrote" in out
    report = tmp_path / "demo" / "report.html"
    root = expect_page(report)
    (film,) = root.iter("img")
    assert film.get("src", "").startswith("data:image/gif;base64,")
    made = [tmp_path / "demo" / f for f in ("data.json", "expert.json", "single_pass/eval.json")]
    before = [file.stat().st_mtime_ns for file in made]
    report.unlink()
    code, out, _ = wamkit(*args, "--json")
    assert code == 0 and json.loads(out)["policies"]["single_pass"]["training"]["steps"] == 20
    assert report.is_file() and [file.stat().st_mtime_ns for file in made] == before


def test_every_paradigm_fits_the_demo_and_can_be_drawn() -> None:
    for name in registry().names("paradigm"):
        spec = spec_of(name, 3)
        assert spec.paradigm.name == name and spec.seed == 3
        drawn = ElementTree.fromstring(drawing.streams(explain_spec(spec)))
        assert "who sees whom" in (drawn[0].text or "")


def test_several_ways_are_compared_and_a_failure_is_reported(tmp_path: Path) -> None:
    spec = spec_of(None, 0)
    ways = [
        Way("one", spec, LOG, {"steps": 20, "seconds": 300.0}, RESULT),
        Way("two", None, problem="no room for <it> & more"),
    ]
    data = {"episodes": 4, "frames": 100, "seconds": 3.0}
    file = page.write(
        tmp_path / "r.html", settings(), data, {"expert": RESULT}, ways, {"one": explain_spec(spec)}
    )
    args = " ".join(expect_page(file).itertext())
    assert "The best of 2, one, solved 3 of 4" in args
    assert "two  has no result: no room for <it> & more" in args
    assert "30% to 95%" in args and "5 min" in args


def test_a_folder_is_continued_with_what_it_was_begun_with(tmp_path: Path) -> None:
    begin(tmp_path / "a", settings())
    begin(tmp_path / "a", settings())
    with pytest.raises(WamkitError, match="is a demo with steps = 20"):
        begin(tmp_path / "a", settings(steps=21))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("")
    with pytest.raises(WamkitError, match="is there already, and no demo"):
        begin(tmp_path / "b", settings())


def test_evaluation_never_sees_a_seed_of_the_demonstrations() -> None:
    for episodes in (2, 60, 500):
        chosen = settings(episodes=episodes, seed=7)
        assert chosen.first >= 7 + 4 * episodes + 10


def test_a_missing_simulator_is_reported_with_what_to_install(
    wamkit: Wamkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wamkit.simulate.environment.find_spec", lambda name: None)
    code, _, err = wamkit("demo", "--quick", "--out", tmp_path / "demo")
    assert code == 2 and "environment metaworld needs metaworld" in err
    assert 'pip install -e ".[sim]"' in err and not (tmp_path / "demo").exists()


def test_a_task_for_another_robot_is_refused_before_anything_is_made(
    wamkit: Wamkit, tmp_path: Path
) -> None:
    pytest.importorskip("gym_pusht")
    code, _, err = wamkit("demo", "--task", "pusht", "--out", tmp_path / "demo", "--processes", 1)
    assert code == 2 and "an action of the policy has 4 values" in err
    assert not (tmp_path / "demo").exists()
