"""`--wide`: tables of any width in one piece, for every command that prints tables."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from wamkit.cli import VERBS, verb
from wamkit.cli._folding import wide, width

Run = Callable[..., tuple[int, str, str]]
SMALL = Path(__file__).parent / "data" / "small.toml"


def test_every_command_that_prints_tables_has_the_option() -> None:
    tables = {"list", "show", "explain", "matrix", "compare", "bench", "act", "estimate", "doctor"}
    for name in VERBS:
        found = any("--wide" in p.opts for p in verb(name).params)
        module = import_module(f"wamkit.cli.{VERBS[name]}")
        prints = hasattr(module, "show_table") or getattr(module, "PRINTS_TABLES", False)
        assert found == prints, name
        assert found or name not in tables


@pytest.mark.parametrize(
    "args",
    [["show", "schedules"], ["show", "backbone", "wan"], ["explain", SMALL], ["doctor"]],
    ids=lambda args: " ".join(map(str, args[:2])),
)
def test_nothing_is_folded_or_cut_into_several_tables(
    wamkit: Run, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    narrow, whole = wamkit(*args)[1], wamkit(*args, "--wide")[1]
    assert max(map(len, narrow.splitlines())) <= 80 or args == ["doctor"]
    assert len(whole.splitlines()) <= len(narrow.splitlines())
    rules = [line for line in whole.splitlines() if line and not line.strip("─-")]
    assert len(rules) <= sum(not line.strip("─-") for line in narrow.splitlines() if line)
    if args == ["show", "schedules"]:
        row = next(line for line in whole.splitlines() if line.startswith("*.timestep_sampling"))
        assert '"pure_noise"' in row and "Distribution of training levels." in row


def test_the_option_holds_for_one_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with wide():
        assert width() > 10_000
    assert width() == 60
