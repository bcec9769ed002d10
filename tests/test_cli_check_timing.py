"""`wamkit check --delay --execute-steps --prefix-mode`: how a policy is to be run, before it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wamkit.cli._real_time import RealTimeOptions
from wamkit.config.spec import parse, read

Wamkit = Callable[..., tuple[int, str, str]]
TOY = Path(__file__).parent.parent / "examples" / "toy.toml"  # chunks of 8 at 10 Hz


@pytest.mark.parametrize(
    "args",
    [
        ("--delay", 4),
        ("--delay", 3, "--execute-steps", 5),
        ("--delay", 2, "--prefix-mode", "guided"),
        ("--delay", 2, "--prefix-mode", "trained", "--set", "actions.max_delay=2"),
        ("--execute-steps", 8),
    ],
)
def test_a_run_that_fits_is_said_to(wamkit: Wamkit, args: tuple[Any, ...]) -> None:
    code, out, _ = wamkit("check", TOY, "--tiny", *args)
    assert code == 0 and "fits" in out


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        (("--delay", 5), ("a delay of 5 steps", "--delay 4 or less", "chunk_size = 10")),
        (("--delay", 3, "--execute-steps", 6), ("leave 2", "--execute-steps 3 to 5")),
        (("--delay", 3, "--execute-steps", 2), ("come too late", "--execute-steps 3 to 5")),
        (("--execute-steps", 9), ("9 executed steps leave -1", "--execute-steps 1 to 8")),
        (("--prefix-mode", "trained"), ("it learned no prefix", "actions.max_delay = 1")),
        (
            ("--prefix-mode", "guided", "--set", "schedules.action.steps=1"),
            ("a guided prefix in 1 steps", "schedules.action.steps = 3"),
        ),
        (
            ("--delay", 6, "--prefix-mode", "trained", "--set", "actions.chunk_size=x"),
            ("actions.chunk_size",),
        ),
    ],
)
def test_a_run_that_does_not_fit_is_refused_with_a_cure(
    wamkit: Wamkit, args: tuple[Any, ...], messages: tuple[str, ...]
) -> None:
    code, out, err = wamkit("check", TOY, "--tiny", *args)
    plain = " ".join((out + err).split())
    assert code == 1 and all(message in plain for message in messages), plain


def test_all_conflicts_of_a_run_come_at_once_with_those_of_the_spec(wamkit: Wamkit) -> None:
    late = ("--delay", 5, "--execute-steps", 2, "--prefix-mode", "trained")
    code, out, _ = wamkit("check", TOY, *late, "--set", "actions.max_delay=4", "--json")
    spare = wamkit("check", TOY, "--set", "actions.max_delay=4", "--json")[1]
    own = json.loads(spare)["conflicts"]
    found = json.loads(out)["conflicts"]
    assert code == 1 and found[: len(own)] == own and len(found) == len(own) + 2
    assert [c["between"][0] for c in found[len(own) :]] == ["--delay", "--prefix-mode"]
    assert "it learned delays up to 4 steps" in found[-1]["why"]


def test_the_rules_are_those_of_an_evaluation_in_real_time(wamkit: Wamkit) -> None:
    spec = parse(read(TOY)).tiny()[0]
    for delay in (0, 2, 4, 5):
        for executed in (1, 4, 6):
            late = RealTimeOptions(100 * delay, 100 * delay, 0, 0, "replace", "none")
            why = [c.why.partition(": ")[2] for c in late.conflicts(spec, executed)]
            args = ("--delay", delay, "--execute-steps", executed, "--json")
            found = json.loads(wamkit("check", TOY, "--tiny", *args)[1])["conflicts"]
            assert [c["why"] for c in found] == why


def test_a_policy_with_a_memory_takes_no_prefix_and_any_delay(wamkit: Wamkit) -> None:
    example = TOY.parent / "dreamzero_5b.toml"
    code, _, err = wamkit("check", example, "--tiny", "--delay", 99)
    assert code == 0, err
    code, out, _ = wamkit("check", example, "--tiny", "--prefix-mode", "freeze")
    assert code == 1 and "remembers its episode" in " ".join(out.split())
