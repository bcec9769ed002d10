"""Match the images of an mp4 file to frames: by time, or by index where times drift.

If a file has exactly as many images as its episodes have frames, they match in order, despite
errors in their times: offsets that add up where files were joined, a rate slightly off, a first
image that is not at 0. In any other file the time of an image decides, and so it does if an
episode begins in the file where no drift explains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from .lerobot_format import TOLERANCE, Episode, LeRobotFolder
from .timing import CARE
from .video import Video

EXACT = 1e-5  # seconds between an image and itself
Times = NDArray[np.float64]


@dataclass(frozen=True)
class FrameTimes:
    """Times of the images of one episode in their file."""

    seconds: Times  # [frames]; NaN where a frame has no image
    error: Times  # [frames]; seconds between the nearest image and its time by the metadata
    by_index: bool  # matched by index rather than by time


def min_tolerance(moment: float, fps: float, tolerance: float = TOLERANCE) -> float:
    """Seconds of error that are always accepted: `TOLERANCE`, and the rounding of float32."""
    coarse = CARE * float(np.spacing(np.float32(abs(moment))))
    return min(tolerance, TOLERANCE) + min(coarse, 0.25 / fps)


def has_constant_rate(times: Times) -> bool:
    """True if the images have one constant rate."""
    steps = np.diff(times)
    return not len(steps) or float(np.ptp(steps)) < 0.5 * float(np.median(steps))


def expect_frame_count(images: int, episodes: Sequence[Episode], file: Path) -> None:
    """Raises WamkitError if a file has far fewer images than its episodes have frames.

    The metadata are not trusted: later steps allocate memory for every frame that they claim.
    """
    frames = sum(episode.length for episode in episodes)
    if frames > 10 * images + 10_000:
        raise WamkitError(
            f"{file} has {images:,} images, the metadata says {frames:,} frames in "
            f"{len(episodes)} episodes",
            "copy the file again, or correct the lengths of its episodes",
        )


def align_episodes(
    times: Times, starts: Sequence[float], lengths: Sequence[int], fps: float, tolerance: float
) -> list[FrameTimes]:
    """Match the episodes that share a file to its images, which are at `times`.

    `starts` ascend: seconds in the file at which each episode begins by the metadata.
    """
    firsts = np.cumsum([0, *lengths])
    durations = np.array(lengths[:-1]) / fps
    likely = np.abs(np.diff(starts) - durations) < 0.5 * durations
    by_index = len(times) == firsts[-1] and bool(likely.all())
    expected = [start + np.arange(n) / fps for start, n in zip(starts, lengths, strict=True)]
    if by_index and not has_constant_rate(times) and len(lengths) > 1:
        # An image may be missing in one episode and another too many: times must roughly agree.
        ahead = times - np.concatenate(expected)
        by_index = float(np.abs(ahead - np.median(ahead)).max()) < 0.5 / fps
    found = []
    for place, wanted in enumerate(expected):
        if by_index:
            mine = times[firsts[place] : firsts[place + 1]]
            found.append(FrameTimes(mine, np.abs(mine - wanted), True))
            continue
        nearest = _nearest(times, wanted, 0.5 / fps)
        error = np.abs(nearest - wanted)
        least = min_tolerance(float(wanted[-1]), fps, tolerance)
        seconds = np.where(error <= max(tolerance, least), nearest, np.nan)
        found.append(FrameTimes(seconds, error, False))
    return found


def _nearest(times: Times, wanted: Times, half: float) -> Times:
    """The nearest image to each moment, within the episode if it has any."""
    first, after = np.searchsorted(times, (wanted[0] - half, wanted[-1] + half))
    mine = times[first:after] if after > first else times
    if not len(mine):
        return np.full(len(wanted), np.inf)
    right = np.clip(np.searchsorted(mine, wanted), 0, len(mine) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted - mine[left] <= mine[right] - wanted, mine[left], mine[right])


class Alignment:
    """Times of the images in the video files of a data set, scanned where the metadata is wrong."""

    def __init__(self, recording: LeRobotFolder, tolerance: float) -> None:
        self.recording, self.tolerance = recording, tolerance
        self._tables: dict[tuple[str, Path], dict[int, FrameTimes] | None] = {}

    def frame_times(self, video: Video, key: str, episode: Episode) -> FrameTimes | None:
        """Return the image times of an episode; None where the metadata is right."""
        name = key, episode.clips[key].file
        if name not in self._tables:
            plain = self._agrees(video, key, episode)
            self._tables[name] = None if plain else self._table(video, key, episode)
        table = self._tables[name]
        return None if table is None else table[episode.index]

    def scan_file(self, video: Video, key: str, episode: Episode) -> FrameTimes:
        """Return the image times of an episode from the index of the file."""
        name = key, episode.clips[key].file
        if self._tables.get(name) is None:
            self._tables[name] = self._table(video, key, episode)
        table = self._tables[name]
        assert table is not None
        return table[episode.index]

    def _agrees(self, video: Video, key: str, episode: Episode) -> bool:
        """True unless the header of a file contradicts the metadata."""
        fps, sharing = self.recording.fps, self.recording.episodes_sharing_video(episode, key)
        lengths = [e.length for e in sharing]
        total = sum(lengths)
        if video.num_frames != total:
            return True
        starts = np.array([e.clips[key].start for e in sharing])
        expected_starts = video.start + np.cumsum([0, *lengths[:-1]]) / fps
        drift = float(np.abs(starts - expected_starts).max())
        if video.fps > 0:
            drift = max(drift, total * abs(1 / video.fps - 1 / fps))
        return drift <= min_tolerance(float(starts[-1]) + lengths[-1] / fps, fps)

    def _table(self, video: Video, key: str, episode: Episode) -> dict[int, FrameTimes]:
        sharing = self.recording.episodes_sharing_video(episode, key)
        starts = [e.clips[key].start for e in sharing]
        lengths = [e.length for e in sharing]
        times = video.times()
        expect_frame_count(len(times), sharing, video.file)
        found = align_episodes(times, starts, lengths, self.recording.fps, self.tolerance)
        return {e.index: frame_times for e, frame_times in zip(sharing, found, strict=True)}
