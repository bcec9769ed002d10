"""`wamkit demo` as it is typed: what it makes, how it is continued, and the page about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from wamkit.cli.demo import figures, page
from wamkit.cli.demo.film import LARGEST
from wamkit.cli.demo.imagined import draw_quality
from wamkit.cli.demo.stages import Demo, Settings, Way, begin, spec_of
from wamkit.cli.explain import explain_spec
from wamkit.config.registry import registry
from wamkit.errors import WamkitError
from wamkit.files import plots

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
            assert element.get("aria-label")
    assert not re.search(r"url\((?!#)|@import|<script", text)
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
    expert, policy = root.iter("img")
    for film in (expert, policy):
        assert film.get("src", "").startswith("data:image/webp;base64,")
        assert len(film.get("src", "")) < 1.4 * LARGEST
    assert report.stat().st_size < 6e6
    names = ("data.json", "expert.json", "single_pass/eval.json", "single_pass/imagined.json")
    made = [tmp_path / "demo" / name for name in names]
    assert "How good the imagined future is" in set(root.itertext())
    before = [file.stat().st_mtime_ns for file in made]
    report.unlink()
    code, out, _ = wamkit(*args, "--json")
    assert code == 0 and json.loads(out)["policies"]["single_pass"]["training"]["steps"] == 20
    assert report.is_file() and [file.stat().st_mtime_ns for file in made] == before


def test_every_paradigm_fits_the_demo_and_can_be_drawn() -> None:
    for name in registry().names("paradigm"):
        spec = spec_of(name, 3)
        assert spec.paradigm.name == name and spec.seed == 3
        with plots.style():
            table = ElementTree.fromstring(figures.draw_attention(explain_spec(spec)))
            timeline = ElementTree.fromstring(figures.draw_timeline(spec, 4))
        assert "action sees" in table.get("aria-label", "")
        assert "next decision" in set(timeline.itertext())


def test_paradigms_are_sorted_by_success_then_by_time_and_a_failure_is_reported(
    tmp_path: Path,
) -> None:
    def way(name: str, successes: int, ms: float) -> Way:
        latency = {"policy": {"p50": ms, "p95": ms}}
        found = {**RESULT, "success_rate": successes / 4, "successes": successes}
        trained = {"steps": 20, "seconds": 300.0}
        return Way(name, spec, LOG, trained, found | {"latency_ms": latency})

    spec = spec_of(None, 0)
    ways = [way("a", 2, 1.0), way("b", 3, 20.0), way("c", 3, 7.0)]
    ways.append(Way("d", None, problem="no room for <it> & more"))
    ways.sort(key=lambda way: way.rank)
    assert [way.name for way in ways] == ["c", "b", "a", "d"]
    data = {"episodes": 4, "frames": 100, "seconds": 3.0}
    demo = Demo(settings(), data, {"expert": RESULT}, tuple(ways))
    facts = dict.fromkeys("abc", explain_spec(spec))
    text = " ".join(
        " ".join(expect_page(page.write(tmp_path / "r.html", demo, facts)).itertext()).split()
    )
    assert "The best of 4 paradigms, c, solved 3 of 4" in text
    assert "d has no result: no room for <it> & more" in text
    assert re.search(r"c 3 of 4 30 to 95 7\.0 9 60", text) and "5 min" in text
    assert "imagines only while it learns" in text and "wamkit explore" in text


def quality(count: int, intervals: bool = True) -> list[dict[str, Any]]:
    """Rows of imagined frames, for so many horizons."""

    def mean(value: float) -> dict[str, Any]:
        return {"mean": value, "interval_95": [value - 0.1, value + 0.1] if intervals else None}

    one = {"policy": mean(0.7), "copy": mean(0.6), "difference": mean(0.1)}
    rows = ({"frame": i + 1, "seconds": 0.1 * (i + 1)} for i in range(count))
    return [{**row, "psnr": one, "ssim": one, "haarpsi": one} for row in rows]


@pytest.mark.parametrize(("horizons", "intervals"), [(1, True), (1, False), (3, True)])
def test_imagined_frames_are_drawn_next_to_the_copied_one(horizons: int, intervals: bool) -> None:
    found = {"one": quality(horizons, intervals), "<two>": quality(horizons, intervals)}
    with plots.style():
        drawn = ElementTree.fromstring(draw_quality(found))
    assert {"PSNR, dB", "SSIM", "HaarPSI", "copy", "one", "<two>"} <= set(drawn.itertext())
    assert "one: PSNR, dB 0.7, SSIM 0.7, HaarPSI 0.7" in drawn.get("aria-label", "")


def test_every_paradigm_is_drawn_however_many_there_are() -> None:
    found = {f"paradigm{number}": quality(2 + number % 2) for number in range(20)}
    with plots.style():
        figure = draw_quality(found)
    assert {*found, "copy"} <= set(ElementTree.fromstring(figure).itertext())
    for name in found:
        assert f"{name}: PSNR" in figure
    lines = re.findall(r'd="(M[^"]*)" clip-path="[^"]*" style="fill: none', figure)
    assert len(lines) == 3 * (len(found) + 1)
    assert max(line.count("L") + 1 for line in lines) == 3


def test_every_paradigm_without_measured_frames_is_named_with_the_reason(tmp_path: Path) -> None:
    latency = {"latency_ms": {"policy": {"p50": 1.0, "p95": 2.0}}}
    trained = {"steps": 20, "seconds": 300.0}
    spec, whys = spec_of(None, 0), ["no extra", "no frames", "no extra"]
    ways = tuple(
        Way(name, spec, LOG, trained, RESULT | latency, {"problem": why})
        for name, why in zip("abc", whys, strict=True)
    )
    data = {"episodes": 4, "frames": 100, "seconds": 3.0}
    demo = Demo(settings(), data, {"expert": RESULT}, ways)
    root = expect_page(
        page.write(tmp_path / "r.html", demo, dict.fromkeys("abc", explain_spec(spec)))
    )
    text = " ".join(" ".join(root.itertext()).split())
    assert "Not measured of a, c: no extra" in text and "Not measured of b: no frames" in text


def test_the_report_says_how_good_imagined_frames_are_or_why_it_does_not_know(
    tmp_path: Path,
) -> None:
    latency = {"latency_ms": {"policy": {"p50": 1.0, "p95": 2.0}}}
    trained = {"steps": 20, "seconds": 300.0}
    spec = spec_of(None, 0)
    ways = [
        Way("a", spec, LOG, trained, RESULT | latency, {"imagined": quality(1)}),
        Way("b", spec, LOG, trained, RESULT | latency, {"problem": "no <extra>"}),
    ]
    data = {"episodes": 4, "frames": 100, "seconds": 3.0}
    demo = Demo(settings(), data, {"expert": RESULT}, tuple(ways))
    facts = dict.fromkeys("ab", explain_spec(spec))
    root = expect_page(page.write(tmp_path / "r.html", demo, facts))
    text = " ".join(" ".join(root.itertext()).split())
    assert "a 0.1 0.7 +0.1 (+0 to +0.2)" in text and "copy 0.1 0.6" in text
    assert "Not measured of b: no <extra>" in text


def test_a_demo_without_the_plots_extra_stops_before_it_begins(
    wamkit: Wamkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    code, _, err = wamkit("demo", "--quick", "--out", tmp_path / "demo")
    assert code == 2 and '".[plots]"' in err and not (tmp_path / "demo").exists()


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
