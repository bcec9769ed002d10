"""What `wamkit bench` tells: every stage, its work and its floor, of this machine alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wamkit
from wamkit.bench import Report, Roof, measure, versus
from wamkit.bench.taps import Stages, tapped
from wamkit.cost import cost
from wamkit.errors import WamkitError
from wamkit.policy import Policy
from wamkit.trial import observation

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"


@cache
def policy() -> Policy:
    return wamkit.build(TOY, tiny=True)


@cache
def report() -> Report:
    return measure(policy(), rounds=2, warmup=0, name="toy")


def test_every_stage_of_a_chunk_is_told_with_its_calls() -> None:
    steps = policy().spec.schedules.action.steps
    assert {row.stage: row.calls for row in report().rows} == {
        "pictures": 0,
        "text, new": 0,
        "camera layout": 1,
        "VAE": 1,
        "text": 1,
        "prefill: context": 1,
        "step: action (cached: context)": steps,
        "decode of actions": 1,
        "between stages": 1,
    }
    assert all(row.median_ms <= row.p95_ms for row in [*report().rows, report().chunk])


def test_work_is_that_of_the_same_chunk_on_the_meta_device() -> None:
    counted = {row.stage: row.calls * row.operations for row in report().rows if row.calls}
    passes = sum(ops for stage, ops in counted.items() if stage.startswith(("prefill", "step")))
    assert passes == pytest.approx(cost(policy().spec).stages["act"], rel=1e-4)
    assert report().chunk.operations == pytest.approx(sum(counted.values()), rel=1e-4)


def test_the_closed_formula_agrees_where_little_is_left_out() -> None:
    raw = ["backbone.heads=4", "backbone.head_size=32", "backbone.depth=2"]
    raw += ["action_head.width=128", "action_head.feed_forward=512", "actions.chunk=32"]
    raw += ["schedules.action.steps=2", "text_encoder.length=16"]
    found = measure(wamkit.build(TOY, raw), rounds=2, warmup=0)
    assert 0.9 < found.closed_formula < 1.3


def test_floors_follow_from_the_roof() -> None:
    top = Roof(bytes_per_second=100.0, operations_per_second=1000.0, dtype="float32")
    assert top.floor(5000, 100) == 5.0 and top.floor(100, 5000) == 50.0


def test_measuring_leaves_no_tap_behind() -> None:
    def taps() -> dict[str, list[str]]:
        parts = {"policy": policy(), "cameras": policy().cameras, "prompts": policy().prompts}
        parts |= {name: m for name, m in policy().named_modules() if name}
        return {k: [n for n, v in vars(m).items() if callable(v) and not isinstance(v, type)]
                for k, m in parts.items()}  # fmt: skip

    before = taps()
    with Stages(torch.device("cpu")).watching(policy()):
        assert taps() != before
        policy().act(observation(policy().spec, batch=1), seed=0)
    assert taps() == before


def test_a_tap_passes_what_it_sees() -> None:
    layer, seen = nn.Linear(2, 2), []

    def around(method: Callable[..., Any], x: torch.Tensor) -> Any:
        seen.append(x)
        return method(x)

    x = torch.ones(1, 2)
    expected = layer(x)
    with tapped(layer, "forward", around):
        assert torch.equal(layer(x), expected) and seen[0] is x
    assert "forward" not in vars(layer)


def test_random_weights_are_said() -> None:
    assert set(report().random) == {"backbone", "text_encoder", "action_head"}


def test_an_earlier_report_of_this_machine_gives_ratios() -> None:
    now = report().json()
    slower = json.loads(json.dumps(now))
    slower["chunk"]["median_ms"] *= 2
    found = versus(now, slower)
    assert found["chunk"] == pytest.approx(2) and found["VAE"] == pytest.approx(1)


def test_a_report_of_another_machine_is_refused() -> None:
    now = report().json()
    other = json.loads(json.dumps(now))
    other["machine"]["name"] = "another"
    with pytest.raises(WamkitError, match="is of another machine: name was another") as found:
        versus(now, other)
    assert "times of two machines say nothing of the code" in str(found.value)
    with pytest.raises(WamkitError, match="no report of `wamkit bench`"):
        versus(now, {})


def test_the_command_prints_what_its_json_says(wamkit: Any, tmp_path: Path) -> None:
    words = ["bench", TOY, "--tiny", "--rounds", "2", "--steps", "2"]
    code, out, _ = wamkit(*words, "--json")
    found = json.loads(out)
    assert code == 0 and found["machine"]["torch"] == torch.__version__.partition("+")[0]
    assert found["machine"]["date"] and found["mode"] == "eager" and found["boundaries"]["chunk"]
    file = tmp_path / "before.json"
    file.write_text(out)
    code, out, _ = wamkit(*words, "--vs", file)
    assert code == 0
    for phrase in (
        "random weights: backbone, text_encoder, action_head",
        "step: action (cached: context)",
        "roof, measured in this run",
        "a chunk sustains control at",
        "faster than before",
        "policy.act: tensors of pictures in",
    ):
        assert phrase in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "graph"], "a CUDA graph needs a CUDA device, and the policy is on cpu"),
        (["--mode", "eagr"], "no mode is called 'eagr'"),
        (["--device", "gpu"], "no device is called 'gpu'"),
        (["--vs", TOY], "is not JSON"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    wamkit: Any, words: list[Any], message: str
) -> None:
    code, _, err = wamkit("bench", TOY, "--tiny", *words)
    assert code == 2 and message in err
