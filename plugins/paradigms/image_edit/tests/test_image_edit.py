"""ImageWAM's schedule: its mask, one frame to learn from, and a prefix at a stated level."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from wamkit_image_edit import ImageEdit

from wamkit import check
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec, parse, read
from wamkit.engine.kv_cache import KVCache
from wamkit.interfaces.types import ModelInputs, ModelOutput
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import (
    batch_of,
    noised_sample,
    observation,
    run_paradigm,
    spec_with,
    with_overrides,
)
from wamkit.testing.parity import float64, other_values, same_values
from wamkit.testing.uncached import uncached


def spec_for(*changes: str, backbone: str = "flux2", **settings: Any) -> PolicySpec:
    spec = spec_with(ImageEdit(**settings), backbone=backbone, action_head="mot")
    return with_overrides(spec, *changes)


def test_the_table_is_the_published_mask() -> None:
    # Rows are queries, columns keys: text, reference, target, action (ImageWAM, FLUX.2).
    published = {
        "text": (1, 1, 0, 0),
        "context": (1, 1, 0, 0),
        "target": (1, 1, 1, 0),
        "action": (1, 1, 0, 1),
    }
    sees, columns = ImageEdit().sees, tuple(published)
    assert {r: tuple(int(c in sees[r]) for c in columns) for r in columns} == published
    assert set(sees) == {*published, "state"}


@pytest.mark.parametrize("backbone", registry().names("backbone"))
@pytest.mark.parametrize("level", [0.0, 0.4])
@float64()
def test_caching_changes_nothing(backbone: str, level: float) -> None:
    policy = Policy.from_spec(spec_for(backbone=backbone, prefix_level=level))
    one, two = run_paradigm(policy), run_paradigm(policy, uncached(policy.model))
    same_values(one.action, two.action)


@torch.no_grad()
@pytest.mark.parametrize("backbone", registry().names("backbone"))
@float64()
def test_the_training_pass_equals_the_cached_use(backbone: str) -> None:
    policy = Policy.from_spec(spec_for(backbone=backbone, prefix_level=0.4))
    _, noisy, _ = noised_sample(policy)
    assert noisy.video is not None
    full = policy.model(noisy).action
    seen = noisy.with_(video=noisy.video.only("context"), action=None)
    cache = policy.model(seen, keep=("text", "context", "state")).cache
    fast = policy.model(noisy.with_(video=None), cache=cache).action
    assert full is not None and fast is not None
    same_values(fast, full)


def test_acting_makes_no_edit_and_the_program_reports_it() -> None:
    policy = Policy.from_spec(spec_for(prefix_level=0.25))
    passes: list[frozenset[str]] = []

    def model(
        inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        passes.append(inputs.roles - {"text", "state"})
        if inputs.video is not None:
            assert inputs.video.sigma.tolist() == [[0.25], [0.25]]
        return policy.model(inputs, cache, keep)

    assert run_paradigm(policy, model).video is None
    assert passes == [{"context"}, {"action"}, {"action"}, {"action"}]
    stages = policy.spec.paradigm.program(policy.spec)
    assert [stage.passes for stage in stages] == [1, 3]


@float64()
def test_the_prefix_level_has_an_effect_and_is_clean_as_published() -> None:
    clean_prefix = Policy.from_spec(spec_for())
    assert ImageEdit().prefix_level == 0
    noisy_prefix = Policy.from_spec(spec_for(prefix_level=0.5))
    noisy_prefix.load_state_dict(clean_prefix.state_dict())
    other_values(run_paradigm(noisy_prefix).action, run_paradigm(clean_prefix).action, 1e-5)


@pytest.mark.parametrize(("name", "level"), [("same", 0.3), ("target", None)])
@float64()
def test_training_gives_reference_frames_the_same_level_or_that_of_the_edited_frames(
    name: Any, level: float | None
) -> None:
    policy = Policy.from_spec(spec_for(prefix_level=0.3, training_level=name))
    inputs, noisy, target = noised_sample(policy)
    assert inputs.video is not None and noisy.video is not None and noisy.action is not None
    assert torch.equal(noisy.video.z[:, :, 0], inputs.video.z[:, :, 0])
    reference, edited = noisy.video.sigma.unbind(1)
    assert torch.equal(reference, edited if level is None else torch.full((2,), level))
    assert target["video"].places == (1,)
    assert not (edited == noisy.action.sigma).any()
    back = noisy.take("video") - edited[:, None, None, None, None] * target["video"].velocity
    same_values(back, inputs.take("video"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["same", "target"])
@float64()
def test_the_edit_is_made_as_it_was_learned(name: Any) -> None:
    policy = Policy.from_spec(spec_for(prefix_level=0.3, training_level=name))
    levels: list[list[float]] = []

    def model(
        inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        assert inputs.video is not None
        levels.append(inputs.video.sigma[0].tolist())
        return policy.model(inputs, cache, keep)

    inputs, rng = (
        inference_inputs(policy, observation(policy.spec)),
        torch.Generator().manual_seed(3),
    )
    clip = policy.paradigm.imagine(model, inputs, policy.schedules, rng)
    grid = policy.schedules["video"].grid()[:-1]
    expected = [[s, s] for s in grid] if name == "target" else [[0.3], *([s] for s in grid)]
    same_values([x for row in levels for x in row], [x for r in expected for x in r])
    assert clip.roles == ("context", "target") and clip.sigma[:, 1].tolist() == [0, 0]


def test_a_video_backbone_imagines_one_frame_too() -> None:
    spec = spec_for(backbone="wan")
    assert spec.latent_frames == (1, 1) and check(spec) == []


def test_a_vision_encoder_acts_without_any_frame_to_imagine() -> None:
    spec = spec_for(backbone="timm_vit")
    assert spec.latent_frames == (1, 0)
    (found,) = check(spec_for("paradigm.training_level=target", backbone="timm_vit"))
    assert found.why == (
        "the reference frames are to be told the level of the edited frame, and there is none"
    )
    assert found.hint == 'set paradigm.training_level = "same"'


@pytest.mark.parametrize("frames", [1, 9])
def test_any_other_number_of_frames_is_refused(frames: int) -> None:
    (found,) = check(spec_for(f"video.num_frames={frames}", backbone="wan"))
    assert found.between == ("paradigm", "video.num_frames")
    assert found.why == (
        f"image_edit imagines one latent frame, the endpoint; {frames} images make "
        f"{(frames - 1) // 4}"
    )
    right = found.hint.removeprefix("set video.num_frames = ").partition(",")[0]
    assert check(spec_for(f"video.num_frames={right}", backbone="wan")) == []


@float64()
def test_on_a_cross_attending_backbone_it_computes_what_single_pass_does() -> None:
    # So the benchmark of paradigms trains the two to the same policy (benchmarks/RESULTS.md).
    example = Path(__file__).parents[4] / "examples" / "metaworld.toml"
    chunks, losses, gradients = [], [], []
    for name in ("single_pass", "image_edit"):
        policy = Policy.from_spec(parse(read(example, [f"paradigm.name={name}"])).fitted())
        chunks.append(run_paradigm(policy).action)
        losses.append(policy.loss(batch_of(policy.spec), seed=2).total)
        losses[-1].backward()
        gradients.append([x.grad for x in policy.parameters() if x.grad is not None])
    same_values(*chunks)
    same_values(*losses)
    assert len(gradients[0]) == len(gradients[1]) > 10
    for one, two in zip(*gradients, strict=True):
        same_values(one, two)
