"""`wamkit eval --real-time` as it is typed: the world goes on while the policy computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_cli_simulate import saved as saved

from wamkit.cli._real_time import RealTimeOptions, parse_real_time
from wamkit.errors import WamkitError
from wamkit.testing.fixtures import spec_with, with_overrides

Wamkit = Callable[..., tuple[int, str, str]]
PUSHT = pytest.mark.skipif(find_spec("gym_pusht") is None, reason="gym-pusht is missing")
GUIDED = ("--prefix-mode", "guided")
FEW = ("--env", "pusht", "--episodes", 2, "--processes", 0, "--env-arg", "max_steps=24")


@PUSHT
def test_an_evaluation_in_real_time_is_reported_and_the_same_again(
    wamkit: Wamkit, saved: Path
) -> None:
    late = ("--real-time", "--delay-ms", "120-300,500/4", "--set", "schedules.action.steps=3")
    code, out, err = wamkit("eval", saved, *FEW, *late, "--json")
    assert code == 0, err
    found = json.loads(out)["real_time"]
    assert found["delay_ms"] == [120, 300] and found["spike_ms"] == 500 and found["prefix"]
    assert 2 <= found["delay_steps"]["mean"] <= 5 and found["delay_steps"]["max"] <= 5
    assert found["steps"] >= 48 and found["chunk_merge"] == "replace"
    again = json.loads(wamkit("eval", saved, *FEW, *late, "--json")[1])
    assert again["real_time"] == found and again["return"] == json.loads(out)["return"]
    code, out, _ = wamkit("eval", saved, *FEW, *late, "--chunk-merge", "append")
    assert code == 0 and "append, no prefix" in out and "steps without an action" in out


@PUSHT
def test_no_delay_is_the_same_as_a_world_that_waits(wamkit: Wamkit, saved: Path) -> None:
    plain = json.loads(wamkit("eval", saved, *FEW, "--json")[1])
    late = ("--real-time", "--delay-ms", "0", "--prefix-mode", "none")
    real = json.loads(wamkit("eval", saved, *FEW, *late, "--json")[1])
    assert real["return"] == plain["return"] and real["real_time"]["delay_steps"]["max"] == 0


def test_a_policy_with_a_memory_has_no_chunks_to_merge_or_to_continue() -> None:
    names = {"backbone": "toy", "action_head": "mot", "paradigm": "autoregressive"}
    spec = with_overrides(spec_with(**names))
    late = parse_real_time(True, "9000", "replace", "auto")
    assert late is not None and late.prefix_mode(spec) is None
    assert not list(late.conflicts(spec, spec.actions.chunk_size))  # it stands still meanwhile
    for merge, prefix, option in (
        ("append", "auto", "--chunk-merge"),
        ("replace", "guided", "--prefix-mode"),
    ):
        late = parse_real_time(True, "100", merge, prefix)
        assert late is not None
        (conflict,) = late.conflicts(spec, spec.actions.chunk_size)
        assert conflict.between == (option, "paradigm.name")
        assert "remembers its episode" in conflict.why and option in conflict.hint


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--delay-ms", "120"), "--delay-ms has no meaning for a world that waits"),
        (("--chunk-merge", "replace"), "--chunk-merge has no meaning for a world that waits"),
        (("--real-time",), "--real-time without a delay"),
        (("--real-time", "--delay-ms", "fast"), "--delay-ms 'fast' is no delay"),
        (("--real-time", "--delay-ms", "200-100"), "is no delay up to"),
        (("--real-time", "--delay-ms", "99999"), "is no delay up to 60000 ms"),
        (("--real-time", "--delay-ms", "120,500/0"), "one in 0 replies is none"),
        (
            (
                "--real-time",
                "--delay-ms",
                "9",
                "--chunk-merge",
                "append",
                "--prefix-mode",
                "guided",
            ),
            "--prefix-mode guided, and --chunk-merge append",
        ),
    ],
)
def test_what_is_no_delay_is_refused(wamkit: Wamkit, args: tuple[str, ...], message: str) -> None:
    code, _, err = wamkit("eval", "nobody", "--env", "pusht", *args)
    assert code == 2 and message in " ".join(err.split())


def test_a_delay_is_read_as_it_is_written() -> None:
    found = parse_real_time(True, "80.5-150,500/20", "replace", "auto")
    assert found == RealTimeOptions(80.5, 150, 500, 20, "replace", "auto")
    assert parse_real_time(False, None, "replace", "auto") is None


@PUSHT
@pytest.mark.parametrize(
    ("delay", "more", "messages"),
    [
        ("500", (), ("500 ms are 5 steps at 10 Hz", "too late", "--delay-ms 400 or less")),
        ("900", (), ("900 ms are 9 steps", "actions.chunk_size = 18 or more")),
        ("100-450", (), ("450 ms are 5 steps", "with --execute-steps 4")),
        ("300", ("--execute-steps", 2), ("a delay of 3 steps", "--execute-steps 3 to 5")),
        ("300", ("--execute-steps", 6), ("6 executed steps leave 2", "--execute-steps 3 to 5")),
        ("400", ("--execute-steps", 3), ("a delay of 4 steps", "hint: --execute-steps 4\n")),
    ],
)
def test_a_usual_delay_that_does_not_fit_the_chunk_is_refused(
    wamkit: Wamkit, saved: Path, delay: str, more: tuple[Any, ...], messages: tuple[str, ...]
) -> None:
    code, _, err = wamkit("eval", saved, *FEW, "--real-time", "--delay-ms", delay, *more)
    plain = " ".join(err.split()) + "\n"
    assert code == 2 and all(message in plain for message in messages), err


@PUSHT
def test_a_spike_may_leave_the_robot_still_and_is_named_and_counted(
    wamkit: Wamkit, saved: Path
) -> None:
    late = ("--real-time", "--delay-ms", "100,700/2", "--json")
    code, out, err = wamkit("eval", saved, *FEW, *late)
    found = json.loads(out)["real_time"]
    assert code == 0 and found["delay_steps"]["max"] == 7 and found["idle_steps"] > 0
    assert "a spike of 700 ms is 7 steps, and 4 are planned" in " ".join(err.split())
    late = ("--real-time", "--delay-ms", "100-400,400/2", "--json")
    code, out, err = wamkit("eval", saved, *FEW, *late)
    assert code == 0 and json.loads(out)["real_time"]["idle_steps"] == 0 and "spike" not in err


def test_a_prefix_is_of_a_mode_that_the_policy_takes() -> None:
    from serving import policy

    def mode(prefix: str, merge: str = "replace") -> Any:
        return RealTimeOptions(120, 120, 0, 0, merge, prefix).prefix_mode(policy().spec)

    assert mode("auto") == "guided" and mode("freeze") == "freeze"
    assert mode("none") is None and mode("auto", "append") is None
    with pytest.raises(WamkitError, match="it learned no prefix"):
        mode("trained")
    with pytest.raises(WamkitError, match="no mode of a prefix is called 'guide'"):
        mode("guide")
