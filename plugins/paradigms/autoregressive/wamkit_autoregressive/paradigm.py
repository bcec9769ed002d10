"""Blocks denoised against the memory of those before, and all at once in training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wamkit.engine.layers import to_device
from wamkit.engine.noise_schedule import NoiseSchedule, draw_noise, draw_uniform, shift_sigma
from wamkit.interfaces.paradigm import Model, Paradigm, ScheduleMap, denoise, init_sampler, prefill
from wamkit.interfaces.types import (
    CLEAN,
    DenoisingTarget,
    DenoisingTargets,
    EpisodeHistory,
    Frames,
    KVCache,
    ModelInputs,
    NoisyVectors,
    ParadigmOutput,
    StateTokens,
    base,
)

from . import FIRST, first_block
from .memory import Memory, Names

if TYPE_CHECKING:
    from . import Autoregressive


class AutoregressiveParadigm(Paradigm):
    """LingBot-VA and DreamZero over any backbone that imagines, and any head.

    In both, frames and actions learn to see the true past of their block. LingBot-VA's released
    loop lets a block see every slot of its memory; here the table of training says in use too what
    is seen. Where observed frames are frames of the first block, the actions before the first are
    zero in normalized units in use and in physical units in training, as published (LingBot-VA's
    pull request 108).
    """

    stateful = True

    def __init__(self, config: Autoregressive) -> None:
        self.config = config
        self.sees = self._table = config.sees
        self.names = Names(config.chunks - 1, config.reach, config.reach_of_actions)

    def act(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        **act_options: Any,
    ) -> ParadigmOutput:
        """The next block of the episode whose first frames and history are in `inputs`.

        The noise of the action is drawn first.
        """
        if self.config.observed_in_block:
            model = first_block.with_lead(model, inputs)
        memory = self._recall_memory(model, self._without_state(inputs))
        now, block = memory.num_chunks, self._blank(inputs, memory.num_chunks)
        action = init_sampler("action", block, schedules, rng)
        video = init_sampler("video", block, schedules, rng)
        cache, predicted = self.names.view(memory), memory.predicted
        if self.config.action == "mutual":
            done = denoise(model, block, {"video": video, "action": action}, cache)
            pending = self._clean(inputs, now, done.take("video"), done.take("action"))
        else:
            seen = denoise(model, block.without("action"), {"video": video}, cache)
            kept = self._prediction_cache(
                model, self._clean(inputs, now, seen.take("video")), cache
            )
            predicted = kept if predicted is None else predicted | kept
            both = kept if cache is None else cache | kept
            done = denoise(model, block.with_(video=None, future=None), {"action": action}, both)
            pending = self._clean(inputs, now, None, done.take("action"))
        left = Memory(memory.observed, memory.num_observed, predicted, now + 1, pending)
        ends = self.config.on_full_memory == "restart" and now == self.names.last
        clip = self._to_clip(inputs, now, video.x)
        return ParadigmOutput(done.take("action"), clip, memory=None if ends else left)

    def imagine(
        self, model: Model, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """The frames of the block as `act` imagines them: with its action, or before it."""
        if self.config.action == "mutual":
            clip = self.act(model, inputs, schedules, rng).video
            assert clip is not None
            return clip
        memory = self._recall_memory(model, self._without_state(inputs))
        block = self._blank(inputs, memory.num_chunks).without("action")
        video = init_sampler("video", block, schedules, rng)
        denoise(model, block, {"video": video}, self.names.view(memory))
        return self._to_clip(inputs, memory.num_chunks, video.x)

    def add_noise(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """All blocks of a sample, noisy, and behind them those clean copies that other blocks see.

        Every block, or every frame with its actions, has a level of its own; with `shared_sigma`
        actions have the level of their frames.
        """
        if self.config.observed_in_block:
            inputs = first_block.in_one(inputs)
        clip, target = inputs.clip, {}
        assert clip is not None
        frames, count = clip.only("target"), self.config.chunks
        if self.config.levels_per == "frame":
            count = len(frames.roles)
        leader: Tensor | None = None
        noised: dict[str, tuple[Tensor, Tensor]] = {}  # part -> x, and a level for each place
        for part in sorted(
            ("action", "video"), key=lambda name: schedules[name].config.shared_sigma
        ):
            flow, x = schedules[part], _by_place(part, inputs.take(part))
            noise = _by_place(part, draw_noise(tuple(inputs.take(part).shape), x, rng))
            tied = flow.config.shared_sigma and leader is not None
            level = leader if tied and leader is not None else flow.sample((len(x), count), x, rng)
            leader = level if leader is None else leader
            sigma = level.repeat_interleave(x.shape[1] // count, 1)
            noised[part] = flow.add(x, noise, sigma), sigma
            velocity, places = flow.velocity(x, noise), range(x.shape[1])
            if part == "video":
                places = range(len(clip.roles) - len(places), len(clip.roles))
            target[part] = DenoisingTarget(
                _by_place(part, velocity), flow.weight(sigma), tuple(places)
            )
        video = self._video_of_sample(frames, noised["video"], schedules, rng)
        rest = [clip.only("context")] if "context" in clip.roles else []
        place = "video" if inputs.future is None else "future"
        if self.config.denoise_first and rest:
            first, goal = _first_frames(rest[0], schedules["video"], rng)
            start = sum(len(part.roles) for part in (*rest, *video))
            target["video"] = _joined_targets(target["video"], goal, start)
            video = [*video, first]
        action = self._action_of_sample(inputs, noised["action"])
        blocks = range(count)
        noisy = self._with_states(inputs, tuple(blocks), list(blocks))
        return noisy.with_(action=action, **{place: Frames.row([*rest, *video])}), target

    def _video_of_sample(
        self,
        frames: Frames,
        noised: tuple[Tensor, Tensor],
        schedules: ScheduleMap,
        rng: torch.Generator,
    ) -> list[Frames]:
        """The frames of all blocks, noisy, and the clean copies.

        With conditioning latents of one block, every block has those of the first.
        """
        count = self.config.chunks
        size = len(frames.roles) // count
        cond = frames.cond_latents
        if cond is not None and self.config.guides == "block":
            cond = cond[:, :, :size].repeat(1, 1, count, 1, 1)
        x, sigma = noised
        noisy = Frames(
            _by_place("video", x), _roles("target", count, size), frames.times, sigma, cond
        )
        batch, copies = len(x), self._copies("seen")
        if not copies:
            return [noisy]
        flow, z = schedules["video"], frames.z[:, :, : copies * size]
        share = draw_uniform((batch, 1), rng) < self.config.context_noise_prob
        each = copies * size if self.config.levels_per == "frame" else copies
        u = draw_uniform((batch, each), rng) / 2
        if flow.config.timestep_sampling == "indexed":
            u = 0.5 - (1000 * u).floor() / 1000
        level = to_device(shift_sigma(u, flow.shift) * share, z.device)
        level = level.repeat_interleave(copies * size // each, 1)
        noise = _by_place("video", draw_noise(tuple(z.shape), z, rng))
        clean = Frames(
            _by_place("video", flow.add(_by_place("video", z), noise, level)),
            _roles("seen", copies, size),
            frames.times[: copies * size],
            level,
            None if cond is None else cond[:, :, : copies * size],
        )
        return [noisy, clean]

    def _action_of_sample(self, inputs: ModelInputs, noised: tuple[Tensor, Tensor]) -> NoisyVectors:
        """The actions of all blocks, noisy, and the clean copies."""
        x, sigma = noised
        action, count, copies = inputs.noisy("action"), self.config.chunks, self._copies("did")
        size = x.shape[1] // count
        clean, places = action.x[:, : copies * size], action.places()
        return NoisyVectors(
            torch.cat([x, clean], 1),
            torch.cat([sigma, sigma.new_zeros(clean.shape[:2])], 1),
            _roles("action", count, size) + _roles("did", copies, size),
            places + places[: copies * size],
        )

    def _copies(self, role: str) -> int:
        """How many blocks have a clean copy that noisy tokens of a sample see."""
        noisy = [seen for row, seen in self._table.items() if row.startswith(("target", "action"))]
        return sum(any(f"{role}.{k}" in seen for seen in noisy) for k in range(self.config.chunks))

    def _recall_memory(self, model: Model, inputs: ModelInputs) -> Memory:
        """The memory at the beginning of a chunk.

        A first chunk has the observed frames in memory, or nothing if they are frames of its block.
        Later, an observation replaces all predictions; without one, the prediction of the last
        block is added to those before.
        """
        if inputs.past is None and self.config.observed_in_block:
            return Memory(None, 0, None, 0)
        if inputs.past is None:
            cache, _ = prefill(model, inputs, self.sees)
            assert cache is not None  # the first frames attend to themselves and the text only
            return Memory(cache, 0, None, 0)
        memory: Memory = inputs.past.memory
        if inputs.past.video is None:
            return self._rollout_prediction(model, memory)
        return self._update_observed(model, inputs, inputs.past, memory)

    def _update_observed(
        self, model: Model, inputs: ModelInputs, past: EpisodeHistory, memory: Memory
    ) -> Memory:
        """Drop every prediction, and encode what happened instead at level 0."""
        assert past.video is not None and past.action is not None
        assert inputs.clip is not None and inputs.action is not None
        cache, now = memory.observed, memory.num_observed
        count = 0  # frames and actions of the past that are written already
        steps = 0
        while count < past.video.shape[2]:
            blank = self._blank(inputs, now)
            z = past.video[:, :, count : count + blank.take("video").shape[2]]
            x = past.action[:, steps : steps + blank.take("action").shape[1]]
            known = None if cache is None else self.names.without_hidden_actions(cache, now)
            kept = self._prediction_cache(model, self._clean(inputs, now, z, x), known)
            cache = self.names.rename_blocks(kept if known is None else known | kept, now, now + 1)
            count, steps, now = count + z.shape[2], steps + x.shape[1], now + 1
        return Memory(cache, now, None, now)

    def _rollout_prediction(self, model: Model, memory: Memory) -> Memory:
        """Add the prediction of the last block to the memory, in place of an observation."""
        before = replace(memory, num_chunks=memory.num_chunks - 1)
        predicted = memory.predicted
        if memory.pending is not None and _clean_roles(memory.pending):
            kept = self._prediction_cache(model, memory.pending, self.names.view(before))
            predicted = kept if predicted is None else predicted | kept
        if predicted is not None:
            predicted = self.names.rename_blocks(
                predicted, memory.num_chunks - 1, memory.num_chunks
            )
        return replace(memory, predicted=predicted, pending=None)

    def _prediction_cache(
        self, model: Model, inputs: ModelInputs, cache: KVCache | None
    ) -> KVCache:
        """One pass over clean frames and actions, for their keys."""
        kept = model(inputs, cache=cache, keep=_clean_roles(inputs)).cache
        assert kept is not None
        return kept

    def _blank(self, inputs: ModelInputs, block: int) -> ModelInputs:
        """The inputs of a block before it is denoised: its frames and actions at level 1."""
        clip, action = inputs.clip, inputs.noisy("action")
        assert clip is not None
        frames = clip.only("target")
        size, steps, name = len(frames.roles), action.x.shape[1], self.names.of(block)
        made = _with_clip(
            self._with_states(inputs, (name,), [block]).with_(
                action=replace(
                    action,
                    roles=(f"action.{name}",) * steps,
                    times=tuple(time + block * steps for time in action.places()),
                )
            ),
            replace(
                frames,
                roles=(f"target.{name}",) * size,
                times=tuple(time + block * size for time in frames.times),
                cond_latents=self._cond_latents(clip, block, size),
            ),
        )
        if not self.config.observed_in_block:
            return made
        return first_block.place(made, clip.only("context"), block)

    def _cond_latents(self, clip: Frames, block: int, size: int) -> Tensor | None:
        """Conditioning latents of the frames of a block; behind the last, those once more."""
        cond, first = clip.cond_latents, clip.where("target")[0]
        if cond is None or self.config.guides == "block":
            return clip.only("target").cond_latents
        start = min(first + block * size, cond.shape[2] - size)
        return cond[:, :, start : start + size]

    def _clean(
        self, inputs: ModelInputs, block: int, z: Tensor | None, x: Tensor | None = None
    ) -> ModelInputs:
        """Frames and actions of a block at level 0, as the memory holds them.

        Observed frames that are frames of the block come before `z`. Actions that no token will see
        are left out.
        """
        blank, name = self._without_state(self._blank(inputs, block)), self.names.of(block)
        assert blank.clip is not None and blank.action is not None
        clip, action = None, None
        if z is not None:
            if "context" in blank.clip.roles:
                z = torch.cat([blank.clip.only("context").z.to(z.dtype), z], 2)
            clip = replace(
                blank.clip,
                z=z,
                roles=(f"seen.{name}",) * z.shape[2],
                levels=(CLEAN,) * z.shape[2],
            )
        if x is not None and self.config.remembers_actions:
            action = replace(
                blank.action,
                x=x,
                level=CLEAN,
                roles=(f"did.{name}",) * x.shape[1],
            )
        return _with_clip(inputs.with_(action=action), clip)

    def _with_states(
        self, inputs: ModelInputs, names: tuple[int, ...], blocks: list[int]
    ) -> ModelInputs:
        """The inputs with their states, one a block, as tokens of those blocks.

        In use there is one block, whose state may attend to more than in training.
        """
        x = inputs.state
        if self.config.state != "block" or x is None or inputs.action is None:
            return inputs
        in_use, steps = x.ndim == 2, inputs.action.x.shape[1] // len(names)
        return inputs.with_(
            state=None,
            states=StateTokens(
                x[:, None] if in_use else x,
                tuple(self.config.states_of(str(name))[-1 if in_use else 0] for name in names),
                tuple(float(block * steps - 1) for block in blocks),
                follows_action=self.config.state_level == "action",
            ),
        )

    def _without_state(self, inputs: ModelInputs) -> ModelInputs:
        """The inputs without the state of a block, which the memory does not hold."""
        if self.config.state != "block":
            return inputs
        return inputs.with_(state=None, states=None)

    def _to_clip(self, inputs: ModelInputs, block: int, z: Tensor) -> Frames:
        """The clip of the inputs with the frames of a block as its target."""
        clip = inputs.clip
        assert clip is not None
        if self.config.observed_in_block:
            made = self._blank(inputs, block).clip
            assert made is not None
            new = replace(made.only(*made.targets), z=z, roles=("target",) * z.shape[2])
            return clip.only("context").then(new).at(0.0, "target")
        later = block * len(clip.where("target"))
        times = tuple(
            time + later if role == "target" else time
            for time, role in zip(clip.times, clip.roles, strict=True)
        )
        return replace(clip, times=times).put(z, "target").at(0.0, "target")


def _first_frames(
    clip: Frames, flow: NoiseSchedule, rng: torch.Generator
) -> tuple[Frames, DenoisingTarget]:
    """The observed frames at a noise level of their own, and their targets."""
    x = _by_place("video", clip.z)
    noise = _by_place("video", draw_noise(tuple(clip.z.shape), x, rng))
    sigma = flow.sample((len(x), 1), x, rng).expand(-1, x.shape[1])
    z = _by_place("video", flow.add(x, noise, sigma))
    noisy = Frames(z, (FIRST,) * x.shape[1], clip.times, sigma, clip.cond_latents)
    velocity = _by_place("video", flow.velocity(x, noise))
    return noisy, DenoisingTarget(velocity, flow.weight(sigma), tuple(range(x.shape[1])))


def _joined_targets(target: DenoisingTarget, first: DenoisingTarget, start: int) -> DenoisingTarget:
    """Targets of the frames of blocks, then of the first frames, which begin at place `start`."""
    return DenoisingTarget(
        torch.cat([target.velocity, first.velocity], 2),
        torch.cat([target.weight, first.weight], 1),
        target.places + tuple(start + place for place in first.places),
        target.places + first.places,
    )


def _with_clip(inputs: ModelInputs, clip: Frames | None) -> ModelInputs:
    """The inputs with these frames alone, and without the history."""
    if inputs.future is None:
        return inputs.with_(video=clip, past=None)
    return inputs.with_(video=None, future=clip, past=None)


def _clean_roles(inputs: ModelInputs) -> tuple[str, ...]:
    """The roles of frames and actions in the inputs."""
    return tuple(sorted(role for role in inputs.roles if base(role) not in ("text", "state")))


def _roles(role: str, count: int, size: int) -> tuple[str, ...]:
    """Names for the blocks and their places."""
    return tuple(f"{role}.{k}" for k in range(count) for _ in range(size))


def _by_place(part: str, x: Tensor) -> Tensor:
    """Frames [B, C, T, h, w] to [B, T, C, h, w] and back; vectors [B, N, A] unchanged."""
    return x.transpose(1, 2) if part == "video" else x
