"""Verbs and functions that are given a saved policy use the weights that it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import wamkit
from wamkit.config.spec import parse, read
from wamkit.errors import WamkitWarning
from wamkit.policy.precomputed_text import read as stored
from wamkit.testing.fixtures import randomize_weights

Wamkit = Callable[..., tuple[int, str, str]]
TOY = Path(__file__).parent.parent / "examples/toy.toml"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A policy whose weights no seed gives."""
    policy = wamkit.build(TOY, tiny=True)
    for part in (policy.backbone, policy.action_head, policy.text_encoder):
        randomize_weights(part, seed=7)  # type: ignore[type-var]
    return policy.save(tmp_path / "saved")


def test_a_backbone_is_cut_out_of_the_saved_weights(
    saved: Path, tmp_path: Path, wamkit: Wamkit
) -> None:
    spec = parse(read(saved))
    heads, depth = spec.backbone.traits.num_heads, spec.backbone.traits.depth
    args = ("prune", saved, "--layers", depth, "--num-heads", heads, "--out", tmp_path / "student")
    code, _, err = wamkit(*args)
    assert code == 0 and "random weights" not in err
    made = parse(read(tmp_path / "student/spec.yaml"))
    cut, whole = (load_file(f) for f in (made.backbone.weights or "", saved / BACKBONE))
    assert cut.keys() == whole.keys() and all(torch.equal(cut[n], whole[n]) for n in whole)
    assert str(saved / BACKBONE) in (made.backbone.derived_from or "")
    assert made.text_encoder.weights == str(saved / "text_encoder.safetensors")


def test_random_weights_that_are_cut_are_those_the_spec_builds(
    tmp_path: Path, wamkit: Wamkit
) -> None:
    spec = parse(read(TOY)).tiny()[0]
    heads, depth = spec.backbone.traits.num_heads, spec.backbone.traits.depth
    args = ("prune", TOY, "--tiny", "--layers", depth, "--num-heads", heads)
    code, _, err = wamkit(*args, "--out", tmp_path / "student")
    assert code == 0 and "has random weights" in err
    whole, cut = _built().backbone.state_dict(), load_file(tmp_path / "student" / BACKBONE)
    assert all(torch.equal(cut[n], whole[n]) for n in whole)


def test_prompts_are_encoded_by_the_encoder_that_will_act(
    saved: Path, tmp_path: Path, wamkit: Wamkit
) -> None:
    (tmp_path / "prompts.txt").write_text("lift\n")
    args = ("precompute", "text", "--prompts", tmp_path / "prompts.txt", "--out")
    for source, policy in ((saved, _built(saved)), (TOY, _built(tiny=False))):
        out = tmp_path / f"{source.name}.safetensors"
        assert wamkit(*args, out, source)[0] == 0
        assert torch.equal(
            stored(out, policy.text_encoder.width)[0]["lift"].tokens,
            policy.text_encoder.encode(["lift"]).tokens,
        )


def test_damage_is_found_by_verbs_that_read_one_part(
    saved: Path, tmp_path: Path, wamkit: Wamkit
) -> None:
    for kind in ("backbone", "text_encoder"):
        tensors = load_file(saved / f"{kind}.safetensors")
        tensors[min(tensors)].view(-1)[0] = float("nan")
        save_file(tensors, saved / f"{kind}.safetensors")
    (tmp_path / "prompts.txt").write_text("lift\n")
    code, _, err = wamkit("prune", saved, "--layers", 1, "--out", tmp_path / "student")
    assert code == 2 and f"of {saved / BACKBONE}: nan at" in err
    args = ("--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "text.safetensors")
    code, _, err = wamkit("precompute", "text", saved, *args)
    assert code == 2 and f"of {saved / 'text_encoder.safetensors'}: nan at" in err
    (saved / BACKBONE).unlink()
    code, _, err = wamkit("prune", saved, "--layers", 1, "--out", tmp_path / "student")
    assert code == 2 and "lacks backbone.safetensors" in err


def test_building_a_saved_policy_loads_it(saved: Path) -> None:
    own, found = wamkit.Policy.load(saved).state_dict(), wamkit.build(str(saved)).state_dict()
    assert own.keys() == found.keys() and all(torch.equal(own[n], found[n]) for n in own)
    steps = wamkit.build(saved, ["schedules.action.steps=3"]).spec.schedules.action.steps
    assert steps == 3
    with pytest.warns(WamkitWarning, match="do not fit toy size and are left out"):
        wamkit.build(saved, tiny=True)


BACKBONE = "backbone.safetensors"


def _built(source: Path = TOY, *, tiny: bool = True) -> wamkit.Policy:
    return wamkit.build(source, tiny=tiny and source == TOY)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("vae", "the vae pixel_shuffle has no weights"),
        ("conditioner", "the policy has no conditioner"),
        ("latent_adapter", "the policy has no latent_adapter"),
        ("paradigm", "the paradigm [a-z_]+ has no weights"),
    ],
)
def test_files_of_parts_that_have_no_weights_are_refused(
    kind: str, message: str, saved: Path
) -> None:
    save_file({"a": torch.zeros(1)}, saved / f"{kind}.safetensors")
    with pytest.raises(wamkit.WamkitError, match=f"holds {kind}.safetensors, and by .*{message}"):
        wamkit.Policy.load(saved)


def test_weights_named_for_a_part_without_any_are_refused(saved: Path) -> None:
    with pytest.raises(wamkit.WamkitError, match="pixel_shuffle"):
        wamkit.load_part("vae", {"name": "pixel_shuffle", "weights": str(saved / BACKBONE)})
