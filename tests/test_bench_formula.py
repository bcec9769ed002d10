"""Work by closed formulas beside work that is counted, for every example."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from wamkit_toy import Toy

import wamkit
from wamkit.bench.formula import by_formula, on_paper
from wamkit.bench.measure import measure
from wamkit.bench.taps import Stages
from wamkit.cache import KVCache
from wamkit.cost import Counter, shapes
from wamkit.parts import ActionHeadConfig
from wamkit.policy import DTYPES
from wamkit.registry import registry
from wamkit.schedule import schedules_of
from wamkit.spec import parse, read
from wamkit.trial import observation
from wamkit.types import Scene, Velocity
from wamkit.weights import cast
from wamkit.work import Layer, Pass

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.toml"))
NAMED = {file.stem: file for file in EXAMPLES}


@torch.no_grad()
@pytest.mark.parametrize("name", NAMED)
def test_the_formula_knows_every_example(name: str) -> None:
    policy = wamkit.build(NAMED[name], ["schedules.action.steps=2"], tiny=True)
    seen = observation(policy.spec, batch=2, frames=policy.spec.video.context)
    policy.act(seen, seed=0)  # what is made once for an instruction is made
    work = Stages(torch.device("cpu"), counts=True)
    with work.watching(policy):
        policy.act(seen, seed=0)
    calls = [call for call in work.calls if call.given is not None]
    expected = by_formula(policy.spec, [call.given for call in calls if call.given is not None])
    assert calls and expected is not None and all(expected)
    # What the formula leaves out weighs more at toy size; see below for what is published.
    assert 0.9 < sum(call.operations for call in calls) / sum(expected) < 1.3


@torch.no_grad()
@pytest.mark.parametrize("name", ["image_wam_4b", "starvla_features", "light_wam", "toy"])
def test_at_published_size_the_formula_leaves_little_out(name: str) -> None:
    steps = [f"schedules.{part}.steps=2" for part in ("video", "action")]
    spec = parse(read(NAMED[name], steps), name)
    with torch.device("meta"):
        backbone, head = spec.backbone.build(), spec.action_head.build(spec.sizes)
    for module in (backbone, head):
        cast(module, DTYPES[spec.dtype])
    paradigm, scene = spec.paradigm.build(), shapes(spec, head)
    passes, counted = [], []

    def model(scene: Scene, cache: KVCache | None = None, keep: Collection[str] = ()) -> Velocity:
        with Counter() as counter:
            found: Velocity = head.join(backbone, scene, paradigm.sees, cache, keep)
        passes.append(on_paper(spec, paradigm.sees, scene, cache, keep))
        counted.append(counter.operations)
        return found

    model(scene)
    passes.clear(), counted.clear()
    again = scene.with_(text=scene.text.again())
    paradigm.act(model, again, schedules_of(spec), torch.Generator())
    expected = by_formula(spec, passes)
    assert expected is not None and len(expected) > 1
    for operations, formula in zip(counted, expected, strict=True):
        assert 0.95 < operations / formula < 1.1


def test_no_ratio_is_printed_where_a_part_gives_no_formula(
    monkeypatch: pytest.MonkeyPatch, wamkit: Any
) -> None:
    head = registry().get("action_head", "mot")
    monkeypatch.setattr(head, "operations", ActionHeadConfig.operations)
    code, out, _ = wamkit("bench", NAMED["toy"], "--tiny", "--rounds", "2")
    assert code == 0 and "no formula: a part does not tell what it computes" in out


def test_a_report_tells_the_formula_by_stage() -> None:
    found = measure(wamkit.build(NAMED["toy"], tiny=True), rounds=2, warmup=0)
    assert found.closed_formula == pytest.approx(1, abs=0.2)
    assert set(found.formulas) == {row.stage for row in found.rows if row.stage[:4] in STAGES}


STAGES = ("pref", "step")


def test_tokens_count_the_keys_that_they_see() -> None:
    sees = {"context": {"context"}, "action": {"context", "action", "text"}}
    given = Pass(frames={"context": 6}, numbers={"action": 2}, known={"text": 5}, sees=sees)
    assert given.seen("context") == 6 and given.seen("action") == 13
    assert given.pairs({"context": 6, "action": 2}) == 36 + 26
    assert given.shown(["action"]) == 11
    later = Pass(frames={}, numbers={"action": 2}, known={"context": 6, "action": 9}, sees=sees)
    assert later.seen("action") == 8  # its own keys take the place of older ones


def test_a_block_is_the_sum_of_its_products() -> None:
    config = Toy(depth=1, heads=2, head_size=8)
    traits = config.traits
    layer = Layer(16, traits.feed_forward, 16, 16)
    assert layer.showing == 2 * 16 * 48
    assert layer.token(0) == layer.showing + 2 * 16 * 16 + 4 * 16 * traits.feed_forward
    assert (
        Layer(16, 64, 16, 16, gated=True).token(0) - Layer(16, 64, 16, 16).token(0) == 2 * 16 * 64
    )
