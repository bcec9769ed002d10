"""Probe a policy: from states of a simulator, several actions, imagined and simulated.

What is measured from one state:

    start ─┬─ demonstrated ─ imagined future, simulated future
           ├─ hold           ...
           ├─ mirrored
           ├─ random_1, random_2
           └─ policy         the actions that the policy itself chooses

All futures of a state are imagined from the same noise, so that they differ by the action alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config.seeds import fold_seed
from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..policy.observation import Imagined, Observation
from ..policy.policy import Policy
from ..simulate.branching import Branch, branch
from ..simulate.env_pool import EnvPool
from ..simulate.environment import EnvObservation
from ..simulate.episodes import Rollout
from ..simulate.holding import hold_action
from ..simulate.policy_runner import to_observation
from .candidates import Actions, candidates
from .counterfactual import over_contexts, ranking, response
from .frames import expect_imagining, horizons, real_views
from .image_quality import expect_metrics


@dataclass(frozen=True)
class Probed:
    """What became of the actions from one state."""

    seed: int
    step: int
    metrics: Mapping[str, Mapping[str, float]]  # "images", "state", "goal", "value" -> metrics
    returns: Mapping[str, float]  # action -> sum of rewards
    start: Mapping[str, Tensor]  # view -> [3, height, width] in [-1, 1]
    imagined: Mapping[str, Tensor]  # view -> [K, 3, height, width], for actions as in `returns`
    real: Mapping[str, Tensor]


class Prober:
    """Imagines and simulates actions with one policy in one environment."""

    def __init__(self, policy: Policy, views: Mapping[str, str], workers: EnvPool) -> None:
        """`views`: view of the policy -> camera of the environment.

        Raises WamkitError if the policy cannot imagine the future of given actions.
        """
        expect_metrics()
        expect_probing(policy.spec)
        self.policy, self.views, self.workers = policy, views, workers
        self.robot = workers.robot()
        self.chunk = policy.spec.actions.chunk_size
        inside = [steps for steps in horizons(policy.spec) if steps <= self.chunk]
        self.frame, self.ahead = len(inside) - 1, inside[-1]

    def probe(self, seed: int, states: int, actor: str) -> list[Probed]:
        """Probe up to `states` states of the episode that `actor` plays, evenly spaced over it."""
        self.workers.ask(0, "play", seed, actor, 0.0, 0, True)
        rollout: Rollout = self.workers.answer(0)
        last = len(rollout.frames) - self.chunk
        if last < 0:
            return []
        steps = np.unique(np.linspace(0, last, min(states, last + 1)).round().astype(int))
        return [self._probe_state(rollout, int(step)) for step in steps]

    def _probe_state(self, rollout: Rollout, step: int) -> Probed:
        """Imagine and simulate every candidate from one step of an episode."""
        spec, looks = self.policy.spec, [frame.seen for frame in rollout.frames]
        actions = np.stack([frame.action for frame in rollout.frames])
        moments = spec.video.moments(spec.video.num_observed)
        seen = [looks[max(step + moment, 0)] for moment in moments]
        draw = fold_seed(rollout.seed * 100_003 + step)
        tried = candidates(
            spec.actions,
            self.robot,
            actions[step : step + self.chunk],
            hold_action(spec.actions, actions[step - 1] if step else None, seen[-1].state),
            np.random.default_rng([draw, 1]),
        )
        alone = to_observation(spec, self.views, [seen])
        own = self.policy.act(alone, seed=draw).values[0].numpy()
        tried["policy"] = np.clip(own, self.robot.low, self.robot.high).astype(np.float32)
        imagined = self._imagine(seen, tried, draw)
        real = branch(
            self.workers,
            rollout.seed,
            actions[:step],
            list(tried.values()),
            sorted({self.ahead, self.chunk}),
            looks[step],
        )
        return self._compare(rollout, step, tried, alone, imagined, real)

    def _imagine(
        self, seen: Sequence[EnvObservation], tried: Mapping[str, Actions], draw: int
    ) -> Imagined:
        """The futures of all candidates in one batch, from the same noise."""
        repeated = to_observation(self.policy.spec, self.views, [seen] * len(tried))
        chunks = torch.from_numpy(np.stack(list(tried.values())))
        return self.policy.imagine(repeated, actions=chunks, seed=[draw] * len(tried))

    def _compare(
        self,
        rollout: Rollout,
        step: int,
        tried: Mapping[str, Actions],
        seen: Observation,
        imagined: Imagined,
        real: Sequence[Branch],
    ) -> Probed:
        """Metrics of imagined futures against simulated ones."""
        spec, names = self.policy.spec, list(tried)
        now = rollout.frames[step].seen
        ends = [[now, found.seen[self.ahead]] for found in real]
        simulated = real_views(self.policy, to_observation(spec, self.views, ends))
        place = spec.video.num_observed + self.frame
        ours = {view: clip[:, :, place] for view, clip in imagined.views.items()}
        theirs = {view: clip[:, :, 1] for view, clip in simulated.items()}
        start = {view: clip[0, :, 0] for view, clip in simulated.items()}
        begun = _pixels({view: image[None] for view, image in start.items()})[0]
        metrics = {"images": response(begun, _pixels(ours), _pixels(theirs), step)}
        returns = {name: sum(found.rewards) for name, found in zip(names, real, strict=True)}
        if imagined.next_state is not None and seen.state is not None:
            after = torch.from_numpy(np.stack([found.seen[self.chunk].state for found in real]))
            metrics["state"] = response(
                self._state(seen.state)[0],
                self._state(imagined.next_state),
                self._state(after),
                step,
            )
        if rollout.success and rollout.last is not None:
            goal = real_views(self.policy, to_observation(spec, self.views, [[rollout.last]]))
            aim = _pixels({view: clip[:, :, 0] for view, clip in goal.items()})[0]
            metrics["goal"] = ranking(
                _nearness(names, _pixels(ours), aim), _nearness(names, _pixels(theirs), aim)
            )
        if imagined.value is not None:
            metrics["value"] = ranking(
                dict(zip(names, imagined.value.tolist(), strict=True)), returns
            )
        return Probed(rollout.seed, step, metrics, returns, start, ours, theirs)

    def _state(self, state: Tensor) -> NDArray[np.float64]:
        """Physical states [B, P] with every value in units of its spread."""
        return self.policy.states.normalizer.encode_unclipped(state).double().numpy()


def expect_probing(spec: PolicySpec) -> None:
    """Raise WamkitError if a policy cannot imagine the future of given actions."""
    expect_imagining(spec)
    if conflict := spec.paradigm.conflict_with_given_actions(spec):
        raise WamkitError(conflict.why, conflict.hint)
    if len(spec.actions.executed) != spec.actions.size:
        raise WamkitError(
            "an action of this policy holds values that a robot does not execute, and no simulator "
            "gives them",
            "probe a policy whose actions.groups are all executed",
        )
    if horizons(spec)[0] > spec.actions.chunk_size:
        raise WamkitError(
            f"the first imagined frame is {horizons(spec)[0]} actions ahead, and a chunk has "
            f"{spec.actions.chunk_size}: what follows from it is not in the frame",
            "probe a policy with video.frame_stride of at most actions.chunk_size",
        )


def summarize(found: Sequence[Probed]) -> dict[str, Any]:
    """Means over states and their intervals, and the metrics of every state, as plain data."""
    kinds = dict.fromkeys(kind for one in found for kind in one.metrics)
    return {
        "states": len(found),
        "actions": max((list(one.returns) for one in found), key=len),
        **{
            kind: over_contexts([o.metrics[kind] for o in found if kind in o.metrics])
            for kind in kinds
        },
        "per_state": [
            {"seed": one.seed, "step": one.step, "returns": dict(one.returns), **one.metrics}
            for one in found
        ],
    }


def probe(
    prober: Prober,
    seeds: Sequence[int],
    states: int,
    actor: str,
    on_episode: Callable[[], None] | None = None,
) -> list[Probed]:
    """Probe states of the episodes of several seeds. Raises WamkitError if none is long enough."""
    found: list[Probed] = []
    for seed in seeds:
        found += prober.probe(seed, states, actor)
        if on_episode is not None:
            on_episode()
    if not found:
        raise WamkitError(
            f"no episode is as long as a chunk of {prober.chunk} actions",
            "choose other seeds, or --env-arg max_steps=N with a larger N",
        )
    return found


def _pixels(views: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Images of views [B, 3, height, width] in [-1, 1] as vectors [B, D] in [0, 1]."""
    flat = [(image + 1).flatten(1) / 2 for image in views.values()]
    return torch.cat(flat, 1).double().numpy()


def _nearness(
    names: Sequence[str], ends: NDArray[np.float64], goal: NDArray[np.float64]
) -> dict[str, float]:
    """name -> how near its future is to the goal: the negative root mean square difference."""
    far = np.sqrt(((ends - goal) ** 2).mean(1))
    return dict(zip(names, (-far).tolist(), strict=True))
