"""The images of a request: of now, or of several moments of the episode so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import WamkitError


class PastImages:
    """Keeps what was observed at each executed step, as far back as a policy looks.

    A policy may look at several moments (`metadata["image_steps"]`), and one with a memory of its
    episode gets what became of its last chunk: as many images as its reply asked for,
    `metadata["image_stride"]` steps apart.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.keys = [about["key"] for about in metadata.get("cameras", {}).values()]
        self.stateful = bool(metadata["stateful"])
        self._moments: list[int] = list(metadata.get("image_steps", [0]))
        self._stride = int(metadata.get("image_stride", 1))
        self._reach = max(-min(self._moments), int(metadata["chunk_size"]) if self.stateful else 0)
        self.begin()

    @property
    def needed(self) -> bool:
        """Whether every step must be observed, and not only those with a request."""
        return self._reach > 0

    def begin(self) -> None:
        """Forget the episode before."""
        self._seen: dict[int, Mapping[str, Any]] = {}
        self._images: int | None = None

    def add(self, step: int, observation: Mapping[str, Any]) -> None:
        """Keep what was observed before action `step` is executed; the newest observation of it."""
        self._seen[step] = observation
        self._seen.pop(step - self._reach - 1, None)

    def replied(self, answer: Mapping[str, Any]) -> None:
        """Note how many images the next request of a policy with a memory has."""
        if self.stateful:
            self._images = int(answer["num_images"])

    def request(self, step: int) -> dict[str, Any]:
        """The request of step `step`: the newest values, and the images of all moments.

        Images that `observe` returns as clips already, [T, H, W, 3] or a list, stay as they are.
        Raises WamkitError if the policy asks for more than what was observed of a chunk.
        """
        if self._images is None:
            steps = [max(step + moment, 0) for moment in self._moments]
        else:
            steps = [step - self._stride * back for back in reversed(range(self._images))]
        if missing := [at for at in steps if at not in self._seen]:
            raise WamkitError(
                f"the policy asks for {len(steps)} images, {self._stride} steps apart, after a "
                f"chunk of {self._reach} actions: {len(missing)} are of steps before it",
                "train it with (num_frames - num_observed) * frame_stride = chunk_size",
            )
        found = dict(self._seen[step])
        for key in self.keys if len(steps) > 1 else ():
            if np.ndim(found[key]) == 3:
                found[key] = np.stack([np.asarray(self._seen[at][key]) for at in steps])
            elif isinstance(found[key], bytes):  # a JPEG or PNG file
                found[key] = [self._seen[at][key] for at in steps]
        if self.stateful and self._images is None:
            found["reset"] = True
        return found
