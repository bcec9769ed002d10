"""Offline evaluation on recorded episodes: imagined frames against real ones, actions likewise.

Nothing is executed: every clip begins at a recorded observation, and what the policy imagines and
chooses from there is compared with what was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..config.seeds import fold_seed
from ..data import Samples, collate
from ..errors import WamkitError
from ..policy.observation import Batch, Imagined, Observation
from ..policy.policy import Policy
from .action_error import ActionError
from .frames import expect_imagining, horizons, observed_part, real_views, seconds_ahead
from .horizon import HorizonQuality
from .image_quality import expect_metrics

CLIPS = 8  # of an episode
BATCH = 16


def pick_clips(samples: Samples, clips: int = CLIPS) -> list[int]:
    """Indexes of up to `clips` samples of each episode, evenly spaced over it.

    Of those whose last imagined frame is inside the episode; if there is none, the first sample.
    """
    end = horizons(samples.spec)[-1]
    lengths = {episode.index: episode.length for episode in samples.episodes}
    found: dict[int, list[int]] = {index: [] for index in lengths}
    first: dict[int, int] = {}
    for index in range(len(samples)):
        episode, frame = samples.moment(index)
        first.setdefault(episode, index)
        if frame + end < lengths[episode]:
            found[episode].append(index)
    picked = []
    for episode, indexes in found.items():
        if not indexes:
            picked += [first[episode]] if episode in first else []
            continue
        places = torch.linspace(0, len(indexes) - 1, min(clips, len(indexes))).round().long()
        picked += [indexes[place] for place in places.tolist()]
    return picked


def evaluate_recorded(
    policy: Policy,
    samples: Samples,
    *,
    clips: int = CLIPS,
    seed: int = 0,
    on_clips: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Quality of imagined frames by horizon, and errors of actions, on the episodes of `samples`.

    Every clip draws its noise from its own seed. `on_clips` is called with the number of clips that
    were measured. Raises WamkitError if the policy imagines nothing, or a package is missing.
    """
    expect_measurable(policy, samples)
    quality, error = HorizonQuality(seconds_ahead(policy.spec)), ActionError(policy)
    picked = pick_clips(samples, clips)
    for drawn in draw_clips(samples, picked, seed):
        add_imagined(quality, policy, drawn, policy.imagine(drawn.seen, seed=drawn.seeds))
        chunk = policy.act(drawn.seen, seed=drawn.seeds).values
        assert drawn.batch.step_valid is not None
        error.add(drawn.episodes, chunk, drawn.batch.actions, drawn.batch.step_valid)
        if on_clips is not None:
            on_clips(len(drawn.seeds))
    episodes = sorted({samples.moment(index)[0] for index in picked})
    return {
        "episodes": len(episodes),
        "episode_indexes": episodes,
        "clips": len(picked),
        "seed": seed,
        "imagined": quality.summary(),
        "actions": error.summary(),
    }


def expect_measurable(policy: Policy, samples: Samples) -> None:
    """Raise WamkitError if there are no imagined or no real frames, or a package is missing."""
    expect_metrics()
    expect_imagining(policy.spec)
    if samples.latents is not None:
        raise WamkitError(
            "stored latents leave out the images that are to come",
            "compare imagined frames with recorded ones without latents",
        )


@dataclass(frozen=True)
class Clips:
    """A batch of recorded clips, and what a policy is given of them."""

    batch: Batch
    seen: Observation
    episodes: Sequence[int]
    seeds: Sequence[int]


def draw_clips(
    samples: Samples, picked: Sequence[int], seed: int, size: int = BATCH
) -> Iterator[Clips]:
    """The samples `picked`, in batches of `size`; each has a seed of its own."""
    observed = samples.spec.video.num_observed
    for start in range(0, len(picked), size):
        indexes = picked[start : start + size]
        batch = collate([samples[index] for index in indexes])
        yield Clips(
            batch,
            observed_part(batch.observation, observed),
            [samples.moment(index)[0] for index in indexes],
            [fold_seed(seed * 1_000_003 + index) for index in indexes],
        )


@torch.no_grad()
def add_imagined(quality: HorizonQuality, policy: Policy, drawn: Clips, future: Imagined) -> None:
    """Measure what was imagined of a batch of clips."""
    video = policy.spec.video
    observed, count = video.num_observed, video.num_frames
    real = real_views(policy, observed_part(drawn.batch.observation, count))
    assert drawn.batch.frame_valid is not None
    for row, episode in enumerate(drawn.episodes):
        valid = drawn.batch.frame_valid[row, observed:count]
        if not bool(valid.any()):
            continue
        quality.add(
            episode,
            {name: clip[row, :, observed:count] for name, clip in future.views.items()},
            {name: clip[row, :, observed:] for name, clip in real.items()},
            {name: clip[row, :, observed - 1] for name, clip in real.items()},
            valid,
        )
