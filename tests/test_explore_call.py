"""One call on the page of `wamkit explore`: its attention tables and noise levels, as in Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exploring import ask as ask
from exploring import asking
from exploring import data as data

from wamkit.bench.counts.calls import passes_of
from wamkit.bench.counts.runner import no_random_weights
from wamkit.config.spec import PolicySpec, parse, read
from wamkit.interfaces import ReaderHead
from wamkit.interfaces.types import base
from wamkit.policy.cost import without_weights
from wamkit.testing.parity import same_values

ROOT = Path(__file__).parent.parent


def _attention(spec: PolicySpec) -> list[dict[str, Any]]:
    """The ranges of layers that differ, and the table of each."""
    with no_random_weights(), torch.device("meta"):
        head: Any = without_weights(spec.action_head).build(spec.sizes)
    traits, tokens, sees = spec.backbone.traits, spec.tokens(), spec.paradigm.sees
    reads, every = isinstance(head, ReaderHead), list(range(traits.depth))
    joined, families = list(getattr(head, "layers", every)), {"seen": "target", "did": "action"}

    def count(role: str) -> int:
        return tokens[families.get(base(role), base(role))]

    def of_head(role: str) -> bool:
        return base(role) not in ("text", "context", "target", "seen")

    found = []
    for layers, own in ((joined, True), ([i for i in every if i not in joined], False)):
        there = [
            r for r in sees if (own or not of_head(r)) and (r != "text" or traits.text == "stream")
        ]
        columns = {role for role in there if count(role)}
        rows = {role for role in there if count(role) or (reads and base(role) in spec.predicts)}
        seen = {
            row: {
                c for c in columns & set(sees[row]) if not reads or of_head(row) or not of_head(c)
            }
            for row in rows
        }
        if layers:
            found.append({"layers": layers, "own": own, "columns": columns, "seen": seen})
    return found


def _page_attention(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "layers": x["layers"],
            "own": x["own"],
            "columns": set(x["columns"]),
            "seen": {row: set(x["seen"][row]) for row in x["rows"]},
        }
        for x in found["attention"]
    ]


def test_every_system_shows_who_attends_to_whom_at_which_layers_as_python_has_it(
    data: dict[str, Any], ask: Callable[[Any], Any]
) -> None:
    given = [
        {"preset": i, "parts": preset["parts"], "raw": {}}
        for i, preset in enumerate(data["presets"])
    ]
    found = {p["name"]: f for p, f in zip(data["presets"], ask(given), strict=True)}
    for name, made in found.items():
        spec = parse(read(ROOT / "examples" / f"{name}.toml")).fitted()
        assert _page_attention(made) == _attention(spec), name
    titles = [x["title"] for x in found["mimic_video"]["attention"]]
    assert titles[0] == "layer 18, which the head reads"
    assert titles[1] == "layers 0\u201317, 19\u201327, which the head does not read"
    assert "action" in found["light_wam"]["attention"][0]["rows"]
    assert "action" not in found["light_wam"]["attention"][1]["rows"]


def test_an_expert_that_rests_at_some_layers_has_no_rows_there(
    data: dict[str, Any], tmp_path: Path
) -> None:
    preset = next(i for i, p in enumerate(data["presets"]) if p["name"] == "libero")
    parts = data["presets"][preset]["parts"]
    place = data["costs"][parts["backbone"]][parts["action_head"]]
    costs = list(data["pools"]["costs"])
    costs[place] = {**costs[place], "awake": [1, 3]}
    changed = {**data, "pools": {**data["pools"], "costs": costs}}
    (made,) = asking(changed, tmp_path)([{"preset": preset, "parts": parts, "raw": {}}])
    raw = read(ROOT / "examples/libero.toml")
    raw = {**raw, "action_head": {**raw["action_head"], "layers": [1, 3]}}
    assert _page_attention(made) == _attention(parse(raw).fitted())


SHIFTED = {"shift": 2.5, "grid_start": 0.999, "whole_timesteps": True, "solver": "unipc"}
KARRAS = {"spacing": "karras", "sigma_max": 0.98, "sigma_min": 0.8, "solver": "ab2"}
SCHEDULES: list[dict[str, Any]] = [
    {},
    {"video": {**SHIFTED, "steps": 7}, "action": {"shift": 5.0, "steps": 12}},
    {"action": {"solver": "midpoint", "steps": 8}},
    {"action": {"solver": "heun", "steps": 4}},
    {"video": {**KARRAS, "steps": 5}, "action": {**KARRAS, "steps": 9, "sigma_min": 0.5}},
    {"video": {"sigma_min": 0.1, "steps": 6}, "action": {"sigma_max": 0.9, "steps": 3}},
    {"video": {"shift": "tokens"}, "action": {"bf16_sampling": True, "steps": 10}},
]


@pytest.mark.parametrize("schedules", SCHEDULES)
def test_noise_levels_of_every_pass_are_those_of_python(
    data: dict[str, Any], ask: Callable[[Any], Any], schedules: dict[str, Any]
) -> None:
    given = []
    for i, preset in enumerate(data["presets"]):
        own = {key: dict(x) for key, x in preset["raw"].get("schedules", {}).items()}
        raw = {"seed": 1, "schedules": {**own, **schedules}}  # so that no option is brought
        place = preset["parts"]["paradigm"], preset["parts"]["backbone"]
        plans = data["paradigms"][place[0]]
        plan = plans["plans"][plans["backbones"][place[1]]][preset["parts"]["action_head"]]
        modes = [mode["name"] for mode in data["pools"]["plans"][plan]["modes"]]
        given += [{"preset": i, "parts": preset["parts"], "raw": raw, "mode": m} for m in modes]
    seen = 0
    for found in ask(given):
        if found["noise"] is None:
            continue
        spec = parse(found["spec"]).fitted()
        passes = passes_of(spec, spec.paradigm.variants[found["mode"]])
        expected = [
            {part: level.sigma for part, level in levels.items()}
            for call, levels in passes
            if not call.prefill
        ]
        assert [set(x) for x in found["noise"]] == [set(x) for x in expected], found["toml"]
        for ours, theirs in zip(found["noise"], expected, strict=True):
            same_values(list(ours.values()), [theirs[part] for part in ours], 1e-9)
        seen += 1
    assert seen > 20
