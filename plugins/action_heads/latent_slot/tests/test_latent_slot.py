"""Vectors in latent frames: tiling, what is refused, and every backbone they can be written to."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from wamkit_latent_slot import LatentSlot

from wamkit import check
from wamkit.config.parts import HeadContext, ParadigmConfig
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec
from wamkit.config.visibility import everyone
from wamkit.engine.passes import PassRunner
from wamkit.interfaces import Paradigm
from wamkit.interfaces.paradigm import add_noise, denoise, init_sampler
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import Frames, NoisyVectors, ParadigmOutput
from wamkit.policy.policy import Policy, generator
from wamkit.policy.preprocessing import inference_inputs, training_inputs
from wamkit.testing.fixtures import batch_of, observation, spec_with
from wamkit.testing.parity import float64, same_values
from wamkit.testing.uncached import uncached

BACKBONES = registry().names("backbone")


class Together(ParadigmConfig):
    """As published: everyone sees everyone, and all that is to come is denoised together."""

    name: Literal["together"] = "together"

    @property
    def sees(self) -> Any:
        return everyone({"text", "context", "target", "state", *self.predicts})

    @property
    def predicts(self) -> tuple[str, ...]:
        return ("action", "next_state", "value")

    def build(self) -> Any:
        return _Together(self.sees)


class _Together(Paradigm):
    def __init__(self, sees: Any) -> None:
        self.sees = sees

    def act(
        self, model: Any, inputs: Any, schedules: Any, rng: Any, **act_options: Any
    ) -> ParadigmOutput:
        samplers = {
            part: init_sampler(part, inputs, schedules, rng, steps=2) for part in inputs.parts
        }
        done = denoise(model, inputs, samplers)
        value = done.take("value").flatten(1).mean(1)
        return ParadigmOutput(
            done.take("action"), done.clip, value, {"next": done.take("next_state")}
        )

    def add_noise(self, inputs: Any, schedules: Any, rng: Any) -> Any:
        return add_noise(inputs, schedules, rng)


def spec_for(backbone: str = "toy", *, paradigm: Any = None, **how: Any) -> PolicySpec:
    """A tiny policy that writes its numbers into latent frames; it may have conflicts."""
    parts = {
        "action_head": LatentSlot(**how),
        "paradigm": paradigm or registry().parts["paradigm"]["single_pass"](),  # type: ignore[call-arg]
    }
    return spec_with(backbone=backbone).model_copy(update=parts).fitted()


def head_for(
    chunk: int, action: int, latent: tuple[int, int, int], state: int = 3, **how: Any
) -> Any:
    backbone: Any = registry().parts["backbone"]["toy"]().tiny()  # type: ignore[call-arg]
    sizes = HeadContext(
        backbone=backbone, chunk=chunk, action=action, state=state, latent=latent, frames=(1, 2)
    )
    return LatentSlot(**how).build(sizes)


def tiled(chunk: Tensor, latent: tuple[int, ...]) -> Tensor:
    """The published way to fill one frame (`policy_text2world_model.py`), in a loop."""
    flat, frame = chunk.flatten().tolist(), []
    while len(frame) < prod(latent):
        frame += flat
    return torch.tensor(frame[: prod(latent)])


# (chunk, numbers, latent, frames, complete copies): LIBERO, ALOHA, and sizes that do not divide.
SIZES = [
    (16, 7, (16, 28, 28), 1, 112),
    (50, 14, (16, 28, 28), 1, 17),
    (6, 4, (4, 3, 5), 1, 2),
    (5, 3, (2, 3, 4), 1, 1),
    (5, 3, (1, 3, 4), 2, 1),
    (5, 3, (1, 3, 4), 3, 2),
]


@pytest.mark.parametrize(("chunk", "size", "latent", "slots", "copies"), SIZES)
@float64()
def test_values_come_back_from_the_frames_they_are_tiled_over(
    chunk: int, size: int, latent: tuple[int, int, int], slots: int, copies: int
) -> None:
    head = head_for(chunk, size, latent, slots=slots)
    x = torch.randn(2, chunk, size)
    frames = head.to_latent("action", x)
    assert frames.shape == (2, slots, prod(latent))
    assert torch.equal(frames[1].flatten(), tiled(x[1], (slots, *latent)))
    same_values(head.from_latent("action", frames), x)
    # Reading averages the complete copies, and ignores what is left of a last one.
    flat, size = frames.flatten(1).clone(), chunk * size
    flat[:, copies * size :] += 100
    flat[:, :size] += copies
    read = head.from_latent("action", flat.view_as(frames))
    same_values(read, x + 1)


@float64()
def test_several_chunks_are_tiled_one_by_one() -> None:
    head = head_for(5, 3, (2, 3, 4))
    x = torch.randn(2, 15, 3)
    frames = head.to_latent("action", x)
    assert frames.shape == (2, 3, 24)
    assert torch.equal(frames[:, 1:2], head.to_latent("action", x[:, 5:10]))
    same_values(head.from_latent("action", frames), x)


@float64()
def test_a_value_fills_its_frame_and_is_read_as_the_mean() -> None:
    head = head_for(5, 3, (2, 3, 4))
    value = torch.tensor([-0.5, 1.0]).reshape(2, 1, 1)
    frame = head.to_latent("value", value)
    assert torch.equal(frame, value.expand(2, 1, 24))
    noise = torch.randn(2, 1, 24)
    read = head.from_latent("value", frame + noise)
    same_values(read, value + noise.mean(2, keepdim=True))


def test_a_state_that_does_not_divide_the_frame_is_cut_too() -> None:
    head = head_for(5, 3, (2, 3, 4), state=9)
    x = torch.randn(2, 1, 9)
    assert torch.equal(head.to_latent("state", x)[0, 0], tiled(x[0], (2, 3, 4)))
    assert torch.equal(head.to_latent("next_state", x), head.to_latent("state", x))


def test_frames_hold_the_values_in_the_order_of_channels_rows_and_columns() -> None:
    spec = spec_for()
    policy = Policy.from_spec(spec)
    inputs = training_inputs(policy, batch_of(spec))
    assert inputs.state is not None
    found = policy.action_head.slots(inputs, ())  # type: ignore[operator]
    state = found["state"].z[1, :, 0]
    assert torch.equal(state.flatten(), tiled(inputs.state[1], spec.sizes.latent))
    action = inputs.noisy("action")
    assert torch.equal(found["action"].z[1, :, 0].flatten(), action.x[1, 0])
    back = policy.action_head.decode_slot("action", found["action"].z, action)  # type: ignore[operator]
    assert torch.equal(back, action.x)


def test_levels_and_what_is_clean() -> None:
    head = head_for(4, 4, (2, 2, 2), slots=2)
    spec = spec_for()
    inputs = inference_inputs(Policy.from_spec(spec), observation(spec))
    vectors = NoisyVectors(
        torch.zeros(2, 4, 8), torch.rand(2, 4), ("action.0",) * 2 + ("action.1",) * 2
    )
    found = head.slots(inputs.with_(action=vectors), ())
    assert torch.equal(found["action"].sigma, vectors.sigma)
    assert found["action"].roles == vectors.roles
    assert not found["state"].sigma.any() and not found["blank"].sigma.any()


@float64()
def test_padding_counts_for_nothing_in_any_of_its_copies() -> None:
    spec = spec_for()
    policy = Policy.from_spec(spec)
    batch = batch_of(spec)
    valid = torch.ones(2, spec.actions.chunk_size, dtype=torch.bool)
    valid[:, 4:] = False
    padded = replace(batch, step_valid=valid)
    one = policy.loss(padded, seed=0)
    other = policy.loss(replace(batch), seed=0)
    assert not torch.equal(one.parts["action"], other.parts["action"])
    inputs = training_inputs(policy, padded)
    noisy, target = policy.paradigm.add_noise(inputs, policy.schedules, generator(0))
    error = policy.model(noisy).take("action", noisy) - target["action"].velocity
    real = policy.action_head.to_latent("action", valid.float()[..., None].expand(-1, -1, 4))
    weight = target["action"].weight[:, None, None]
    expected = (error.square() * real * weight).sum((1, 2)) / real.sum((1, 2))
    same_values(one.parts["action"], expected.mean())


# Over every backbone ----------------------------------------------------------------------------


def test_a_backbone_without_velocity_is_refused() -> None:
    for name in BACKBONES:
        found = check(spec_for(name))
        backbone: Any = registry().parts["backbone"][name]
        if backbone().tiny().traits.imagines:
            assert not found
        else:
            message = [c for c in found if c.between == ("action_head", "backbone")]
            assert [str(c) for c in message] == [
                f"action_head + backbone: {name} has no velocity that actions in latent frames "
                "could be read from\n    hint: choose a backbone that was trained to denoise, or "
                "an action head that reads hidden states or has tokens of its own "
                "(`wamkit list action_head`)"
            ]


JOINED = [name for name in BACKBONES if not check(spec_for(name))]
LAYOUTS: list[dict[str, Any]] = [{}, {"layout": "append", "slots": 2}]


@pytest.mark.parametrize("how", LAYOUTS, ids=["cosmos", "append"])
@pytest.mark.parametrize("name", JOINED)
@torch.no_grad()
@float64()
def test_a_cache_changes_nothing(name: str, how: dict[str, Any]) -> None:
    spec = spec_for(name, **how)
    policy = Policy.from_spec(spec)
    inputs = inference_inputs(policy, observation(spec))
    act = policy.paradigm.act
    fast = act(policy.model, inputs, policy.schedules, generator(0)).action
    slow = act(uncached(policy.model), inputs, policy.schedules, generator(0)).action
    same_values(fast, slow)


@pytest.mark.parametrize("name", JOINED)
def test_all_that_is_to_come_is_denoised_together(name: str) -> None:
    spec = spec_for(name, paradigm=Together())
    assert not check(spec) and spec.sizes.predicts == ("action", "next_state", "value")
    policy, seen = Policy.from_spec(spec), observation(spec)
    chunk = policy.act(seen, seed=0)
    assert chunk.values.shape == (2, 6, 4) and chunk.values.isfinite().all()
    assert chunk.value is not None and chunk.value.shape == (2,)
    assert policy.action_head.from_latent("next_state", chunk.notes["next"]).shape == (2, 1, 3)
    losses = policy.train().loss(batch_of(spec), seed=0)
    assert set(losses.parts) == {"action", "video", "next_state", "value"}
    losses.total.backward()
    for part in (policy.backbone, policy.action_head):
        grads = [p.grad for p in part.parameters() if p.grad is not None]  # type: ignore[attr-defined]
        assert all(bool(g.isfinite().all()) for g in grads) and any(bool(g.any()) for g in grads)


@pytest.mark.parametrize("name", JOINED)
def test_slots_are_attended_to_and_decoded(name: str) -> None:
    policy = Policy.from_spec(spec_for(name, paradigm=Together()))
    inputs = training_inputs(policy, batch_of(policy.spec))
    noisy, _ = policy.paradigm.add_noise(inputs, policy.schedules, generator(0))
    action = noisy.noisy("action")
    x = action.x.clone().requires_grad_()
    state = noisy.state.clone().requires_grad_()  # type: ignore[union-attr]
    found = policy.model(noisy.with_(action=replace(action, x=x), state=state))
    for part in ("video", "action", "next_state", "value"):
        velocity = found.take(part, noisy)
        assert velocity.shape == noisy.take(part).shape
        for grad in torch.autograd.grad(velocity.sum(), (x, state), retain_graph=True):
            assert bool(grad.isfinite().all()) and bool(grad.any())


@pytest.mark.parametrize("name", JOINED)
@torch.no_grad()
def test_no_two_slots_have_one_position(name: str) -> None:
    policy = Policy.from_spec(spec_for(name, slots=2, paradigm=Together()))
    for parameter in policy.backbone.parameters():  # type: ignore[attr-defined]
        parameter.add_(torch.randn(parameter.shape, generator=generator(1)) * 0.05)
    noisy, _ = policy.paradigm.add_noise(
        training_inputs(policy, batch_of(policy.spec)), policy.schedules, generator(0)
    )
    action = noisy.noisy("action")
    one = policy.model(noisy).take("action", noisy)
    swapped = noisy.with_(action=replace(action, x=action.x.flip(1)))
    two = policy.model(swapped).take("action", noisy).flip(1)
    assert float((one - two).abs().max()) > 1e-4 * float(one.abs().max())


@pytest.mark.parametrize("name", JOINED)
@torch.no_grad()
def test_a_state_enters_as_an_observation_does(name: str) -> None:
    policy = Policy.from_spec(spec_for(name))
    for parameter in policy.backbone.parameters():  # type: ignore[attr-defined]
        parameter.add_(torch.randn(parameter.shape, generator=generator(1)) * 0.05)
    inputs = inference_inputs(policy, observation(policy.spec))
    assert inputs.video is not None
    one, runner = inputs.video.only("context"), PassRunner()
    tokens = {
        role: embed_video(
            runner,
            policy.backbone,
            Frames(one.z, (role,), one.times, one.levels, one.cond_latents),
            inputs.text,
        ).frames.tokens
        for role in ("context", "state")
    }
    assert torch.equal(tokens["context"], tokens["state"])


# What cannot be ---------------------------------------------------------------------------------


def conflict_texts(spec: PolicySpec) -> list[str]:
    return [str(conflict) for conflict in check(spec)]


def test_a_chunk_must_fit_its_slots() -> None:
    spec = spec_for()
    actions = spec.actions.model_copy(update={"chunk_size": 400})
    small = spec.model_copy(update={"actions": actions, "action_head": LatentSlot(slots=1)})
    c, h, w = small.sizes.latent
    needed = -(-1600 // (c * h * w))
    assert needed > 1
    assert conflict_texts(small.fitted()) == [
        f"action_head.slots + actions + cameras: a chunk of 400 x 4 values does not fit into 1 x "
        f"{c}x{h}x{w} latents\n    hint: set action_head.slots = {needed}, or leave it out"
    ]
    for hint in (LatentSlot(slots=needed), LatentSlot()):
        fixed = small.model_copy(update={"action_head": hint}).fitted()
        assert conflict_texts(fixed) == [] and fixed.action_head.slots == needed  # type: ignore[attr-defined]


def test_a_state_must_fit_one_frame() -> None:
    spec = spec_for()
    c, h, w = spec.sizes.latent
    large = spec.model_copy(update={"state": spec.state.model_copy(update={"size": 5000})})
    assert conflict_texts(large) == [
        f"state.size + cameras: a state of 5000 values does not fit into one latent frame of "
        f"{c}x{h}x{w}\n    hint: make the views larger, or set state.size to at most {c * h * w} "
        "values and choose which"
    ]
    fits = spec.model_copy(update={"state": spec.state.model_copy(update={"size": c * h * w})})
    assert conflict_texts(fits) == []


def test_appended_slots_have_no_place_for_a_blank_frame() -> None:
    assert conflict_texts(spec_for(layout="append", blank="learned")) == [
        "action_head.blank + action_head.layout: a blank frame stands before all others, and where "
        "slots are appended the first place is the video's\n"
        '    hint: set action_head.blank = "none", or action_head.layout = "cosmos"'
    ]
    assert conflict_texts(spec_for(layout="append", blank="none")) == []
    assert conflict_texts(spec_for(layout="cosmos", blank="learned")) == []


def test_without_a_blank_frame_there_are_no_weights(tmp_path: Any) -> None:
    file = tmp_path / "head.safetensors"
    file.touch()
    assert conflict_texts(spec_for(blank="none", weights=str(file))) == [
        f"action_head.weights + action_head.blank: weights are named, {file}, and without a "
        'learned blank frame there are none\n    hint: set action_head.blank = "learned", or leave '
        "action_head.weights out"
    ]
    assert (
        conflict_texts(spec_for(weights=str(file))) == conflict_texts(spec_for(blank="none")) == []
    )


def test_tokens_are_those_of_the_frames_it_adds() -> None:
    spec = spec_for(slots=2, paradigm=Together())
    one = spec.backbone.traits.tokens(1, *spec.latent_size)
    added = {"context": one, "state": one, "action": 2 * one, "next_state": one, "value": one}
    assert spec.action_head.tokens(spec.sizes) == added
    assert spec.tokens()["context"] == 2 * one
    policy = Policy.from_spec(spec)
    inputs = training_inputs(policy, batch_of(spec))
    found = policy.action_head.slots(inputs, ())  # type: ignore[operator]
    frames = sum(len(clip.roles) for clip in found.values())
    assert frames * one == sum(added.values())
