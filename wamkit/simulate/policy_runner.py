"""Run a policy for several episodes at once, each as if it were alone.

Every episode draws its noise from its own seeds, so that the rest of the batch does not
matter beyond rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config.seeds import fold_seed
from ..config.spec import PolicySpec
from ..policy.observation import Observation
from ..policy.policy import Policy
from ..policy.session import Session
from .env_pool import Progress
from .environment import EnvObservation
from .timing import EpisodeTiming


@dataclass
class RunningEpisode:
    """State of an episode that is running."""

    seed: int
    seen: dict[int, EnvObservation]  # step -> observation
    step: int = 0
    decisions: int = 0
    over: bool = False
    session: Session | None = None
    actions: list[NDArray[np.float32]] = field(default_factory=list)  # one a step, as planned
    executed: list[NDArray[np.float32]] = field(default_factory=list)  # as the robot made them
    chunk: NDArray[np.float32] | None = None  # the newest one of a policy with a memory
    rewards: list[float] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)
    imagined: dict[int, dict[str, NDArray[np.uint8]]] = field(default_factory=dict)
    plan: Any = None
    """What a runner keeps of the episode from chunk to chunk."""

    @property
    def chunk_seed(self) -> int:
        """Seed of the next chunk."""
        return fold_seed(self.seed * 100_003 + self.decisions)

    def take(self, made: Progress) -> None:
        """Add what became of the newest actions."""
        self.seen |= {self.step + count: seen for count, seen in made.observations.items()}
        self.step += len(made.steps)
        self.executed += made.executed
        self.rewards += [step.reward for step in made.steps]
        self.successes += [step.success for step in made.steps]
        self.over = made.over

    def changed_chunk(self) -> NDArray[np.float32] | None:
        """The newest chunk [N, A] as the robot made it, clipped to its limits.

        None if it is the one that was planned, or if nobody says what was executed.
        """
        if self.chunk is None or not 0 < len(self.chunk) <= len(self.executed):
            return None
        made = np.stack(self.executed[-len(self.chunk) :])
        return None if np.array_equal(made, self.chunk) else made

    @property
    def timing(self) -> EpisodeTiming | None:
        """What became of chunks that came late; None where the world waits for the policy."""
        return None if self.plan is None else self.plan.timing(self)


class PolicyRunner:
    """Samples action chunks for episodes; `views`: policy view -> camera of the environment."""

    prefix: str | None = None
    """Mode of the prefix of a chunk that comes late; None without one."""

    def __init__(
        self,
        policy: Policy,
        views: Mapping[str, str],
        execute_steps: int,
        act_options: Mapping[str, Any],
        imagine: bool = False,
    ) -> None:
        self.policy, self.views, self.execute_steps, self.act_options = (
            policy,
            views,
            execute_steps,
            act_options,
        )
        spec = policy.spec
        self.steady = False
        """Whether every batch has a row for each episode that it is given."""
        self.imagine = imagine and spec.latent_frames[1] > 0 and spec.backbone.traits.imagines
        video = spec.video
        self.every = execute_steps
        """Actions from one look to the next."""
        if video.num_observed > 1 or policy.paradigm.stateful:
            strides = video.frame_stride, video.observed_stride or video.frame_stride
            self.every = int(np.gcd.reduce([execute_steps, *strides]))

    def sample_actions(self, running: Sequence[RunningEpisode]) -> list[NDArray[np.float32]]:
        """Sample the next actions of each episode, [execute_steps, A] in physical units."""
        if self.policy.paradigm.stateful:
            chunks = [self._stateful_chunk(one) for one in running]
        else:
            seen = self._to_observation([self._context(one) for one in running])
            draws = [one.chunk_seed for one in running]
            values = self.policy.act(seen, seed=draws, **self.act_options).values
            chunks = list(values.numpy())
        for one in running:
            one.decisions += 1
        return [chunk[: self.execute_steps].astype(np.float32) for chunk in chunks]

    def imagine_next(self, running: Sequence[RunningEpisode]) -> None:
        """Store the frames that the policy imagines next in `RunningEpisode.imagined`."""
        if not self.imagine:
            return
        seen = self._to_observation([self._context(one) for one in running])
        future = self.policy.imagine(seen, seed=[one.chunk_seed for one in running])
        for row, one in enumerate(running):
            one.imagined[one.step] = {
                self.views[name]: _pixels(clip[row, :, future.observed :])
                for name, clip in future.views.items()
            }

    def _stateful_chunk(self, one: RunningEpisode) -> NDArray[np.float32]:
        """A chunk of a stateful policy, which observes all frames since its last chunk.

        Into its memory go the actions as the robot made them, which clips them to its limits.
        """
        executed = one.changed_chunk()
        if one.session is None:
            one.session = self.policy.session()
            looks = self._context(one)
        else:
            every = self.policy.spec.video.frame_stride * self.policy.spec.video.repeats
            count = one.session.num_images
            looks = [one.seen[one.step - every * back] for back in reversed(range(count))]
        chunk = one.session.act(
            self._to_observation([looks]),
            None if executed is None else torch.from_numpy(executed)[None],
            seed=one.chunk_seed,
            **self.act_options,
        )
        one.chunk = chunk.values[0].numpy()
        return one.chunk

    def _context(self, one: RunningEpisode) -> list[EnvObservation]:
        """The frames that a chunk is conditioned on, oldest first.

        As in training, the first one is repeated for those before the episode.
        """
        video = self.policy.spec.video
        steps = [one.step + moment for moment in video.moments(video.num_observed)]
        return [one.seen[max(step, 0)] for step in steps]

    def _to_observation(self, looks: Sequence[Sequence[EnvObservation]]) -> Observation:
        """The looks of B episodes, T each, as one observation."""
        return to_observation(self.policy.spec, self.views, looks)


def to_observation(
    spec: PolicySpec, views: Mapping[str, str], looks: Sequence[Sequence[EnvObservation]]
) -> Observation:
    """The looks of B episodes, T each, oldest first; `views`: policy view -> camera."""
    images = {
        view: torch.stack([_clip(row, camera) for row in looks]) for view, camera in views.items()
    }
    state = None
    if spec.state.size:
        state = torch.from_numpy(np.stack([row[-1].state for row in looks]))
    return Observation(images, [row[-1].instruction for row in looks], state)


def _clip(looks: Sequence[EnvObservation], camera: str) -> Tensor:
    """Images of one camera [T, 3, height, width] uint8."""
    return torch.from_numpy(np.stack([seen.images[camera] for seen in looks])).movedim(-1, 1)


def _pixels(clip: Tensor) -> NDArray[np.uint8]:
    """[3, K, height, width] in [-1, 1] to [K, height, width, 3] uint8."""
    return ((clip + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
