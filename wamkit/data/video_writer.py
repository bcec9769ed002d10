"""Images into an mp4 file as they come, through PyAV; the file is whole, or not there.

An encoder may wait for itself for ever: libsvtav1 has done so while it was emptied, each of its
threads in want of another. Python cannot interrupt that. So every call of an encoder is made in a
thread of its own, and one that does not answer is left where it hangs, with all that it holds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from ..files.durable import as_not_written, make_folder, remove, sweep, sync, temporary_name
from .video import pyav

# What LeRobot writes: a key frame every two images, so that any image is found quickly. The
# AV1 encoder works on one image at a time, with a third of its threads: as quick for images of
# this size, and few that could wait for each other.
CODECS = {
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12", "svtav1-params": "lp=1"}),
    "h264": ("libx264", {"g": "2", "crf": "23"}),
}
QUALITY = ("g", "crf", "preset")  # of those options, what LeRobot notes of a video
HANGING: list[Any] = []
"""Films whose encoder hangs. They must not be freed: freeing one would wait for it."""


class VideoWriter:
    """One mp4 file that is being written; it appears when it is closed."""

    patience = 120.0
    """Seconds after which a call of the encoder that has not come back is given up."""

    def __init__(
        self, file: Path, fps: float, size: tuple[int, int], codec: str, hint: str | None = None
    ) -> None:
        """`hint` is what to type next where this encoder does not do its work.

        Raises WamkitError if the codec is unknown or not there, the rate is none, or height or
        width is odd.
        """
        if codec not in CODECS:
            raise WamkitError(f"no codec {codec!r}", f"the codecs are {', '.join(CODECS)}")
        if not 0.001 < fps < 1e6:  # a NaN neither
            raise WamkitError(f"{fps:g} images a second", "give the rate of the recording")
        if size[0] % 2 or size[1] % 2:
            raise WamkitError(
                f"images of {size[0]}x{size[1]}: a video is an even number of pixels high and wide",
                "resize them, or use dtype image",
            )
        os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints its settings otherwise
        self._av, self.file, self.codec = pyav(), file, codec
        self.fps = Fraction(fps).limit_denominator(1001)
        others = " or ".join(other for other in CODECS if other != codec)
        self._cure = hint or (
            f"do it again with another codec, {others}: --codec {others} on the command line, "
            f"codec={others!r} of wamkit.data.Writer"
        )
        name, options = CODECS[codec]
        if name not in self._av.codecs_available:
            raise WamkitError(f"this PyAV has no encoder {name}, for {codec}", self._cure)
        with as_not_written(file):
            make_folder(file.parent)
            sweep(file.parent)
            self._part = temporary_name(file)
            self._container: Any = self._av.open(str(self._part.absolute()), "w", format="mp4")
        self._stream: Any = self._container.add_stream(name, rate=self.fps, options=options)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._call: threading.Thread | None = None
        self._over = False
        self._broken = False  # an encoder that failed is not called again: it may end the process
        self.images = 0
        self.bytes = 0  # of the images that have left the encoder

    @property
    def seconds(self) -> float:
        """Length of the images added."""
        return float(self.images / self.fps)

    def add(self, image: NDArray[np.uint8]) -> None:
        """One more image [height, width, 3]. Raises WamkitError if the encoder hangs."""
        frame = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self.images, 1 / self.fps
        with as_not_written(self.file):
            self._within(self.patience, "took in an image of", lambda: self._encode(frame))
        self.images += 1

    def close(self) -> None:
        """Flush the encoder, and write the index. Raises WamkitError if it hangs."""
        if not self._over:
            with as_not_written(self.file):
                self._finish(self.patience)
                sync(self._part)
                os.replace(self._part, self.file)
                sync(self.file.parent)

    def discard(self) -> None:
        """Discard the video: no file appears; waits for a hanging encoder only briefly."""
        if not self._over:
            with suppress(WamkitError, OSError):
                self._finish(min(self.patience, 10.0))
            remove(self._part)

    def _finish(self, patience: float) -> None:
        def finish() -> None:
            if self.images and not self._broken:
                self._encode()
            self._container.close()

        self._within(patience, "finished", finish)
        self._over = True

    def _encode(self, *frame: Any) -> None:
        packets = self._stream.encode(*frame)
        self.bytes += sum(packet.size for packet in packets)
        self._container.mux(packets)

    def _within(self, patience: float, doing: str, call: Callable[[], None]) -> None:
        """Do this in a thread; discard the video if it takes longer than `patience` seconds."""
        errors: list[BaseException] = []

        def run() -> None:
            try:
                call()
            except BaseException as error:
                errors.append(error)

        # After Ctrl-C the call before may still be running; an encoder takes one at a time.
        before, self._call = self._call, threading.Thread(target=run, daemon=True)
        for thread in (before, self._call):
            if thread is None:
                continue
            if thread is self._call:
                thread.start()
            thread.join(patience)
            if thread.is_alive():
                self._give_up(patience, doing)
        self._call = None
        if errors:
            self._broken = True
            raise errors[0]

    def _give_up(self, patience: float, doing: str) -> None:
        HANGING.append(self)
        self._over = True
        remove(self._part)
        raise WamkitError(
            f"the encoder {CODECS[self.codec][0]} hangs: it has not come back for {patience:g} s "
            f"while it {doing} {self.file.name}. {self.file} is not written; files that were "
            "complete before are whole",
            self._cure,
        )


def video_info(size: tuple[int, int], fps: float, codec: str) -> dict[str, Any]:
    """What LeRobot notes of a video feature (`get_video_info` of lerobot 0.6.1)."""
    options = CODECS[codec][1]
    numbers = {name: int(options[name]) if name in options else None for name in QUALITY}
    return {
        "video.height": size[0],
        "video.width": size[1],
        "video.codec": codec,
        "video.pix_fmt": "yuv420p",
        "video.fps": int(fps) if float(fps).is_integer() else fps,
        "video.channels": 3,
        "has_audio": False,
        **{f"video.{name}": value for name, value in numbers.items()},
        "video.fast_decode": 0,
        "video.video_backend": "pyav",
        "video.extra_options": {},
        "is_depth_map": False,
    }
