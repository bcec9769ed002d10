"""Views that are clips by themselves: order of frames, attention layer by layer, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from wamkit.bench.hooks import hook_method
from wamkit.config.check import check
from wamkit.config.parts import BackboneConfig
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec, parse, read
from wamkit.config.visibility import everyone, freeze
from wamkit.engine.attention_plan import plan_pass
from wamkit.engine.levels import Level, LevelTable
from wamkit.policy.clips import BLACK, encode_canvas
from wamkit.policy.frame_order import frame_validity, places_of_frames, split_views
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import canvas_of, inference_inputs, training_inputs
from wamkit.testing.fixtures import (
    batch_of,
    observation,
    randomize_weights,
    run_paradigm,
    spec_with,
    with_overrides,
)
from wamkit.testing.parity import float64, other_values, same_values
from wamkit.testing.uncached import uncached

SMALL = Path(__file__).parent / "data" / "small.toml"


def spec_of(head: str = "reader", paradigm: Any = "single_pass", **changes: Any) -> PolicySpec:
    """A tiny policy with two views of their own, whose VAE keeps every pixel."""
    raw: dict[str, Any] = {
        "backbone": {
            "name": "ltx", "variant": "tiny", "layers": 4, "latent_channels": 12, "views": 3,
            "cross_view_stride": 3,
        },
        "vae": {"name": "pixel_shuffle", "strides": [4, 1, 1]},
        "text_encoder": "bytes",
        "action_head": head,
        "paradigm": paradigm,
        "actions": {"chunk_size": 4, "groups": [{"name": "arm", "size": 3}]},
        "state": {"size": 2},
        "cameras": {
            "layout": "clip_per_view",
            "views": [{"name": name, "size": [2, 3]} for name in "ab"],
        },
        "video": {"num_observed": 2, "num_frames": 7, "observed_latents": "images"},
        "schedules": {"action": {"steps": 2}, "video": {"steps": 2}},
    }  # fmt: skip
    return parse(raw | changes)


def policy_of(spec: PolicySpec) -> Policy:
    assert check(spec) == []
    return randomize_weights(Policy.from_spec(spec))


IDM = {"name": "idm", "context_noise_prob": 1.0, "stop_sigma": 1.0}


@pytest.mark.parametrize(
    ("head", "paradigm"),
    [
        ("reader", IDM),
        ("reader", {"name": "joint", "context": "open", "refresh": [0]}),
        ("mot", "single_pass"),
        ("mot", {"name": "joint", "attends": "mutual"}),
        ("latent_slot", IDM),
        ("shared_stream", "single_pass"),
    ],
)
@float64()
def test_a_cache_changes_nothing_with_views_of_their_own(head: str, paradigm: Any) -> None:
    policy = policy_of(spec_of(head, paradigm)).double()
    models = (None, uncached(policy.model))
    same_values(*(run_paradigm(policy, model).action for model in models))


@float64()
def test_every_view_is_seen_through_the_layers_in_which_views_meet() -> None:
    policy = policy_of(spec_of()).double()
    seen, out = observation(policy.spec), []
    for change in (0, 1):
        inputs = inference_inputs(policy, seen)
        assert inputs.video is not None
        z = inputs.video.z.clone()
        z[:, :, inputs.video.views.index(1)] += change
        inputs = inputs.with_(video=inputs.video.put(z, *dict.fromkeys(inputs.video.roles)))
        with torch.no_grad():
            out.append(policy.model(inputs))
    other_values(out[0].video[:, :, 0], out[1].video[:, :, 0])  # type: ignore[index]


def test_tokens_of_a_view_attend_to_their_own_and_to_those_of_none() -> None:
    shapes = (
        (("context@0", 2), ("context@1", 3), ("target@0", 4), ("target@1", 5)),
        (("action", 1),),
    )
    sees = freeze(everyone({"context", "target", "action"}))
    together, alone = plan_pass(shapes, ((True,) * 2,) * 2, sees, apart=(False, True))
    assert len(together.key_sets) == 1 and together.key_sets[0].new == 15
    sizes = [[alone.key_sets[g.key_set].new for g in groups] for groups in alone.queries]
    assert sizes == [[7, 9, 7, 9], [15]]


def test_cached_tokens_of_other_views_are_left_out() -> None:
    shapes = ((("target@0", 4), ("target@1", 5)),)
    sees, cached = freeze(everyone({"context", "target"})), ("context@0", "context@1")
    plan = plan_pass(shapes, ((True, True),), sees, (cached,) * 2, apart=(False, True))
    assert [key_set.cached for step in plan for key_set in step.key_sets] == [
        cached,
        ("context@0",),
        ("context@1",),
    ]


def test_a_level_has_the_view_of_its_frame() -> None:
    levels = [(Level((1.0, 0.5), i), 1) for i in (0, 0, 1, 1)]
    table = LevelTable.of(levels, 1, torch.device("cpu")).by_view((0, 1, 0, None))
    assert table.view is not None
    rows = table.index[0]
    assert table.sigmas[rows].tolist() == [1.0, 1.0, 0.5, 0.5]
    assert table.view[rows].tolist() == [0, 1, 0, 0]


def test_levels_of_views_are_sent_to_the_device_once_a_run() -> None:
    tables = [
        LevelTable.of([(Level((1.0, 0.5), i), 2)], 1, torch.device("cpu")).by_view((0, 1))
        for i in (0, 1)
    ]
    assert tables[0].sigmas is tables[1].sigmas and tables[0].view is tables[1].view
    assert [table.sigmas[table.index[0]].tolist() for table in tables] == [[1.0] * 2, [0.5] * 2]


def test_frames_stand_view_by_view_and_observed_images_are_latents_of_their_own() -> None:
    policy = policy_of(spec_of())
    times, views = places_of_frames(policy.spec, *policy.spec.latent_frames)
    assert times == (0, 1, 0, 1, 2, 3, 2, 3) and views == (0, 0, 1, 1, 0, 0, 1, 1)
    batch = batch_of(policy.spec)
    canvas = canvas_of(policy, batch.observation)
    inputs = training_inputs(policy, batch)
    assert inputs.video is not None and inputs.video.views == views
    one = policy.vae.encode(canvas.unflatten(0, (-1, 2))[:, 1, :, 1:2])  # view b, second image
    same_values(inputs.video.z[:, :, 3:4], one)


def test_imagined_images_come_back_in_their_views() -> None:
    policy = policy_of(spec_of())
    found = policy.imagine(observation(policy.spec), seed=0)
    assert {name: tuple(x.shape[1:]) for name, x in found.views.items()} == {
        "a": (3, 7, 2, 3),
        "b": (3, 7, 2, 3),
    }
    canvas = torch.rand(4, 3, 7, 2, 3) * 2 - 1
    z = encode_canvas(policy.spec, policy.vae, canvas)
    future = split_views(policy.spec, z)[:, :, 2:]
    same_values(policy.vae.decode(future), canvas[:, :, 2:])


def test_padding_of_a_clip_follows_the_order_of_its_frames() -> None:
    valid = torch.tensor([[True, False, True, False, False, False, False]])
    assert frame_validity(spec_of(), valid).tolist() == [
        [True, False, True, False, True, False, True, False]
    ]


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"backbone": {"name": "ltx", "variant": "tiny"}}, "side_by_side"),
        ({"backbone": {"name": "ltx", "variant": "tiny", "views": 1}}, "leave 1 of"),
        ({"paradigm": "autoregressive"}, "choose another paradigm"),
        ({"video": {"num_observed": 2, "num_frames": 6, "observed_latents": "images"}}, "3 or 7"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_cure(changes: dict[str, Any], hint: str) -> None:
    assert any(hint in conflict.hint for conflict in check(spec_of(**changes)))


def test_observed_images_may_be_further_apart_than_those_to_come() -> None:
    video = spec_of(
        video={
            "num_observed": 3, "num_frames": 8, "observed_latents": "images", "frame_stride": 2,
            "observed_stride": 10,
        }
    ).video  # fmt: skip
    assert video.moments(8) == (-20, -10, 0, 2, 4, 6, 8, 10)
    assert video.model_copy(update={"observed_stride": None}).moments(3) == (-4, -2, 0)


@pytest.mark.parametrize("pooling", ["images", "latents"])
def test_the_black_frame_before_smaller_targets_is_as_small_as_they(pooling: str) -> None:
    raw = read(SMALL) | {
        "action_head": {"name": "latent_slot", "blank": "black"},
        "cameras": {"views": [{"name": "front", "size": [32, 32]}]},
        "video": {"num_frames": 3, "target_downscale": 2, "target_pooling": pooling},
    }
    policy = policy_of(parse(raw))
    assert policy.loss(batch_of(policy.spec), seed=0).total.isfinite()


def test_the_black_frame_is_encoded_once_and_anew_with_other_weights() -> None:
    paradigm: Any = registry().get("paradigm", "single_pass")()
    spec = spec_with(paradigm, backbone="toy", action_head="latent_slot")
    policy, encoded = policy_of(with_overrides(spec, 'action_head.blank="black"')), []
    with hook_method(policy.vae, "encode", lambda run, x: (encoded.append(x), run(x))[1]):
        seen = observation(policy.spec, batch=2, frames=policy.spec.video.num_observed)
        with torch.inference_mode():
            first = inference_inputs(policy, seen)
        assert sum(bool(x.eq(BLACK).all()) for x in encoded) == 1
        encoded.clear()
        inference_inputs(policy, seen)
        policy.loss(batch_of(policy.spec), seed=0).total.backward()
        assert encoded and not any(x.eq(BLACK).all() for x in encoded)
        with torch.no_grad():
            next(policy.vae.parameters()).mul_(1.5)
        again = inference_inputs(policy, seen)
    assert encoded[-1].eq(BLACK).all()
    other_values(again.video.z[:, :, 0], first.video.z[:, :, 0], 1e-3)


def test_a_backbone_that_tells_views_apart_is_named() -> None:
    raw = spec_of().dump() | {"backbone": {"name": "toy"}}
    reasons = [c.hint for c in check(raw) if c.between == ("cameras.layout", "backbone")]
    (name, views), *_ = [
        (part.name, part.traits.views)
        for cls in registry()
        if issubclass(cls, BackboneConfig)
        for part in cls().variations()  # type: ignore[call-arg]
        if part.traits.views  # type: ignore[attr-defined]
    ]
    assert [f"such as {name} with backbone.views = {views}" in hint for hint in reasons] == [True]
