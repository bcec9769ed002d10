"""The files of a suite's folder that are damaged, or that another program wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_suite import plugin  # noqa: F401 (a fixture)

Wamkit = Callable[..., tuple[int, str, str]]
Change = Callable[[dict[str, Any]], Any]
ARGS = ("eval", "random", "--suite", "rails", "--episodes", 1, "--processes", 0, "--films", 0)


@pytest.fixture
def shard(wamkit: Wamkit, tmp_path: Path) -> Path:
    """A shard of a suite that was played."""
    assert wamkit(*ARGS, "--out", tmp_path, "--shard", "1/1")[0] == 0
    return tmp_path / "shard-1-of-1"


def _put(*path: Any, value: Any) -> Change:
    def change(found: dict[str, Any]) -> None:
        place: Any = found
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def _drop(*path: Any) -> Change:
    def change(found: dict[str, Any]) -> None:
        place: Any = found
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_put("settings", value={}), "is damaged: settings.suite: "),
        (_put("settings", value=[]), "is damaged: settings: "),
        (_put("starts", value=[]), "is damaged: starts: "),
        (_put("starts", value={}), "is damaged: starts: "),
        (_put("starts", value=[1]), "is damaged: starts.0: "),
        (_drop("starts"), "is damaged: starts: "),
        (_drop("starts", 0, "policy"), "is damaged: starts.0.policy: "),
        (_drop("starts", 0, "versions"), "is damaged: starts.0.versions: "),
        (_drop("starts", 0, "command"), "is damaged: starts.0.command: "),
        (_put("starts", 0, "versions", value=["1"]), "is damaged: starts.0.versions: "),
        (_put("settings", "suite", value=3), "is damaged: settings.suite: "),
        (_put("settings", "tasks", value=[]), "is damaged: settings.tasks: "),
        (_put("settings", "tasks", value="near"), "is damaged: settings.tasks: "),
        (_put("settings", "tasks", value=["far off"]), "suite rails has no task 'far off'"),
        (_put("settings", "seed", value="1"), "is damaged: settings.seed: "),
        (_put("settings", "seed", value=-1), "is damaged: settings.seed: "),
        (_put("settings", "episodes_per_task", value=1.5), "settings.episodes_per_task: "),
        (_put("settings", "episodes_per_task", value=10**12), "settings.episodes_per_task: "),
        (_put("settings", "policy", value="random"), "is damaged: settings.policy: "),
        (_put("settings", "environment", value=None), "is damaged: settings.environment: "),
    ],
)
def test_damaged_settings_are_named(
    wamkit: Wamkit, shard: Path, change: Change, message: str
) -> None:
    file = shard / "settings.json"
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))
    code, _, err = wamkit("eval", "--merge", shard.parent)
    err = " ".join(err.split())
    assert code == 2 and message in err
    assert "settings.json" in err or "has no task" in err


@pytest.mark.parametrize("text", ["[]", "1", "null", "{", "[" * 1000, "\x00"])
def test_settings_that_are_no_table_are_named(wamkit: Wamkit, shard: Path, text: str) -> None:
    (shard / "settings.json").write_text(text)
    for args in (("eval", "--merge", shard.parent), (*ARGS, "--out", shard)):
        code, _, err = wamkit(*args)
        assert code == 2 and "settings.json" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("task"), "task: "),
        (_put("task", value=3), "task: "),
        (_put("episode", value="0"), "episode: "),
        (_put("episode", value=-1), "count from 0"),
        (_put("success", value="yes"), "success: "),
        (_put("steps", value=None), "steps: "),
        (_put("steps", value=2.5), "steps: "),
        (_put("total", value="1"), "total: "),
        (_put("total", value=float("nan")), "NaN"),
        (_put("instruction", value=[]), "instruction: "),
        (_put("film", value=7), "film: "),
        (_put("film", value="../settings.json"), "film: '../settings.json'"),
        (_put("film", value="/etc/passwd"), "film: '/etc/passwd'"),
        (_put("weather", value="fair"), "unknown 'weather'"),
    ],
)
def test_a_damaged_episode_is_named_by_its_line(
    wamkit: Wamkit, shard: Path, change: Change, message: str
) -> None:
    file = shard / "episodes.jsonl"
    first, *rest = file.read_text().splitlines()
    found = json.loads(first)
    change(found)
    file.write_text("\n".join([json.dumps(found), *rest]) + "\n")
    for args in (("eval", "--merge", shard.parent), (*ARGS, "--out", shard.parent, "--shard=1/1")):
        code, _, err = wamkit(*args)
        err = " ".join(err.split())
        assert code == 2 and message in err and "episodes.jsonl, line 1, is damaged" in err


@pytest.mark.parametrize("line", ["[]", "1", "null", "{", "[" * 1000, ""])
def test_a_line_that_is_no_episode_is_named(wamkit: Wamkit, shard: Path, line: str) -> None:
    file = shard / "episodes.jsonl"
    file.write_text(line + "\n" + file.read_text())
    code, _, err = wamkit("eval", "--merge", shard.parent)
    assert code == 2 and "line 1, is damaged" in " ".join(err.split())
