"""A gymnasium environment behind the contract of wamkit's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wamkit.errors import WamkitError
from wamkit.simulate.environment import EnvObservation, Robot, Step
from wamkit.simulate.rendering import explain_rendering_errors, use_offscreen_rendering

if TYPE_CHECKING:
    from . import Gymnasium

RENDERED = "render"


class GymnasiumEnvironment:
    """`wamkit.simulate.Environment` of anything with a box of actions."""

    def __init__(self, config: Gymnasium) -> None:
        """Raises WamkitError if there is no such environment, or it is not as configured."""
        self.config = config
        use_offscreen_rendering()
        gymnasium.logger.min_level = gymnasium.logger.ERROR
        given: dict[str, Any] = dict(config.arguments)
        if not config.image_keys:
            given.setdefault("render_mode", "rgb_array")
        try:
            with explain_rendering_errors(f"gymnasium:{config.id}", but=gymnasium.error.Error):
                self._env: Any = gymnasium.make(config.id, **given)
        except gymnasium.error.Error as problem:
            raise WamkitError(
                f"gymnasium makes no {config.id!r}: {problem}",
                "write gymnasium:ID, or gymnasium:MODULE:ID to import a module first",
            ) from None
        box = self._env.action_space
        if not isinstance(box, gymnasium.spaces.Box) or len(box.shape) != 1:
            raise WamkitError(
                f"{config.id} takes {box}; expected a box of continuous values [A]",
                "choose a continuous environment",
            )
        self._low, self._high = (np.asarray(x, np.float32) for x in (box.low, box.high))
        self._seen: Any = None
        with explain_rendering_errors(f"gymnasium:{config.id}"):
            self.reset(0)
            seen = self.see()
        names = tuple(f"action.{i}" for i in range(len(self._low)))
        unit = config.unit_actions
        self.robot = Robot(
            cameras={k: (p.shape[0], p.shape[1]) for k, p in seen.images.items()},
            state=tuple(f"state.{i}" for i in range(len(seen.state))),
            actions=names,
            low=(-1.0,) * len(names) if unit else tuple(self._low.tolist()),
            high=(1.0,) * len(names) if unit else tuple(self._high.tolist()),
            control_hz=config.control_hz or float(self._env.metadata.get("render_fps") or 10),
            kind=config.id,
        )
        if not np.isfinite([*self.robot.low, *self.robot.high]).all():
            raise WamkitError(
                f"the actions of {config.id} have no limits", "choose an environment with limits"
            )

    def reset(self, seed: int) -> None:
        self._seen, _ = self._env.reset(seed=seed)

    def see(self) -> EnvObservation:
        where = self.config.image_keys
        images = {name: self._image(self._at(path)) for name, path in where.items()}
        if not where:
            images = {RENDERED: self._image(self._env.render())}
        state = np.zeros(0, np.float32)
        if self.config.state is not None:
            state = np.asarray(self._at(self.config.state), np.float32).reshape(-1)
        return EnvObservation(images, state, self.config.instruction)

    def step(self, action: NDArray[np.float32]) -> Step:
        if self.config.unit_actions:
            action = self._low + (action + 1) / 2 * (self._high - self._low)
        self._seen, reward, over, late, about = self._env.step(action.astype(np.float32))
        return Step(float(reward), bool(about.get(self.config.success, False)), over or late)

    def expert(self, seed: int) -> None:
        return None

    def close(self) -> None:
        self._env.close()

    def _at(self, path: str) -> Any:
        """Look up dotted keys in the observation."""
        found = self._seen
        for key in filter(None, path.split(".")):
            if not isinstance(found, Mapping) or key not in found:
                known = ", ".join(found) if isinstance(found, Mapping) else "no keys"
                raise WamkitError(
                    f"the observation of {self.config.id} has no {path!r}; found {known}",
                    "change environment.image_keys or environment.state",
                )
            found = found[key]
        if isinstance(found, Mapping):
            raise WamkitError(
                f"{path or 'the observation'!r} of {self.config.id} is a dictionary of "
                f"{', '.join(found)}",
                "name one of them: --env-arg state=KEY, or --env-arg state=none for no state",
            )
        return found

    def _image(self, image: Any) -> NDArray[np.uint8]:
        """[height, width, 3] uint8, resized if the configuration sets a size."""
        found = np.asarray(image)
        if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
            raise WamkitError(
                f"an image of {self.config.id} is {found.dtype} {list(found.shape)}; expected "
                "uint8 [height, width, 3]",
                "map another key with environment.image_keys",
            )
        size = self.config.size
        if size is not None and found.shape[:2] != size:
            found = np.asarray(Image.fromarray(found).resize((size[1], size[0])))
        return np.ascontiguousarray(found)
