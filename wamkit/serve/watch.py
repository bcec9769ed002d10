"""A live page of a server: what robots send, what the policy imagines, its actions and latency.

`GET /watch` is a page that loads nothing else, and asks `GET /watch/data` again and again. Nothing
is kept or encoded while nobody looks.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import strict_json
from ..files.pixels import to_jpeg
from .protocol import ParsedRequest

FOLDER = Path(__file__).parent / "page"
AUDIENCE = 5.0
"""Seconds after its last question for which a page is taken to be open."""
ROBOTS = 4
"""Sessions that are shown, those with the newest requests."""
SIZE = 320
"""Pixels of the longer side of an image on the page."""
IMAGINE = 2.0
"""Seconds from one imagined future to the next, where robots do not ask for any."""
KEPT = 200
"""Latencies that are kept, of each robot and of all."""


@dataclass
class Watched:
    """What is shown of one session."""

    session: str
    seen: ParsedRequest
    actions: NDArray[np.float32]
    timing: dict[str, float]
    when: float
    requests: int = 1
    imagined: Mapping[str, list[bytes]] | None = None
    latency: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))


class Watch:
    """Keeps what the page shows. All methods but `encode` run in the event loop."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.about = {key: about[key] for key in ("policy", "actions", "control_hz")}
        self.robots: dict[str, Watched] = {}
        self.imagined_at = 0.0
        self._latency: deque[float] = deque(maxlen=KEPT)
        self._batches: deque[int] = deque(maxlen=KEPT)
        self._asked = float("-inf")

    @property
    def active(self) -> bool:
        """True while a page is open."""
        return monotonic() - self._asked < AUDIENCE

    def observe(self, session: str, seen: ParsedRequest, reply: Mapping[str, Any]) -> None:
        """Keep a request and its reply, if somebody looks."""
        if not self.active:
            return
        timing = dict(reply["server_timing"])
        latency = timing["infer_ms"] + timing["wait_ms"]
        robot = self.robots.pop(session, None)
        if robot is None:
            robot = Watched(session, seen, reply["actions"], timing, monotonic())
        else:
            robot.requests += 1
            robot.seen, robot.actions = seen, reply["actions"]
            robot.timing, robot.when = timing, monotonic()
        robot.imagined = reply.get("imagined", robot.imagined)
        robot.latency.append(latency)
        self._latency.append(latency)
        self._batches.append(int(timing["batch"]))
        self.robots[session] = robot  # the newest last
        while len(self.robots) > ROBOTS:
            del self.robots[next(iter(self.robots))]

    def to_imagine(self) -> Watched | None:
        """The robot whose future is to be imagined now, if any."""
        if not self.active or not self.robots or monotonic() - self.imagined_at < IMAGINE:
            return None
        self.imagined_at = monotonic()
        return next(reversed(self.robots.values()))

    def ask(self, gauges: Mapping[str, float]) -> dict[str, Any]:
        """What the page shows now, with images that are still to be encoded."""
        self._asked = now = monotonic()
        latency = sorted(self._latency) or [0.0]
        return {
            **self.about,
            "clients": int(gauges["clients"]),
            "queue": int(gauges["queue"]),
            "latency_ms": {
                "p50": latency[len(latency) // 2],
                "p95": latency[min(len(latency) - 1, int(0.95 * len(latency)))],
            },
            "batch": float(np.mean(self._batches)) if self._batches else 0.0,
            "robots": [
                {
                    "session": robot.session,
                    "prompt": robot.seen.seen.prompt[0],
                    "requests": robot.requests,
                    "age_s": now - robot.when,
                    "timing": robot.timing,
                    "images": {view: clip[0, -1] for view, clip in robot.seen.seen.images.items()},
                    "imagined": robot.imagined,
                    "actions": robot.actions.tolist(),
                    "latency": list(robot.latency),
                }
                for robot in reversed(self.robots.values())
            ],
        }


def encode(found: dict[str, Any]) -> bytes:
    """The data of a page as JSON, images as base64 of JPEG files."""
    for robot in found["robots"]:
        robot["images"] = {
            view: [_text(to_jpeg(_thumbnail(image.numpy()), 80))]
            for view, image in robot["images"].items()
        }
        if robot["imagined"] is not None:
            robot["imagined"] = {
                view: [_text(file) for file in files] for view, files in robot["imagined"].items()
            }
    return strict_json.dumps(found).encode()


def page() -> bytes:
    """The page, with its style and script."""
    text = (FOLDER / "watch.html").read_text(encoding="utf-8")
    for place, name in (("/*STYLE*/", "watch.css"), ("/*SCRIPT*/", "watch.js")):
        text = text.replace(place, (FOLDER / name).read_text(encoding="utf-8"))
    return text.encode()


def _text(file: bytes) -> str:
    return base64.b64encode(file).decode()


def _thumbnail(image: NDArray[Any]) -> NDArray[np.uint8]:
    """[3 or 1, height, width] as uint8 [height, width, 3] of SIZE pixels at most."""
    if len(image) == 1:  # depth: from its smallest to its largest value
        low, high = float(image.min()), float(image.max())
        image = ((image - low) * (255 / ((high - low) or 1))).astype(np.uint8).repeat(3, 0)
    pixels = np.ascontiguousarray(np.moveaxis(image, 0, -1))
    if max(pixels.shape[:2]) <= SIZE:
        return pixels
    made = Image.fromarray(pixels)
    made.thumbnail((SIZE, SIZE))
    return np.asarray(made)
