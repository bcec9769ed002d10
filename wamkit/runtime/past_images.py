"""What a request says of the past: images of several moments, and the actions of the last chunk."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError


class PastImages:
    """Keeps what was observed at each executed step, as far back as a policy looks.

    A policy may look at several moments (`metadata["image_steps"]`), and one with a memory of its
    episode gets what became of its last chunk: as many images as its reply asked for,
    `metadata["image_stride"]` steps apart, and the actions, if others were executed.
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
        self._made: list[NDArray[np.float32]] = []  # since the last reply
        self._changed = False

    def add(self, step: int, observation: Mapping[str, Any]) -> None:
        """Keep what was observed before action `step` is executed; the newest observation of it."""
        self._seen[step] = observation
        self._seen.pop(step - self._reach - 1, None)

    def add_action(self, action: NDArray[np.float32], made: Any) -> None:
        """Keep what became of an action [A] that a policy with a memory planned.

        `made`: what was executed in place of it; None if it was the action itself. Raises
        WamkitError if it is no such action.
        """
        if not self.stateful:
            return
        values = action if made is None else _to_action(made, len(action))
        self._made.append(values)
        self._changed |= not np.array_equal(values, action)

    def replied(self, answer: Mapping[str, Any]) -> None:
        """Note how many images the next request of a policy with a memory has."""
        if self.stateful:
            self._images = int(answer["num_images"])
            self._made, self._changed = [], False

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
        elif self._changed:
            found["executed"] = np.stack(self._made)
        return found


def _to_action(made: Any, size: int) -> NDArray[np.float32]:
    """What `execute` returned as an action [A]. Raises WamkitError if it is none."""
    values = None
    with suppress(TypeError, ValueError):
        values = np.array(made, np.float32)
    if values is None or values.shape != (size,) or not np.isfinite(values).all():
        raise WamkitError(
            f"execute returned {str(made)[:60]!r}; expected the action that was executed, "
            f"{size} finite values, or nothing",
            "return the action as the robot made it, in physical units, or None",
        )
    return values
