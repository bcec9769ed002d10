"""The requests and replies of one robot, converted to those of one policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import WamkitError, did_you_mean
from ..files.pixels import decode_pixels
from .fields import ENCODINGS, EPISODE, IMAGINE, PROMPT, RESET, SEED, STEP
from .prefixes import PREFIX, VALUES
from .quoting import list_values, quote
from .robot_vectors import VectorMap

STATE, EXECUTED = "observation/state", "executed"
OPTIONS = (SEED, RESET, STEP, EPISODE, IMAGINE, PREFIX, EXECUTED)
"""Keys of a request that are of the protocol, unless the robot file names them."""
MOST_FILES = 64
"""Images of one camera that are decoded to be turned."""
DEPTH = 6
"""How deep maps of a request are nested at most."""


@dataclass(frozen=True)
class BoundRobot:
    """A robot map that fits one policy."""

    name: str
    prompt: str
    images: Mapping[str, tuple[str, str, int]]
    """View -> key, layout and rotation."""
    state: VectorMap
    actions: VectorMap
    unread: frozenset[str]
    """Keys that may be there without being read."""
    instruction: str | None = None
    """The instruction of requests without one."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """Keys of every request."""
        return (*(key for key, _, _ in self.images.values()), *self.state.keys, self.prompt)

    def to_request(self, found: Any) -> dict[str, Any]:
        """A request of the robot as one of the policy. Raises WamkitError for other keys."""
        if not isinstance(found, dict):
            raise WamkitError(
                f"a request that is a {type(found).__name__}, not a map",
                f"send a map of {', '.join(self.wanted)}",
            )
        given = dict(_flatten(found))
        if self.instruction is not None:
            given.setdefault(self.prompt, self.instruction)
        missing = [key for key in self.wanted if key not in given]
        unknown = [key for key in given if key not in {*self.wanted, *self.unread, *OPTIONS}]
        if missing or unknown:
            faults = [f"has no {key!r}" for key in missing]
            faults += [f"has {list_values(unknown)}, which the map lacks"] if unknown else []
            near = did_you_mean(str(unknown[0]), missing) if unknown and missing else ""
            if missing == [self.prompt]:
                near = near or 'send it, or write instruction = "..." in a copy of the robot file'
            raise WamkitError(
                f"the request does not fit {self.name}: it {' and '.join(faults)}; "
                f"found {list_values(given)}; expected {', '.join(map(repr, self.wanted))}",
                near or "correct the client, or the robot file: ignore = [...] names keys to skip",
            )
        own = {*self.wanted, *self.unread}
        made = {key: given[key] for key in OPTIONS if key in given and key not in own}
        made[PROMPT] = given[self.prompt]
        for view, (key, layout, rotation) in self.images.items():
            made[f"observation/{view}"] = _to_upright(key, given[key], layout, rotation)
        if self.state.keys:
            made[STATE] = self.state.to_policy(self.state.join(given))
        if EXECUTED in made:
            made[EXECUTED] = self._actions(EXECUTED, made[EXECUTED])
        if isinstance(prefix := made.get(PREFIX), dict) and VALUES in prefix:
            made[PREFIX] = {**prefix, VALUES: self._actions(PREFIX, prefix[VALUES])}
        return made

    def to_reply(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        """A reply of the policy, its actions [N, R] in the order and units of the robot."""
        actions = self.actions.to_robot(np.asarray(reply["actions"], np.float64))
        return {**reply, "actions": actions.astype(np.float32)}

    def describe(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The greeting of a server, with the keys of the robot."""
        cameras = {
            view: {**camera, "key": self.images[view][0], "layout": self.images[view][1]}
            for view, camera in metadata["cameras"].items()
        }
        sizes = {key: c.stop - c.start for key, c in self.state.keys.items()}
        state = {"key": next(iter(sizes), STATE), "size": sum(sizes.values()), "keys": sizes}
        parts = {key: c.stop - c.start for key, c in self.actions.keys.items()}
        names = [f"{key}.{i}" for key, size in parts.items() for i in range(size)]
        return {
            **metadata,
            "robot": self.name,
            "moments": not {STEP, EPISODE} & {*self.wanted, *self.unread},
            "cameras": cameras,
            "state": state,
            "prompt": self.prompt,
            "actions": names,
            "differences": self.actions.places(metadata["differences"]),
            "action_keys": parts,
        }

    def _actions(self, key: str, found: Any) -> Any:
        """Actions [N, R] that a robot sends back, as the policy's; others are refused later."""
        try:
            values = np.asarray(found, np.float64)
        except (TypeError, ValueError):
            return found
        width = sum(c.stop - c.start for c in self.actions.keys.values())
        if values.ndim != 2 or values.shape[1] != width:
            raise WamkitError(
                f"{key!r} is {quote(found)}; expected actions [N, {width}]",
                f"send those of replies: {', '.join(self.actions.keys)}",
            )
        return self.actions.to_policy(values)


def _flatten(
    found: Mapping[Any, Any], before: str = "", depth: int = 0
) -> Iterator[tuple[Any, Any]]:
    """Entries of nested maps, with their keys joined by `/`."""
    for key, value in found.items():
        name = f"{before}{key}" if before else key
        if isinstance(value, dict) and key != PREFIX and depth < DEPTH:
            yield from _flatten(value, f"{name}/", depth + 1)
        else:
            yield name, value


def _to_upright(key: str, found: Any, layout: str, rotation: int) -> Any:
    """An image, or several, as [..., height, width, 3], turned as the policy wants it."""
    if isinstance(found, bytes | list):  # files have their colors last
        found, layout = _decode_files(key, found) if rotation else found, "HWC"
    if not isinstance(found, np.ndarray) or found.ndim not in (3, 4):
        return found
    if layout == "CHW" and found.shape[-3] not in (1, 3):
        raise WamkitError(
            f"{key!r} is {found.dtype} {list(found.shape)}; expected [3, height, width]",
            'send colors first, or write layout = "HWC" in the robot file',
        )
    if layout == "CHW":
        found = np.moveaxis(found, -3, -1)
    return np.rot90(found, rotation // 90, axes=(-3, -2)) if rotation else found


def _decode_files(key: str, found: bytes | list[Any]) -> Any:
    """Images that came as files, as one array; anything else unchanged."""
    if isinstance(found, bytes):
        return decode_pixels(found, repr(key), ENCODINGS)
    if len(found) > MOST_FILES or not all(isinstance(file, bytes) for file in found):
        return found
    images = [decode_pixels(file, repr(key), ENCODINGS) for file in found]
    return np.stack(images) if len({x.shape for x in images}) == 1 else found
