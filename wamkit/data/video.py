"""Images at given seconds of mp4 files, through PyAV, with files kept open between calls."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from ..files.images import expect_size, max_pixels
from ..files.pixels import to_deep_image
from ..files.placeholders import refuse_placeholder
from .mp4 import expect_index
from .parquet import INSTALL

INHERITED: list[Any] = []
"""Files that a forked process found open. It must not close them: their threads did not come along,
and FFmpeg would wait for them forever."""
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
"""Kinds of files that are opened, by FFmpeg's names; some of the others are lists of further files
and addresses, which FFmpeg would open."""
AHEAD = 1.0  # seconds up to which decoding on is taken for quicker than seeking


def pyav() -> Any:
    """The module av. Raises WamkitError with the command that installs it."""
    try:
        import av
    except ImportError as error:
        raise WamkitError(f"videos need PyAV: {error}", INSTALL) from None
    return av


class Video:
    """One open file that decodes forward, and seeks when it has to."""

    def __init__(self, file: Path) -> None:
        """Raises WamkitError if the file is missing, damaged, or without a video stream."""
        self.file = file
        self._av = pyav()
        if not os.path.isfile(file):  # False as well for a name that is too long
            raise WamkitError(f"{file} is missing", "copy the whole data set again")
        refuse_placeholder(file)
        expect_index(file)
        try:
            self._container = self._av.open(
                str(file.absolute()),  # `press:v2/x` is no address
                options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
                stream_options=[{"max_pixels": str(max_pixels())}],
            )
            self._stream = self._container.streams.video[0]
        except (self._av.FFmpegError, IndexError, ValueError, MemoryError) as error:
            raise WamkitError(
                f"{file} is no video or incomplete: {error}",
                "copy it again; mp4, mkv and avi are read",
            ) from None
        if self._stream.codec_context is None:
            self._container.close()
            raise WamkitError(f"{file} is damaged: it names no codec", "copy it again")
        try:
            expect_size(self._stream.width, self._stream.height, f"an image of {file}")
        except WamkitError:
            self._container.close()
            raise
        # Decoded images may be larger than the header states: the decoder checks too.
        self._stream.codec_context.options = {"max_pixels": str(max_pixels())}
        self._stream.codec_context.thread_count = 1  # a worker is a thread already
        self._frames: Iterator[Any] = iter(())
        self._last: Any = None

    @property
    def fps(self) -> float:
        """Images a second, from the header."""
        return float(self._stream.average_rate or 0)

    @property
    def num_frames(self) -> int:
        """Number of images from the header of the file; 0 without one."""
        return int(self._stream.frames or 0)

    @property
    def start(self) -> float:
        """Time of the first image in seconds, from the header."""
        return float((self._stream.start_time or 0) * self._stream.time_base)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its images."""
        return self._stream.height, self._stream.width

    @property
    def is_deep(self) -> bool:
        """True if its images have one channel of more than 8 bits, such as depth."""
        layout = self._stream.codec_context.format  # None where the header is damaged
        bits = [part.bits for part in layout.components] if layout is not None else []
        return len(bits) == 1 and bits[0] > 8

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def times(self) -> NDArray[np.float64]:
        """Seconds at which the file has images, ascending, found without decoding them.

        A file that breaks off has those before the break.
        """
        found = []
        self._last = None
        try:
            self._container.seek(0, stream=self._stream)
            for packet in self._container.demux(self._stream):
                if packet.pts is not None and packet.size and not packet.is_corrupt:
                    found.append(float(packet.pts * self._stream.time_base))
        except self._av.FFmpegError:
            pass
        return np.sort(np.array(found, dtype=np.float64))

    def at(self, seconds: Sequence[float], tolerance: float) -> list[NDArray[Any]]:
        """The images [height, width, 3] at these moments, each within `tolerance` seconds.

        Deep ones are [height, width, 1] float32 in the file's own units. Raises WamkitError if
        there is none, or it cannot be decoded.
        """
        images: dict[float, NDArray[Any]] = {}
        for moment in sorted(set(seconds)):
            images[moment] = self._pixels(self._at(moment, tolerance))
        return [images[moment] for moment in seconds]

    def _pixels(self, frame: Any) -> NDArray[Any]:
        bits = [part.bits for part in frame.format.components]
        if max(bits) <= 8 or (len(bits) > 1 and max(bits) < 16):
            return frame.to_ndarray(format="rgb24")  # type: ignore[no-any-return]
        if len(bits) == 1:
            try:
                values = frame.to_ndarray()
            except ValueError:
                pass
            else:
                return to_deep_image(values, str(self.file))
        raise WamkitError(
            f"{self.file} has images of format {frame.format.name}, which is not read",
            "encode colors in 8 or 10 bits a channel, and depth as gray16le",
        )

    def _at(self, moment: float, tolerance: float) -> Any:
        now = None if self._last is None else float(self._last.time)
        if now is not None and abs(now - moment) <= tolerance:
            return self._last
        try:
            if now is None or not now < moment <= now + AHEAD:
                self._seek(moment, tolerance)
            else:
                self._last = next(self._frames, None)
            while self._last is not None and self._last.time < moment - tolerance:
                self._last = next(self._frames, None)
        except self._av.FFmpegError as error:
            self._last = None
            raise WamkitError(
                f"{self.file} cannot be decoded at {moment:.4f} s: {error}", "copy it again"
            ) from None
        if self._last is None or abs(self._last.time - moment) > tolerance:
            found = "the video has ended" if self._last is None else f"next {self._last.time:.4f} s"
            raise WamkitError(
                f"{self.file} has no image at {moment:.4f} s within {tolerance:g} s: {found}",
                "run `wamkit data check` on the folder",
            )
        return self._last

    def _seek(self, moment: float, tolerance: float) -> None:
        """Stand on the key frame before `moment`; some files index it too late."""
        for back in (0.0, 1.0, 10.0, moment):
            seek_time = max(moment - back, 0.0)
            self._container.seek(round(seek_time / self._stream.time_base), stream=self._stream)
            self._frames = self._container.decode(self._stream)
            self._last = next(self._frames, None)
            if self._last is not None and self._last.time <= moment + tolerance:
                return


class Videos:
    """The files opened last, at most `limit` of them; each process opens its own."""

    def __init__(self, limit: int = 32) -> None:
        self.limit = limit
        self._open: OrderedDict[Path, Video] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "_open": OrderedDict(), "_process": -1}

    def __getitem__(self, file: Path) -> Video:
        if self._process != os.getpid():  # after a fork the files are another process's
            INHERITED.append(self._open)
            self._open, self._process = OrderedDict(), os.getpid()
        if file not in self._open:
            self._open[file] = Video(file)
        self._open.move_to_end(file)
        while len(self._open) > self.limit:
            self._open.popitem(last=False)[1].close()
        return self._open[file]
