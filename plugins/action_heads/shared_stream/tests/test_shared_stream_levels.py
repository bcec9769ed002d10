"""Levels, final norm and channels of the actions' own, as LingBot-VA has them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from wamkit_shared_stream import SharedStream
from wamkit_shared_stream.head import SharedStreamHead

from wamkit import check
from wamkit.checkpoints.safetensors import cast
from wamkit.config.parts import BackboneConfig
from wamkit.config.spec import PolicySpec, parse_part
from wamkit.config.visibility import Visibility
from wamkit.engine.passes import PassRunner
from wamkit.interfaces import Backbone
from wamkit.interfaces.types import ModelInputs
from wamkit.testing.fixtures import full_inputs, randomize_weights, spec_with
from wamkit.testing.parity import other_values, same_values

OWN = {"embedder": "linear", "levels": "own", "final_layer": "final_norm"}
ROLES = ("context", "target", "state", "action")
SEES: dict[str, set[str]] = {"text": {"text"}} | {role: {"text", *ROLES} for role in ROLES}


def parts(**options: Any) -> tuple[PolicySpec, Any, SharedStreamHead]:
    head = SharedStream(**{**OWN, **options})
    spec = spec_with(head, parse_backbone())
    backbone = spec.backbone.build()
    made = spec.action_head.build(spec.sizes)
    return spec, randomize_weights(backbone), made


def parse_backbone() -> BackboneConfig:
    return parse_part("backbone", {"name": "wan", "variant": "tiny"})  # type: ignore[return-value]


def velocity(backbone: Any, head: SharedStreamHead, inputs: ModelInputs) -> Tensor:
    return velocities(backbone, head, inputs)[1]


def velocities(
    backbone: Any, head: SharedStreamHead, inputs: ModelInputs, sees: Visibility = SEES
) -> tuple[Tensor, Tensor]:
    """Of frames, and of actions."""
    with torch.no_grad():
        out = head.join(PassRunner(), backbone, inputs, sees)
    assert out.video is not None and out.action is not None
    return out.video, out.action


def test_levels_of_its_own_begin_as_those_of_the_backbone() -> None:
    _, backbone, head = parts()
    head.initialize_from(backbone)
    assert head.level_embedder is not None
    sigmas = torch.tensor([0.2, 0.9])
    ours, theirs = head.stack(backbone).embed_sigma(sigmas), backbone.embed_sigma(sigmas)
    same_values(list(ours), list(theirs))


def test_levels_of_its_own_condition_actions_and_not_frames() -> None:
    spec, backbone, head = parts()
    head.initialize_from(backbone)
    inputs = full_inputs(spec).without("next_state", "value")
    alone = SEES | {"context": {"text", "context"}}  # frames see no token of the head
    frames, actions = velocities(backbone, head, inputs, alone)
    with torch.no_grad():
        for weight in head.level_embedder.parameters():  # type: ignore[union-attr]
            weight.add_(0.1)
    found = velocities(backbone, head, inputs, alone)
    same_values(found[0], frames)
    other_values(found[1], actions)


@pytest.mark.parametrize("trains", [True, False])
def test_a_pass_embeds_the_levels_of_actions_once(
    trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, backbone, head = parts()
    embedder: Any = head.level_embedder
    made, embed = [], embedder.embed_sigma

    def count(sigmas: Tensor, *given: Any, **view: Any) -> Any:
        made.append(sigmas)
        return embed(sigmas, *given, **view)

    monkeypatch.setattr(embedder, "embed_sigma", count)
    inputs = full_inputs(spec).without("next_state", "value")
    with torch.set_grad_enabled(trains):
        head.join(PassRunner(), backbone, inputs, SEES)
    assert len(made) == 1


@pytest.mark.parametrize("copied", [deepcopy, lambda head: pickle.loads(pickle.dumps(head))])
def test_a_copy_of_a_head_holds_no_backbone(
    copied: Callable[[SharedStreamHead], SharedStreamHead],
) -> None:
    spec, backbone, head = parts()
    inputs = full_inputs(spec).without("next_state", "value")
    before = velocity(backbone, head, inputs)
    other = copied(head)
    assert not any(isinstance(x, Backbone) for x in held_by(other))
    assert any(x is backbone for x in held_by(head))
    same_values(velocity(backbone, other, inputs), before)
    with torch.no_grad():
        for weight in other.level_embedder.parameters():  # type: ignore[union-attr]
            weight.add_(0.1)
    other_values(velocity(backbone, other, inputs), before)
    same_values(velocity(backbone, head, inputs), before)


def held_by(head: SharedStreamHead) -> list[Any]:
    """The objects that can be reached from a head, through attributes and containers."""
    found: dict[int, Any] = {}
    left: list[Any] = [head]
    while left:
        x = left.pop()
        if id(x) in found:
            continue
        found[id(x)] = x
        left += list(vars(x).values()) if hasattr(x, "__dict__") and not isinstance(x, type) else []
        left += list(x.values()) if isinstance(x, dict) else []
        left += list(x) if isinstance(x, list | tuple) else []
    return [*found.values()]


def test_levels_are_computed_in_float32_as_those_of_the_backbone() -> None:
    _, backbone, head = parts()
    kept = [
        {name for name, p in cast(m, torch.bfloat16).named_parameters() if p.dtype == torch.float32}
        for m in (backbone, head)
    ]
    theirs = {name for name in kept[0] if "time_embedder" in name}
    assert theirs and kept[1] == {f"level_embedder.{name}" for name in theirs}


def test_channels_that_a_robot_does_not_use_do_not_matter() -> None:
    size = parts()[0].actions.size
    used = tuple(range(size, 0, -1))
    spec, backbone, head = parts(channels=size + 2, channel_map=used)
    inputs = full_inputs(spec).without("next_state", "value")
    before = velocity(backbone, head, inputs)
    assert before.shape[-1] == size
    with torch.no_grad():
        head.action_embedder.weight[..., [0, -1]] = 5.0  # type: ignore[index,operator,union-attr]
        head.action_decoder.out.weight[:, [0, -1]] = 5.0  # type: ignore[index,operator,union-attr]
    same_values(velocity(backbone, head, inputs), before)


def test_a_value_has_the_weights_of_its_channel() -> None:
    size = parts()[0].actions.size
    used = tuple(range(size, 0, -1))
    spec, backbone, head = parts(channels=size + 2, channel_map=used)
    _, _, plain = parts()
    known = head.state_dict()
    for name in ("action_embedder.weight", "action_decoder.out.weight", "action_decoder.out.bias"):
        known[name] = known[name][:, used] if "decoder" in name else known[name][..., used]
    plain.load_state_dict(known)
    inputs = full_inputs(spec).without("next_state", "value")
    same_values(velocity(backbone, head, inputs), velocity(backbone, plain, inputs))


def test_weights_of_channels_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    size = parts()[0].actions.size
    spec, backbone, head = parts(channels=size + 2, channel_map=tuple(range(size, 0, -1)))
    places, linear = [], F.linear

    def record(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        places.append(weight.data_ptr())
        return linear(x, weight, bias)

    monkeypatch.setattr(F, "linear", record)
    velocity(backbone, head, full_inputs(spec).without("next_state", "value"))
    known = {p.data_ptr() for p in (*head.parameters(), *backbone.parameters())}
    assert places and known.issuperset(places)


@pytest.mark.parametrize(
    ("options", "backbone", "why"),
    [
        ({}, "toy", "makes no second embedder"),
        ({"levels": "backbone"}, "toy", "no modulated norm"),
        ({"embedder": "mlp_sinusoid"}, "wan", "mlp_sinusoid has its own"),
        ({"channels": 30, "channel_map": [0, 1]}, "wan", "2 channels for the 4 values"),
        ({"channels": 30, "channel_map": [0, 1, 1, 2]}, "wan", "the same channel"),
        ({"channels": 3, "channel_map": [0, 1, 2, 3]}, "wan", "channel 3 of 3"),
        ({"channel_map": [0, 1, 2, 3]}, "wan", "does not say how many"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], backbone: str, why: str) -> None:
    table = {"name": "wan", "variant": "tiny"} if backbone == "wan" else {"name": backbone}
    raw = {
        "backbone": table,
        "vae": "pixel_shuffle",
        "text_encoder": "bytes",
        "action_head": {"name": "shared_stream", **OWN, **options},
        "paradigm": "joint",
        "actions": {"chunk_size": 4, "groups": [{"name": "arm", "size": 4}]},
        "cameras": {"views": [{"name": "front", "size": [16, 16]}]},
        "video": {"num_frames": 5},
    }
    assert any(why in conflict.why for conflict in check(raw))
