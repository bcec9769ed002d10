"""Videos of episodes: the recorded frames, and next to them the frames that the policy imagined.

real | imagined       a green frame from the first success on; an orange one around what is
                      imagined: the image for the moment that comes next
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..data import video_writer
from ..data.video import pyav
from ..files.durable import as_not_written, make_folder, write_bytes
from .episodes import Rollout

READABLE = 192  # pixels of height that small images are enlarged to
BORDER = 4
PLAIN, SOLVED, IMAGINED = (60, 60, 60), (60, 170, 70), (230, 140, 30)
GIF_FPS = 50.0  # browsers slow down faster GIFs


def expect_video(ending: str) -> None:
    """Raise WamkitError if films with this ending cannot be written here."""
    if ending == "mp4":
        pyav()


def video_frames(rollout: Rollout, every: int) -> Iterator[NDArray[np.uint8]]:
    """One image [height, width, 3] for each step and one for the end; sizes are even.

    `every` is the number of actions between two imagined images.
    """
    decisions = sorted(rollout.imagined)
    solved = False
    looks = [frame.seen for frame in rollout.frames]
    if rollout.last is not None:
        looks.append(rollout.last)
    for step, seen in enumerate(looks):
        solved = solved or (step > 0 and rollout.frames[step - 1].success)
        row = [_add_border(p, SOLVED if solved else PLAIN) for p in seen.images.values()]
        if decisions:
            begun = max((d for d in decisions if d <= step), default=decisions[0])
            for clip in rollout.imagined[begun].values():
                row.append(_add_border(clip[min((step - begun) // every, len(clip) - 1)], IMAGINED))
        height = max(len(each) for each in row)
        padded = [np.pad(each, ((0, height - len(each)), (0, 0), (0, 0))) for each in row]
        made = np.concatenate(padded, 1)
        yield np.pad(made, ((0, made.shape[0] % 2), (0, made.shape[1] % 2), (0, 0)))


def _add_border(image: NDArray[np.uint8], color: tuple[int, int, int]) -> NDArray[np.uint8]:
    times = max(1, -(-READABLE // image.shape[0]))
    scaled = ImageOps.scale(Image.fromarray(image), times, Image.Resampling.NEAREST)
    return np.asarray(ImageOps.expand(scaled, BORDER, color))


def write_video(rollout: Rollout, file: Path, control_hz: float, every: int) -> None:
    """Write an episode as .mp4 or .gif, at its true speed where the format can."""
    frames = list(video_frames(rollout, every))
    if file.suffix == ".mp4":
        size = frames[0].shape[0], frames[0].shape[1]
        hint = "write the films as images that move: --video-format gif"
        shot = video_writer.VideoWriter(file, control_hz, size, "h264", hint)
        try:
            for image in frames:
                shot.add(image)
            shot.close()
        finally:
            shot.discard()  # nothing, once it is closed
        return
    skip = max(1, round(control_hz / GIF_FPS))
    images: list[Any] = [Image.fromarray(image) for image in frames[::skip]]
    first, *rest = images
    duration = max(20, round(1000 * skip / control_hz))
    with as_not_written(file):
        make_folder(file.parent)
    made = BytesIO()
    first.save(made, format="GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    write_bytes(file, made.getvalue())
