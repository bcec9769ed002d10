"""What an expert cannot be, in full words, and that following the hint helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from wamkit_mot import Mot

from wamkit import check
from wamkit.checkpoints.safetensors import save
from wamkit.config.spec import PolicySpec
from wamkit.testing.fixtures import spec_with


def spec_for(backbone: str, **settings: Any) -> PolicySpec:
    spec = spec_with(backbone=backbone)
    head = Mot.model_validate({"width": 32, "mlp_dim": 48} | settings)
    return spec.model_copy(update={"action_head": head})


@pytest.mark.parametrize(
    ("backbone", "settings", "message", "hint"),
    [
        (
            "wan",
            {"layer_stride": 4},
            "action_head.layer_stride + backbone: an expert block at every 4th layer, and the "
            "backbone has 3\n    hint: set action_head.layer_stride to at most 3",
            {"layer_stride": 3},
        ),
        (
            "wan",
            {"layer_stride": 2, "layers": [0, 1]},
            "action_head.layers + action_head.layer_stride: both set the layers at which the "
            "expert has a block\n    hint: leave one of them out",
            {"layers": None},
        ),
        (
            "wan",
            {"layers": [1, 3]},
            "action_head.layers + backbone: found layers [1, 3], expected places in a stack of 3, "
            "ascending\n    hint: name each layer once, from 0 to 2",
            {"layers": [1, 2]},
        ),
        (
            "wan",
            {"state": "none"},
            "action_head.state + state.size: the policy is given a state of 3 values that nothing "
            'reads\n    hint: set action_head.state = "text" or "token", or state.size = 0',
            {"state": "token"},
        ),
        (
            "wan",
            {"positions": "grid"},
            "action_head.positions + action_head.block: only the backbone's own blocks know its "
            'grid\n    hint: set action_head.block = "backbone", or action_head.positions = '
            '"rotary"',
            {"block": "backbone"},
        ),
        (
            "wan",
            {"positions": "sinusoid", "width": 33},
            "action_head.positions + action_head.width: a sinusoid has as many sines as cosines, "
            "and the width is 33\n    hint: set action_head.width = 34",
            {"width": 34},
        ),
        (
            "wan",
            {"plane": 3.0},
            "action_head.plane + action_head.positions: plane says where an image of tokens "
            "stands, and they are no image\n    hint: leave action_head.plane out, or set "
            'action_head.positions = "rows"',
            {"positions": "rows", "block": "backbone"},
        ),
        (
            "wan",
            {"block": "backbone", "text": "none", "bias": False},
            "action_head.text + action_head.bias + action_head.block: a copy of the backbone's "
            "blocks reads the instruction as they do, and has biases where they have\n    hint: "
            'leave action_head.text and action_head.bias out, or set action_head.block = "own"',
            {"block": "own"},
        ),
        (
            "wan",
            {"block": "backbone", "decoder": "modulated"},
            "action_head.decoder + action_head.block + backbone: copies of this backbone's blocks "
            "have no vector of a noise level that a decoder could read too\n    hint: set "
            'action_head.decoder = "adaln", or action_head.block = "own"',
            {"decoder": "adaln"},
        ),
        (
            "timm_vit",
            {"block": "backbone"},
            "action_head.block + backbone: this backbone makes no narrower copy of its blocks\n"
            '    hint: set action_head.block = "own"',
            {"block": "own"},
        ),
        (
            "toy",
            {"block": "backbone", "layer_stride": 2},
            "action_head.layer_stride + action_head.block + backbone: this backbone's blocks can "
            "only be copied all together\n    hint: set action_head.layer_stride = 1 without "
            "action_head.layers, "
            'or action_head.block = "own"',
            {"layer_stride": 1},
        ),
    ],
)
def test_a_conflict_has_a_hint(
    backbone: str, settings: dict[str, Any], message: str, hint: dict[str, Any]
) -> None:
    spec = spec_for(backbone, **settings)
    if backbone == "toy":  # as a backbone whose stack cannot be resized states it
        traits = spec.backbone.traits.model_copy(update={"mlp_dim": 0})
        assert isinstance(spec.action_head, Mot)
        found = list(spec.action_head._conflicts_of_backbone_blocks(traits))
    else:
        found = [c for c in check(spec) if "action_head." in " ".join(c.between)]
    assert [str(conflict) for conflict in found] == [message]
    assert check(spec_for(backbone, **(settings | hint))) == []


@pytest.mark.parametrize("settings", [{}, {"block": "backbone", "registers": 2, "state": "token"}])
def test_an_experts_own_file_is_read_through_its_configuration(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    spec = spec_for("wan", **settings)
    head = spec.action_head.build(spec.sizes)
    save(head, tmp_path / "head.safetensors")
    config = spec.action_head.model_copy(update={"weights": str(tmp_path / "head.safetensors")})
    ours, theirs = head.state_dict(), config.build(spec.sizes).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
