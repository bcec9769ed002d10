"""Chunk by chunk against a memory is what training computes in one pass."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from wamkit_autoregressive import Autoregressive
from wamkit_autoregressive.memory import Memory

from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec
from wamkit.engine.kv_cache import KVCache
from wamkit.interfaces.types import (
    EpisodeHistory,
    Frames,
    ModelInputs,
    ModelOutput,
    NoisyVectors,
    ParadigmOutput,
)
from wamkit.policy.policy import Policy, generator
from wamkit.policy.preprocessing import training_inputs
from wamkit.testing.fixtures import batch_of, randomize_weights, spec_with, with_overrides
from wamkit.testing.parity import float64, other_values, same_values
from wamkit.testing.uncached import uncached

HEADS = ("mot", "shared_stream", "latent_slot")
BACKBONES = ("toy", "wan", "cosmos", "ltx", "flux2")
LINGBOT: dict[str, Any] = {"context_noise_prob": 0}
DREAMZERO: dict[str, Any] = {"context_noise_prob": 0, "action": "mutual"}


def spec_for(
    *changes: str, backbone: str = "toy", head: str = "mot", chunks: int = 3, **settings: Any
) -> PolicySpec:
    paradigm = Autoregressive(**({"on_full_memory": "slide"} | settings))
    spec = spec_with(paradigm, backbone=backbone, action_head=head)
    window = settings.get("window")
    sizes = f"paradigm.chunks={chunks}", *([f"paradigm.window={window}"] if window else ())
    return with_overrides(spec, *sizes, *changes)


@dataclass
class Lesson:
    """A training sample of a policy: clean inputs, noisy inputs, and the velocities for them."""

    policy: Policy
    history_offset: float = 0.0  # added to the observed frames and executed actions
    whole: ModelInputs = field(init=False)
    noisy: ModelInputs = field(init=False)
    found: ModelOutput = field(init=False)

    def __post_init__(self) -> None:
        self.whole = training_inputs(self.policy, batch_of(self.policy.spec))
        rng = generator(1)
        self.noisy, _ = self.policy.paradigm.add_noise(self.whole, self.policy.schedules, rng)
        self.found = self.policy.model(self.noisy)

    @property
    def chunks_per_sample(self) -> int:
        return self.policy.spec.paradigm.chunks_per_sample

    def frames(self, k: int) -> Tensor:
        """The true frames of block k."""
        return self.whole.take("video").chunk(self.chunks_per_sample, 2)[k]

    def actions(self, k: int) -> Tensor:
        """The true actions of block k."""
        return self.whole.take("action").chunk(self.chunks_per_sample, 1)[k]

    def beginning(self, k: int = 0) -> ModelInputs:
        """The inputs from which the first chunk is sampled, with the state of chunk k."""
        clip, action = self.whole.clip, self.whole.action
        assert clip is not None and action is not None
        size, steps = (
            len(clip.where("target")) // self.chunks_per_sample,
            action.x.shape[1] // self.chunks_per_sample,
        )
        at = len(clip.where("context")) + size
        guide = None if clip.cond_latents is None else clip.cond_latents[:, :, :at]
        z, roles, times, sigma = clip.z[:, :, :at], clip.roles[:at], clip.times[:at], clip.sigma
        start = Frames(z, roles, times, sigma[:, :at], guide)
        blank = NoisyVectors(torch.zeros_like(action.x[:, :steps]), torch.ones(len(action.x)))
        state = self.whole.state
        if state is not None and state.ndim == 3:
            state = state[:, k]
        return self.whole.with_(video=start, action=blank, state=state)

    def expected(self, k: int) -> tuple[Tensor, Tensor]:
        """The velocities of block k in the pass over all blocks."""
        video, action = self.noisy.video, self.noisy.action
        assert video is not None and action is not None
        assert self.found.video is not None and self.found.action is not None
        steps = [i for i, role in enumerate(action.roles) if role == f"action.{k}"]
        return self.found.video[:, :, video.where(f"target.{k}")], self.found.action[:, steps]

    def probe(self, k: int) -> tuple[Any, dict[str, Tensor]]:
        """A model for chunk k that is shown the noise of training, and what it says to that."""
        predictions: dict[str, Tensor] = {}
        video, action = self.noisy.video, self.noisy.action
        assert video is not None and action is not None
        steps = [i for i, role in enumerate(action.roles) if role == f"action.{k}"]
        noisy = video.only(f"target.{k}")

        def model(
            inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
        ) -> ModelOutput:
            if inputs.video is not None and inputs.video.targets:
                inputs = inputs.put("video", noisy.z, noisy.sigma[:, 0])
                assert inputs.video.times == noisy.times  # type: ignore[union-attr]
            elif inputs.video is not None and inputs.video.times == noisy.times:
                inputs = inputs.with_(video=replace(inputs.video, z=self.frames(k)))  # as imagined
            if inputs.action is not None and inputs.action.roles[0].startswith("action"):
                inputs = inputs.put("action", action.x[:, steps], action.sigma[:, steps[0]])
                places = [action.places()[i] for i in steps]
                assert list(inputs.noisy("action").places()) == places
            found = self.policy.model(inputs, cache, keep)
            for part in inputs.parts if not keep else ():
                predictions.setdefault(part, found.take(part, inputs))
            return found

        return model, predictions


def awake(spec: PolicySpec) -> Policy:
    """The policy with every weight redrawn, so that zero-initialized ones hide nothing."""
    policy = Policy.from_spec(spec)
    for part in (policy.backbone, policy.action_head):
        randomize_weights(part)  # type: ignore[type-var]
    return policy


@torch.no_grad()
def streamed(policy: Policy, lesson: Lesson, chunks: int) -> list[Memory]:
    """Every chunk of the lesson made after the true ones before it; its velocities are compared."""
    past, memories = None, list[Memory]()
    for k in range(chunks):
        model, predictions = lesson.probe(k)
        inputs = lesson.beginning(k).with_(past=past)
        out = policy.paradigm.act(model, inputs, policy.schedules, generator(k))
        for name, found, expected in zip(
            ("video", "action"),
            (predictions["video"], predictions["action"]),
            lesson.expected(k),
            strict=True,
        ):
            scale = max(1.0, float(expected.abs().max()))
            error = float((found - expected).abs().max()) / scale
            assert error < 1e-5, f"{name} of chunk {k} differs by {error:.1e}"
        memories.append(out.memory)
        past = EpisodeHistory(
            out.memory,
            lesson.frames(k) + lesson.history_offset,
            lesson.actions(k) + lesson.history_offset,
        )
    return memories


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_streaming_equals_the_training_pass(backbone: str, head: str) -> None:
    policy = awake(spec_for(backbone=backbone, head=head, **LINGBOT))
    streamed(policy, Lesson(policy), 3)
    with pytest.raises(AssertionError, match="of chunk 1 differs"):
        streamed(policy, Lesson(policy, history_offset=0.5), 2)


@pytest.mark.parametrize(
    ("backbone", "head"),
    [("toy", "mot"), ("wan", "shared_stream"), ("cosmos", "latent_slot"), ("flux2", "mot")],
)
@torch.no_grad()
def test_streaming_equals_the_training_pass_where_frames_and_actions_see_each_other(
    backbone: str, head: str
) -> None:
    policy = awake(spec_for(backbone=backbone, head=head, **DREAMZERO))
    streamed(policy, Lesson(policy), 3)


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_streaming_equals_the_training_pass_where_frames_are_guided(head: str) -> None:
    wan = registry().get("backbone", "wan")(variant="2.1-i2v-14b")  # type: ignore[call-arg]
    spec = spec_with(wan, Autoregressive(**LINGBOT), action_head=head)
    assert spec.backbone.traits.cond_channels and spec.backbone.traits.cond_embeds_width
    policy = awake(with_overrides(spec, "paradigm.chunks=3"))
    streamed(policy, Lesson(policy), 3)


@pytest.mark.parametrize("head", ["reader", "regression"])
@torch.no_grad()
def test_streaming_equals_the_training_pass_for_heads_without_exposed_tokens(head: str) -> None:
    policy = awake(spec_for(head=head, **LINGBOT))
    streamed(policy, Lesson(policy), 3)


@pytest.mark.parametrize(
    "settings",
    [LINGBOT, DREAMZERO, {**LINGBOT, "past_actions": "actions"}],
    ids=["LingBot-VA", "DreamZero", "frames see no actions"],
)
@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_an_endless_episode_equals_a_training_pass_over_all_of_it_under_the_same_window(
    settings: dict[str, Any], head: str
) -> None:
    state = ("action_head.state=token",) if head == "mot" else ()
    short = awake(spec_for(*state, head=head, chunks=3, window=2, **settings))
    long = awake(spec_for(*state, head=head, chunks=6, window=2, **settings))
    long.load_state_dict(short.state_dict())
    memories = streamed(short, Lesson(long), 6)
    kept = {role for memory in memories[3:] for role in memory.observed.roles if "." in role}
    assert {role.partition(".")[2] for role in kept} == {"0", "1"}


@torch.no_grad()
def test_what_has_left_the_window_is_seen_by_nobody() -> None:
    short = awake(spec_for(chunks=2, **LINGBOT))
    long = awake(spec_for(chunks=4, **LINGBOT))
    long.load_state_dict(short.state_dict())
    with pytest.raises(AssertionError, match="of chunk 2 differs"):
        streamed(short, Lesson(long), 4)  # the training pass has no window, the memory has one


def acted(
    policy: Policy, lesson: Lesson, model: Any, chunks: int, *, first_seed: int = 0
) -> list[ParadigmOutput]:
    """Chunks made after true ones, by a model that is not led by training's noise."""
    outs, past = [], None
    for k in range(chunks):
        seed = first_seed if k == 0 else k
        inputs = lesson.beginning(k).with_(past=past)
        with torch.no_grad():
            outs.append(policy.paradigm.act(model, inputs, policy.schedules, generator(seed)))
        past = EpisodeHistory(outs[-1].memory, lesson.frames(k), lesson.actions(k))
    return outs


@pytest.mark.parametrize("settings", [LINGBOT, DREAMZERO], ids=["LingBot-VA", "DreamZero"])
@pytest.mark.parametrize("backbone", ["toy", "wan", "flux2", "qwen_image"])
@float64()
def test_caching_changes_nothing(settings: dict[str, Any], backbone: str) -> None:
    policy = awake(spec_for(backbone=backbone, **settings))
    with torch.no_grad():
        lesson = Lesson(policy)
    fast = acted(policy, lesson, policy.model, 2)
    slow = acted(policy, lesson, uncached(policy.model), 2)
    for one, two in zip(fast, slow, strict=True):
        same_values(one.action, two.action)
        assert one.video is not None and two.video is not None
        same_values(one.video.z, two.video.z)


@pytest.mark.parametrize("settings", [LINGBOT, DREAMZERO], ids=["LingBot-VA", "DreamZero"])
@torch.no_grad()
@float64()
def test_predictions_are_gone_when_the_observation_is_there(settings: dict[str, Any]) -> None:
    policy = awake(spec_for(**settings))
    lesson = Lesson(policy)
    (memory,) = (out.memory for out in acted(policy, lesson, policy.model, 1))
    imagined = settings is LINGBOT
    assert memory.observed.roles == {"context"}
    assert (memory.predicted.roles if memory.predicted else set()) == (
        {"seen.0"} if imagined else set()
    )
    later = acted(policy, lesson, policy.model, 2)[1].memory
    assert later.observed.roles == {"context", "seen.0", *(["did.0"] if imagined else [])}
    assert (later.predicted.roles if later.predicted else set()) == (
        {"seen.1"} if imagined else set()
    )
    one = acted(policy, lesson, policy.model, 3, first_seed=0)
    two = acted(policy, lesson, policy.model, 3, first_seed=99)
    other_values(one[0].action, two[0].action, 0.0001)
    assert torch.equal(one[1].action, two[1].action) and torch.equal(one[2].action, two[2].action)


@pytest.mark.parametrize("settings", [LINGBOT, DREAMZERO], ids=["LingBot-VA", "DreamZero"])
@torch.no_grad()
@float64()
def test_without_an_observation_predictions_stand_for_it_until_there_is_one(
    settings: dict[str, Any],
) -> None:
    policy = awake(spec_for(**settings))
    lesson = Lesson(policy)
    first = acted(policy, lesson, policy.model, 1)[0]
    assert first.video is not None

    def then(past: EpisodeHistory) -> ParadigmOutput:
        inputs = lesson.beginning().with_(past=past)
        return policy.paradigm.act(policy.model, inputs, policy.schedules, generator(1))

    blind = then(EpisodeHistory(first.memory))
    believed = then(EpisodeHistory(first.memory, first.video.only("target").z, first.action))
    same_values(blind.action, believed.action)
    assert blind.memory.observed.roles == {"context"} and blind.memory.num_observed == 0
    assert believed.memory.num_observed == 1
    both = [torch.cat([f(0), f(1)], axis) for f, axis in ((lesson.frames, 2), (lesson.actions, 1))]
    known = then(EpisodeHistory(blind.memory, *both))
    true = acted(policy, lesson, policy.model, 3)[1].memory
    again = then(EpisodeHistory(true, lesson.frames(1), lesson.actions(1)))
    same_values(known.action, again.action)


@torch.no_grad()
def test_a_full_memory_may_begin_anew() -> None:
    policy = awake(spec_for(on_full_memory="restart", **LINGBOT))
    outs = acted(policy, Lesson(policy), policy.model, 3)
    assert [out.memory is None for out in outs] == [False, False, True]


@torch.no_grad()
@float64()
def test_what_is_imagined_is_what_the_action_is_made_from() -> None:
    for settings in (LINGBOT, DREAMZERO):
        policy = awake(spec_for(**settings))
        lesson = Lesson(policy)
        out = acted(policy, lesson, policy.model, 1)[0]
        rng = generator(0)
        if settings is LINGBOT:  # the action's noise is drawn first
            torch.randn(out.action.shape, generator=rng)
        clip = policy.paradigm.imagine(policy.model, lesson.beginning(), policy.schedules, rng)
        assert out.video is not None and clip.roles == ("context", "target", "target")
        same_values(out.video.z, clip.z)
