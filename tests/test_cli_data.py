"""`wamkit data`, as a user types it and mistypes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wamkit.config.spec import parse, read
from wamkit.policy.actions import read_statistics
from wamkit.testing.dataset import record

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "set", parse(read(TOY)))


def test_check_reports_that_a_data_set_is_whole(wamkit: Run, folder: Path) -> None:
    code, out, _ = wamkit("data", "check", folder, "--spec", TOY)
    assert (code, out) == (0, f"{folder} is whole.\n")


def test_check_lists_faults_with_their_place(wamkit: Run, folder: Path, tmp_path: Path) -> None:
    import shutil

    broken = shutil.copytree(folder, tmp_path / "broken")
    film = next(broken.rglob("*.mp4"))
    film.unlink()
    name = film.relative_to(broken)
    args = ["data", "check", broken, "--spec", TOY, "--set", "actions.control_hz=5"]
    code, out, _ = wamkit(*args)
    assert code == 1 and f"{broken} has 2 faults:" in out
    assert "  1. meta/info.json: " in out and "the spec 5 actions" in out
    assert f"  2. {name}: is missing" in out
    code, out, _ = wamkit(*args, "--json")
    report = json.loads(out)
    assert code == 1 and not report["fits"]
    assert report["findings"][1] == {
        "file": str(name),
        "why": "is missing",
        "episode": None,
        "frame": None,
        "hint": "copy the whole data set again",
    }


def test_show_lists_the_content(wamkit: Run, folder: Path, tmp_path: Path) -> None:
    code, out, err = wamkit("data", "show", folder, "--out", tmp_path / "strip.png")
    assert code == 0 and "LeRobot v3.0, robot example" in out
    assert "2 episodes of 12 frames, 24 frames at 10 a second, 2.4 seconds" in out
    assert "observation.images.front" in out and "task 1" in out
    assert f"wrote {tmp_path / 'strip.png'}" in err
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.size == (8 * 128, 96)
    code, out, _ = wamkit("data", "show", folder, "--json")
    report: dict[str, Any] = json.loads(out)
    assert report["frames"] == 24 and report["features"]["action"]["shape"] == [4]


def test_stats_are_printed_and_written(wamkit: Run, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "statistics.json"
    code, out, _ = wamkit("data", "stats", folder, "--spec", TOY, "--out", file)
    assert code == 0 and "action arm.0" in out
    assert read_statistics(file)["action"].min[0] == pytest.approx(0.01)
    code, out, _ = wamkit("data", "stats", folder, "--json")
    assert json.loads(out)["action"]["max"][0] == pytest.approx(1.12)


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["show", "SET", "--spec", TOY], "--spec has no meaning for `data show`"),
        (["stats", "SET", "--decode"], "--decode has no meaning for `data stats`"),
        (["check", "SET", "--set", "seed=1"], "--set and --key-map speak of a spec"),
        (["check", "nowhere"], "no folder at nowhere"),
        (["show", "nowhere"], "no data set at nowhere: it has no meta/info.json"),
        (["stats", "SET", "--key-map", "action=acton"], "has no 'acton' for action"),
    ],
)
def test_mistakes_are_reported_with_a_message(
    wamkit: Run, folder: Path, args: list[Any], problem: str
) -> None:
    code, out, err = wamkit("data", *[folder if word == "SET" else word for word in args])
    assert (code, out) == (2, "") and f"error: {problem}" in err.replace(f"{folder} ", "")
