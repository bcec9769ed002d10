"""Students cut out of backbones: which numbers stay, and that what is left still runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from wamkit.checkpoints.prune import PUBLISHED, evenly_spaced, prune_weights, student_of
from wamkit.cli import app
from wamkit.config.compositions import compose, default
from wamkit.config.parts import BackboneConfig
from wamkit.config.registry import registry
from wamkit.config.spec import parse, read
from wamkit.errors import WamkitError
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import observation, predict_frames, random_frames, spec_with
from wamkit.testing.parity import float64, same_values

SPECS = {
    name: spec
    for name, cls in registry().parts["backbone"].items()
    if (spec := compose(default(cls))).backbone.traits.mlp_dim
}


def _redrawn(config: BackboneConfig) -> Any:
    model, rng = config.build().eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * 0.2)
    return model


def test_places_are_evenly_spaced_and_rounded() -> None:
    assert evenly_spaced(16, 24)[:5] == [0, 2, 3, 5, 6] and evenly_spaced(16, 24)[-1] == 23
    assert evenly_spaced(3, 3) == [0, 1, 2] and evenly_spaced(1, 5) == [0]
    with pytest.raises(WamkitError, match="4 cannot be chosen out of 3"):
        evenly_spaced(4, 3)


def test_the_published_blocks_are_those_of_efficient_wam() -> None:
    published = [1, 2, 4, 6, 8, 11, 14, 17, 20, 23, 26, 30]  # counted from 1
    assert [layer + 1 for layer in PUBLISHED["efficient-wam"]] == published


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_keeping_everything_changes_nothing(name: str) -> None:
    config = SPECS[name].backbone
    traits, teacher = config.traits, _redrawn(config)
    sizes = range(traits.depth), traits.num_heads, traits.mlp_dim
    ours = prune_weights(teacher, config, *sizes).state_dict()
    assert all(torch.equal(ours[k], v) for k, v in teacher.state_dict().items())
    assert len(ours) == len(teacher.state_dict())


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
@float64()
def test_units_that_nobody_listens_to_can_be_left_out(name: str) -> None:
    spec = SPECS[name]
    config, traits = spec.backbone, spec.backbone.traits
    few = max(1, traits.mlp_dim // 2)
    teacher, (video, text) = _redrawn(config), random_frames(config.traits, spec.latent_size)
    small = prune_weights(teacher, config, range(traits.depth), traits.num_heads, few)
    # Any weight of the teacher that the student's copy misses, and that reads units, is silenced.
    kept = set(evenly_spaced(few, traits.mlp_dim))
    gone = [i for i in range(traits.mlp_dim) if i not in kept]
    for key, tensor in teacher.state_dict().items():
        columns, left = tensor.shape[-1], small.state_dict()[key].shape[-1]
        if tensor.ndim == 2 and columns - left == len(gone):
            tensor[:, [columns - traits.mlp_dim + i for i in gone]] = 0
    expected = predict_frames(teacher, video, text)
    same_values(predict_frames(small, video, text), expected)


@pytest.mark.parametrize("name", SPECS)
def test_a_student_runs_and_states_where_it_came_from(name: str) -> None:
    spec = SPECS[name]
    config, traits = spec.backbone, spec.backbone.traits
    group = traits.num_heads // traits.num_kv_heads
    heads = max(group, traits.num_heads - group)
    layers, few = range(0, traits.depth, 2), max(1, traits.mlp_dim // 2)
    student = prune_weights(_redrawn(config), config, layers, heads, few).eval()
    made = student_of(config, layers, heads, few)
    assert made.traits.width == heads * traits.head_dim and made.traits.depth == len(layers)
    assert made.derived_from is not None and made.derived_from.startswith(
        f"random weights of {name}"
    )
    video, text = random_frames(config.traits, spec.latent_size)
    assert predict_frames(student, video, text).isfinite().all()
    policy = Policy.from_spec(spec.model_copy(update={"backbone": made}).fitted())
    policy.backbone.load_state_dict(student.state_dict())  # type: ignore[attr-defined]
    assert policy.act(observation(spec), seed=0).values.isfinite().all()


def test_heads_take_their_part_of_the_width_with_them() -> None:
    config = SPECS["wan"].backbone
    traits, teacher = config.traits, _redrawn(config)
    old = teacher.state_dict()
    new = prune_weights(teacher, config, (0, 2), 2, 7).state_dict()
    heads, units = evenly_spaced(2, traits.num_heads), evenly_spaced(7, traits.mlp_dim)
    wide = torch.tensor([h * traits.head_dim + i for h in heads for i in range(traits.head_dim)])
    block, there = "blocks.1.", "blocks.2."
    pairs = {
        "attn1.to_q.weight": old[f"{there}attn1.to_q.weight"][wide][:, wide],
        "attn1.norm_q.weight": old[f"{there}attn1.norm_q.weight"][wide],
        "ffn.net.0.proj.weight": old[f"{there}ffn.net.0.proj.weight"][units][:, wide],
        "ffn.net.2.weight": old[f"{there}ffn.net.2.weight"][wide][:, units],
        "scale_shift_table": old[f"{there}scale_shift_table"][..., wide],
    }
    for name, expected in pairs.items():
        assert torch.equal(new[block + name], expected), name
    rows = torch.cat([wide + k * traits.width for k in range(6)])
    table = "condition_embedder.time_proj.weight"
    assert torch.equal(new[table], old[table][rows][:, wide])
    assert torch.equal(new["patch_embedding.weight"], old["patch_embedding.weight"][wide])
    assert torch.equal(new["proj_out.weight"], old["proj_out.weight"][:, wide])


def test_a_sinusoid_as_wide_as_the_model_keeps_its_frequencies() -> None:
    config = SPECS["cosmos"].backbone
    traits, teacher = config.traits, _redrawn(config)
    heads = traits.num_heads // 2
    name = "time_embed.t_embedder.linear_1.weight"
    new = prune_weights(teacher, config, range(traits.depth), heads, traits.mlp_dim).state_dict()
    half, small = traits.width // 2, heads * traits.head_dim // 2
    columns = [round(i * half / small) for i in range(small)]
    rows = torch.tensor(
        [
            h * traits.head_dim + i
            for h in evenly_spaced(heads, traits.num_heads)
            for i in range(traits.head_dim)
        ]
    )
    both = torch.tensor([*columns, *(half + c for c in columns)])
    assert torch.equal(new[name], teacher.state_dict()[name][rows][:, both])


def test_a_backbone_that_cannot_be_resized_is_refused() -> None:
    rest = [n for n in registry().names("backbone") if n not in SPECS]
    for name in rest:
        config = spec_with(backbone=name).backbone
        with pytest.raises(WamkitError, match=f"{name} cannot be resized"):
            student_of(config, (0,), 1, 1)


def test_the_command_writes_weights_and_a_spec_that_build(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(SPECS["wan"].dump()))
    out = tmp_path / "student"
    args = ["prune", str(spec), "--layers", "2", "--num-heads", "2", "--mlp-dim", "8"]
    done = CliRunner().invoke(app, [*args, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "parameters became" in done.stdout
    made = parse(read(out / "spec.yaml"))
    assert made.backbone.weights == str(out / "backbone.safetensors")
    assert "blocks 0, 2 of 3" in (made.backbone.derived_from or "")
    assert Policy.from_spec(made).act(observation(made), seed=0).values.isfinite().all()
    bad = CliRunner().invoke(app, ["prune", str(spec), "--layers", "x", "--out", str(out)])
    assert bad.exit_code == 2 and "--layers 'x' is no number of blocks" in bad.stderr
