"""Settings of the images of a running episode, which only a stateful paradigm is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .parts import Conflict

if TYPE_CHECKING:
    from .spec import PolicySpec


def episode_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield a conflict where such a setting has no effect, or asks for a part of an image."""
    video, paradigm = spec.video, spec.paradigm
    new = video.num_frames - video.num_observed
    hints = {
        "episode_latents": 'set video.episode_latents = "window"',
        "new_clip": 'set video.new_clip = "continue"',
        "new_images": "set video.new_images = 0",
    }
    if not paradigm.stateful:
        for key, hint in hints.items():
            usual = type(video).model_fields[key].default
            if getattr(video, key) not in (usual, 0):
                yield Conflict(
                    between=(f"video.{key}", "paradigm"),
                    why=f"it is about the images of a running episode, and {paradigm.name} begins "
                    "every chunk anew",
                    hint=f"{hint}, or choose a paradigm with a memory of the episode",
                )
        return
    if video.episode_latents == "stream" and video.new_clip == "apart":
        yield Conflict(
            between=("video.new_clip", "video.episode_latents"),
            why="an episode is encoded as one stream, in which no new clip begins",
            hint='set video.new_clip = "continue", or video.episode_latents = "window"',
        )
    chunk = spec.actions.chunk_size
    led = chunk - spec.lead_steps
    if video.new_images and video.new_images * led % chunk:
        whole = [n for n in range(1, new) if not new % n and not n * led % chunk]
        cures = ", or ".join(f"set video.new_images = {n}" for n in [*whole[:1], 0])
        yield Conflict(
            between=("video.new_images", "paradigm"),
            why=f"the first chunk of an episode has {led} of {chunk} actions, and "
            f"{video.new_images} images of a chunk are no whole number of images for them",
            hint=cures,
        )
