"""A policy acts, learns, imagines, and survives being saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import wamkit
from wamkit.config.spec import override, parse, read
from wamkit.interfaces.types import DenoisingTarget
from wamkit.policy.actions import Statistics
from wamkit.policy.losses import video_loss
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import batch_of, observation
from wamkit.testing.parity import float64, same_values

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
SMALL = ["cameras.views.0.size=[16, 32]", "schedules.action.steps=3", "schedules.video.steps=2"]


def build(*overrides: str) -> Policy:
    return wamkit.build(override(read(TOY), [*SMALL, *overrides]))


def statistics(policy: Policy) -> dict[str, Statistics]:
    rng = torch.Generator().manual_seed(5)
    found = {"action": Statistics.of(3 * torch.randn(99, policy.spec.actions.size, generator=rng))}
    if policy.spec.state.size:
        found["state"] = Statistics.of(torch.randn(99, policy.spec.state.size, generator=rng))
    return found


@float64()
def test_statistics_turn_values_into_physical_units() -> None:
    policy = build()
    seen = observation(policy.spec, batch=1)
    plain = policy.act(seen, seed=0)
    policy.set_statistics(statistics(policy))
    physical = policy.act(seen, seed=0)
    assert plain.normalized and not physical.normalized
    same_values(policy.actions.normalizer.decode(plain.values), physical.values)
    assert physical.names == ("arm.0", "arm.1", "arm.2", "gripper") and physical.control_hz == 10


def test_state_image_and_instruction_all_matter() -> None:
    policy = build("state.size=2", "action_head.state=token")
    seen = observation(policy.spec, batch=1)
    chunk = policy.act(seen, seed=0).values
    others = [
        replace(seen, state=seen.state + 1),
        replace(seen, images={"front": 255 - seen.images["front"]}),
        replace(seen, prompt="something else"),
    ]
    for other in others:
        assert not torch.equal(policy.act(other, seed=0).values, chunk)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"state": None},
            r"no state; this policy expects 2 values\n  hint: pass them: --state 0,0",
        ),
        ({"state": [[1.0, 2.0, 3.0]]}, "the state has 3 values, this policy expects 2"),
        ({"images": {"frnt": torch.zeros(3, 8, 8)}}, "unknown camera 'frnt'"),
        ({"images": {"front": torch.zeros(2, 3, 8, 8)}}, "gives 2 images, expected 1"),
    ],
)
def test_what_does_not_fit_the_policy_is_refused(change: dict[str, Any], message: str) -> None:
    policy = build("state.size=2", "action_head.state=token")
    seen = observation(policy.spec, batch=1)
    with pytest.raises(wamkit.WamkitError, match=message):
        policy.act(replace(seen, **change), seed=0)


def test_a_state_that_nothing_reads_is_refused() -> None:
    policy = build()
    seen = replace(observation(policy.spec, batch=1), state=[[1.0, 2.0]])
    with pytest.raises(wamkit.WamkitError, match="a state of 2 values, and this policy reads none"):
        policy.act(seen, seed=0)


def test_frozen_prompts_are_encoded_once() -> None:
    policy = wamkit.build(
        override(read(TOY), SMALL)
        | {
            "text_encoder": {
                "name": "open_clip",
                "layers": 2,
                "num_heads": 2,
                "embedding": 32,
                "adapter": "linear",
            }
        }
    )
    seen = observation(policy.spec, batch=2)
    policy.act(seen, seed=0)
    policy.act(seen, seed=1)
    assert policy.text_embeddings.encoded == 2
    policy.act(replace(seen, prompt=["task 0", "new"]), seed=1)
    assert policy.text_embeddings.encoded == 3


def test_padding_of_a_batch_does_not_count_in_the_loss() -> None:
    policy = build()
    batch = batch_of(policy.spec)
    n, frames = policy.spec.actions.chunk_size, policy.spec.video.num_frames
    step = torch.ones(2, n, dtype=torch.bool)
    step[:, 5:] = False
    frame = torch.ones(2, frames, dtype=torch.bool)
    frame[:, 5:] = False
    masked = replace(batch, step_valid=step, frame_valid=frame)
    torch.manual_seed(0)
    one = policy.loss(masked, seed=3).parts
    images = batch.observation.images["front"].clone()
    images[:, 5:] = 0  # only the last latent is padding as a whole
    other = replace(masked, observation=replace(batch.observation, images={"front": images}))
    assert set(one) == {"action", "video"}
    free = policy.loss(batch, seed=3).parts
    assert not torch.equal(free["action"], one["action"])
    # The noisy target of the padded latent still stands in the video; it may not be predicted.
    assert policy.loss(other, seed=3).parts["action"] == one["action"]


@float64()
def test_padded_frames_do_not_count_in_thevideo_loss() -> None:
    rng = torch.Generator().manual_seed(0)
    velocity, predicted = (torch.randn(2, 4, 2, 3, 3, generator=rng) for _ in range(2))
    target = DenoisingTarget(velocity, torch.tensor([[2.0, 2.0], [1.0, 1.0]]), (0, 1))
    valid = torch.tensor([[True, False], [True, True]])
    loss = video_loss(predicted, target, valid)
    error = (predicted - velocity).square().mean((1, 3, 4))
    same_values(loss, (2 * error[0, 0] + error[1].mean()) / 2)
    predicted[0, :, 1] += 9
    assert torch.equal(video_loss(predicted, target, valid), loss)
    predicted[1, :, 1] += 9
    assert video_loss(predicted, target, valid) > loss


@float64()
def test_loss_weights_and_dimension_masks_are_applied() -> None:
    policy = build("schedules.video.loss_weight=0.25")
    batch = batch_of(policy.spec)
    losses = policy.loss(batch, seed=0)
    expected = losses.parts["action"] + 0.25 * losses.parts["video"]
    same_values(losses.total.detach(), expected)
    half = replace(batch, dim_valid=torch.tensor([True, True, False, False]))
    assert policy.loss(half, seed=0).parts["action"] != losses.parts["action"]


def test_losses_fall_when_the_policy_learns() -> None:
    policy = build("actions.chunk_size=4").train()
    batch = batch_of(policy.spec)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-3)
    totals = []
    for step in range(12):
        losses = policy.loss(batch, seed=step % 2)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        totals.append(losses.total.item())
    assert sum(totals[-2:]) < 0.9 * sum(totals[:2])


def test_the_same_seed_builds_the_same_weights_whatever_else_changes() -> None:
    one, two = build(), build("text_encoder.max_length=32")
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.backbone.parameters(), two.backbone.parameters(), strict=True)
    )
    other = build("seed=1")
    assert not torch.equal(next(one.action_head.parameters()), next(other.action_head.parameters()))


def test_bfloat16_keeps_what_must_stay_float32() -> None:
    policy = build("dtype=bfloat16", "backbone.name=toy")
    kept = {n for n, p in policy.action_head.named_parameters() if p.dtype == torch.float32}
    assert kept and all("norm" in n or "table" in n or "time_embedder" in n for n in kept)
    chunk = policy.act(observation(policy.spec), seed=0).values
    assert chunk.dtype == torch.float32 and chunk.isfinite().all()


def test_a_policy_that_imagines_nothing_reports_it() -> None:
    policy = build("video.num_frames=1")
    seen = observation(policy.spec, batch=1)
    assert policy.act(seen, seed=0).values.shape == (1, 8, 4)
    with pytest.raises(wamkit.WamkitError, match="this policy imagines nothing"):
        policy.imagine(seen)


@pytest.mark.parametrize("vae", ["pixel_shuffle", "wan2.1"])  # the second decodes with a loss
def test_the_observed_image_stands_first_in_what_is_imagined(vae: str) -> None:
    part = {"name": vae} | ({"width": "tiny"} if vae == "wan2.1" else {})
    policy = wamkit.build(override(read(TOY), SMALL) | {"vae": part})
    seen = observation(policy.spec, batch=1)
    out = policy.imagine(seen, seed=0)
    assert torch.equal(out.canvas[:, :, :1], policy.cameras.canvas(seen.images))
    assert out.observed == 1 and torch.equal(out.views["front"], out.canvas)


# Saving ---------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    policy = build("state.size=2", "action_head.state=text")
    policy.set_statistics(statistics(policy))
    return policy.save(tmp_path / "policy")


def test_a_folder_holds_the_spec_the_weights_the_statistics_and_a_card(saved: Path) -> None:
    names = {p.name for p in saved.iterdir()}
    assert names == {
        "README.md", "spec.yaml", "statistics.json", "backbone.safetensors",
        "action_head.safetensors", "text_encoder.safetensors",
    }  # fmt: skip
    spec = yaml.safe_load((saved / "spec.yaml").read_text())
    assert spec["actions"]["clip"] is None and spec["backbone"]["weights"] is None
    assert "| backbone | toy |" in (saved / "README.md").read_text()
    policy = Policy.load(saved)
    assert set(policy.statistics) == {"action", "state"}
    assert not policy.act(observation(policy.spec), seed=0).normalized


def test_a_saved_policy_takes_overrides(saved: Path) -> None:
    policy = Policy.load(saved, ["schedules.action.steps=2"])
    assert policy.spec.schedules.action.steps == 2
    with pytest.raises(wamkit.WamkitError, match="do not fit this model"):
        Policy.load(saved, ["action_head.mlp_dim=512"])


def test_saving_again_replaces_the_folder_and_leaves_no_other_file(saved: Path) -> None:
    policy = Policy.load(saved)
    policy.save(saved)
    assert [p.name for p in saved.parent.iterdir()] == ["policy"]
    Policy.load(saved)


def test_a_failure_while_saving_keeps_the_old_policy(saved: Path, monkeypatch: Any) -> None:
    import wamkit.checkpoints.safetensors as weights

    policy, before = Policy.load(saved), (saved / "backbone.safetensors").read_bytes()

    def fail(*_: Any) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(weights, "write", fail)
    with pytest.raises(wamkit.WamkitError, match="no space"):
        policy.save(saved)
    assert (saved / "backbone.safetensors").read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["policy"]


def test_a_folder_that_is_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(wamkit.WamkitError, match="exists and is not a saved policy"):
        build().save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def _truncate(folder: Path) -> None:
    file = folder / "backbone.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _garble(folder: Path) -> None:
    (folder / "backbone.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not json at all")


def _lose(folder: Path) -> None:
    (folder / "action_head.safetensors").unlink()


def _add(folder: Path) -> None:
    (folder / "extra.safetensors").write_bytes(b"")


def _swap(folder: Path) -> None:
    (folder / "action_head.safetensors").rename(folder / "backbone.safetensors")
    (folder / "action_head.safetensors").write_bytes(
        (folder / "text_encoder.safetensors").read_bytes()
    )


def _unspec(folder: Path) -> None:
    (folder / "spec.yaml").unlink()


def _widen(folder: Path) -> None:
    text = (folder / "spec.yaml").read_text()
    (folder / "spec.yaml").write_text(text.replace("mlp_dim: 256", "mlp_dim: 128"))


def _forget(folder: Path) -> None:
    (folder / "statistics.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"backbone.safetensors is truncated: found \d+ bytes, its header says \d+"),
        (_garble, "its header is garbled"),
        (_lose, "lacks action_head.safetensors"),
        (_add, "belong to no part: extra.safetensors"),
        (_swap, "do not fit this model"),
        (_unspec, "is a folder without spec.yaml"),
        (
            _widen,
            r"of another shape \(found for expected\): expert.0.ffn.net.0.proj.bias \[256\] for",
        ),
        (_forget, "statistics.json is no valid JSON"),
    ],
)
def test_a_damaged_folder_is_refused_with_what_is_wrong(
    saved: Path, damage: Any, message: str
) -> None:
    damage(saved)
    with pytest.raises(wamkit.WamkitError, match=message):
        Policy.load(saved)


def test_parts_load_by_themselves() -> None:
    backbone = wamkit.load_part("backbone", {"name": "toy", "latent_channels": 8, "depth": 1})
    assert len(backbone.blocks) == 1
    with pytest.raises(wamkit.WamkitError, match="an action head is built from the sizes"):
        wamkit.load_part("action_head", "mot")
    with pytest.raises(wamkit.SpecError, match="did you mean 'pixel_shuffle'"):
        wamkit.load_part("vae", "pixel_shufle")


def test_an_unfinished_spec_is_never_built() -> None:
    raw = read(TOY)
    raw["backbone"]["dept"] = 3
    raw["vae"]["name"] = "nothing"
    with pytest.raises(wamkit.SpecError) as error:
        wamkit.build(raw)
    assert len(error.value.conflicts) == 2 and "the spec cannot be built: 2 conflicts" in str(
        error.value
    )
    assert parse(read(TOY)).backbone.name == "toy"


def test_a_latent_adapter_joins_a_vae_and_a_backbone_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(wamkit.SpecError, match=r'set vae\.adapter = "linear"'):
        build("backbone.latent_channels=6")
    policy = build("backbone.latent_channels=6", "vae.adapter=linear").train()
    policy.loss(batch_of(policy.spec), seed=0).total.backward()
    assert all(p.grad is not None for p in policy.latent_adapter.parameters())
    seen = observation(policy.spec)
    again = Policy.load(policy.eval().save(tmp_path / "policy"))
    assert torch.equal(policy.act(seen, seed=0).values, again.act(seen, seed=0).values)
    assert torch.equal(policy.imagine(seen, seed=0).canvas, again.imagine(seen, seed=0).canvas)
