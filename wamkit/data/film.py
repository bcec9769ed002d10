"""Pictures into an mp4 file as they come, through PyAV."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from .video import pyav

# What LeRobot writes: a key frame every two pictures, so that any picture is found quickly.
CODECS = {
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12"}),
    "h264": ("libx264", {"g": "2", "crf": "23"}),
}


class Film:
    """One mp4 file that is being written."""

    def __init__(self, file: Path, fps: float, size: tuple[int, int], codec: str) -> None:
        """Raises WamkitError if the codec is unknown, or height or width is odd."""
        if codec not in CODECS:
            raise WamkitError(f"no codec {codec!r}", f"the codecs are {', '.join(CODECS)}")
        if size[0] % 2 or size[1] % 2:
            raise WamkitError(
                f"pictures of {size[0]}x{size[1]}: a video is an even number of pixels high and "
                "wide",
                "resize them, or use dtype image",
            )
        os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints its settings otherwise
        self._av, self.file = pyav(), file
        self.fps = Fraction(fps).limit_denominator(1001)
        name, options = CODECS[codec]
        file.parent.mkdir(parents=True, exist_ok=True)
        self._container: Any = self._av.open(str(file.absolute()), "w")
        self._stream: Any = self._container.add_stream(name, rate=self.fps, options=options)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self.pictures = 0
        self.bytes = 0  # of the pictures that have left the encoder

    @property
    def seconds(self) -> float:
        """Length of what has been added."""
        return float(self.pictures / self.fps)

    def add(self, picture: NDArray[np.uint8]) -> None:
        """One more picture [height, width, 3]."""
        frame = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = self.pictures, 1 / self.fps
        self._mux(self._stream.encode(frame))
        self.pictures += 1

    def close(self) -> None:
        """Write what the encoder still holds, and the index."""
        if self.pictures:
            self._mux(self._stream.encode())
        self._container.close()

    def _mux(self, packets: list[Any]) -> None:
        self.bytes += sum(packet.size for packet in packets)
        self._container.mux(packets)


def about(size: tuple[int, int], fps: float, codec: str) -> dict[str, Any]:
    """What LeRobot notes of a video feature."""
    return {
        "video.height": size[0],
        "video.width": size[1],
        "video.codec": codec,
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": int(fps) if float(fps).is_integer() else fps,
        "video.channels": 3,
        "has_audio": False,
    }
