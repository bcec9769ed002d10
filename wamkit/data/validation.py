"""Everything that is wrong with a data set, found before a policy is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..files.hub import local_path
from .alignment import (
    EXACT,
    FrameTimes,
    align_episodes,
    expect_frame_count,
    has_constant_rate,
    min_tolerance,
)
from .depth import ProbedImages
from .findings import AGAIN, CONVERT, DataError, Finding, findings_of
from .lerobot_format import INFO, OWN, TOLERANCE, Columns, Episode, LeRobotFolder
from .metadata import faults_of_episode_statistics, json_table
from .needs import missing_needs
from .rows import check_data_file, size_finding
from .schema import fault_of_statistics
from .timing import round_up
from .video import Video

__all__ = ["Finding", "check"]


def check(
    folder: str | Path,
    spec: PolicySpec | None = None,
    columns: Columns | None = None,
    *,
    decode: bool = False,
    tolerance: float = TOLERANCE,
    advance: Callable[[int], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """All findings; none means that the data set can be read to its end.

    With a spec, also missing requirements of the policy. `decode` checks every image,
    and not only at the index of each video, which takes long. Times and images may be `tolerance`
    seconds off. `advance` is called after each episode, `note` with remarks that are no faults.
    Raises WamkitError if there is no such folder.
    """
    folder = local_path(folder, "dataset")
    if not folder.is_dir():
        raise WamkitError(f"no folder at {folder}", "name the folder of a LeRobot data set")
    try:
        recording = LeRobotFolder(folder)
    except WamkitError as problem:
        return [_short(finding, folder) for finding in findings_of(problem, str(folder))]
    episodes, faults = recording.episodes_and_faults
    found = [*faults, *_totals(recording, complete=not faults)]
    if spec is not None:
        found += _guard_findings(missing_needs(recording, spec, columns or Columns()), str(INFO))
    found += _guard_findings(_tasks(recording), "meta")
    probed = ProbedImages()
    by_data = _group_findings((episode.data, episode) for episode in episodes)
    for file, mine in by_data.items():
        found += _guard_findings(
            check_data_file(recording, file, mine, decode, tolerance, probed), str(file)
        )
        advance(len(mine))
    for camera in recording.video_keys:
        by_film = _group_findings((episode.clips[camera].file, episode) for episode in episodes)
        for file, mine in by_film.items():
            findings = _check_video(recording, camera, mine[0], decode, tolerance, probed, note)
            found += _guard_findings(findings, str(file))
            advance(len(mine))
    found += probed.findings(recording, spec, columns or Columns())
    place = recording.folder
    return list(dict.fromkeys(_short(finding, place) for finding in found))


def _guard_findings(findings: Iterable[Finding], file: str) -> Iterator[Finding]:
    """Yield findings; turn an unexpected error into a finding."""
    try:
        yield from findings
    except DataError:
        return  # reported when the metadata is read
    except WamkitError as problem:
        yield from findings_of(problem, file)
    except Exception as error:
        yield Finding(file, f"cannot be read: {type(error).__name__}: {error}", hint=CONVERT)


def _short(finding: Finding, folder: Path) -> Finding:
    """The finding with its file seen from the data set's folder."""
    file = finding.file.removeprefix(f"{folder}/")
    why = finding.why.replace(f"{folder}/", "").removeprefix(file).lstrip(": ")
    return Finding(file, why, finding.episode, finding.frame, finding.hint)


def _group_findings(pairs: Iterable[tuple[Path, Episode]]) -> dict[Path, list[Episode]]:
    groups: dict[Path, list[Episode]] = {}
    for file, episode in pairs:
        groups.setdefault(file, []).append(episode)
    return groups


def _totals(recording: LeRobotFolder, *, complete: bool) -> Iterator[Finding]:
    """Check the totals in the metadata."""
    episodes, file = recording.episodes if complete else recording.episodes_and_faults[0], str(INFO)
    counted = {
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes),
    }
    for name, count in counted.items() if complete else ():
        stated = recording.info.get(name, count)
        if stated != count:
            why = f"{name} is {stated!r}, the episodes' metadata has {count}"
            yield Finding(file, why, hint=f"set {name} to {count}, or {AGAIN}")
    if complete and not episodes:
        yield Finding(file, "there is no episode", hint="record one, or name another folder")
    if complete and [episode.index for episode in episodes] != list(range(len(episodes))):
        why = "the episodes are not numbered from 0 without a gap"
        yield Finding(file, why, hint="number them anew, with LeRobot's own tools")
    for name in OWN[:3]:
        if name not in recording.features:
            yield Finding(file, f"there is no feature {name!r}", hint=CONVERT)
    yield from _spans(episodes)
    stats = recording.folder / "meta" / "stats.json"
    if stats.is_file():
        try:
            fault = fault_of_statistics(json_table(stats))
        except ValueError as error:
            fault = str(error)
        if fault is not None:
            hint = "wamkit does not need it: remove it, or write it again"
            yield Finding(str(stats), f"{stats} cannot be read: {fault}", hint=hint)
    per_episode = recording.folder / "meta" / "episodes_stats.jsonl"
    if per_episode.is_file():
        yield from faults_of_episode_statistics(per_episode)


def _spans(episodes: Iterable[Episode]) -> Iterator[Finding]:
    """Check the frame ranges of episodes in the metadata."""
    spanned = [episode for episode in episodes if len(episode.span) == 2]
    for episode in spanned:
        first, after = episode.span
        if after - first != episode.length:
            why = f"its frames go from {first} to {after}, and its length is {episode.length}"
            yield Finding("meta/episodes", why, episode.index, hint=CONVERT)
    for one, other in pairwise(sorted(spanned, key=lambda e: e.span)):
        if other.span[0] < one.span[1]:
            why = f"its frames begin at {other.span[0]}, within episode {one.index}"
            yield Finding("meta/episodes", why, other.index, hint=CONVERT)


def _tasks(recording: LeRobotFolder) -> Iterator[Finding]:
    tasks, faults = recording.tasks_and_faults
    yield from faults
    if not tasks and not faults and not any(e.tasks for e in recording.episodes_and_faults[0]):
        yield Finding("meta", "there is no instruction", hint="write the tasks of the episodes")


def _check_video(
    recording: LeRobotFolder,
    camera: str,
    mine: Episode,
    decode: bool,
    tolerance: float,
    probed: ProbedImages,
    note: Callable[[str], None],
) -> Iterator[Finding]:
    """The mp4 file of an episode: there, of its size and rate, with an image for every frame."""
    fps, size = recording.fps, recording.features[camera].size
    file = mine.clips[camera].file
    episodes = recording.episodes_sharing_video(mine, camera)
    try:
        video = Video(file)
    except WamkitError as problem:
        yield from findings_of(problem, str(file), mine.index if len(episodes) == 1 else None)
        return
    try:
        times = video.times()
        expect_frame_count(len(times), episodes, file)
        lengths = [episode.length for episode in episodes]
        starts = [episode.clips[camera].start for episode in episodes]
        placed = align_episodes(times, starts, lengths, fps, tolerance)
        counted = all(one.by_index for one in placed)
        off = [float(one.error.max()) for one in placed]
        if counted and max(off) > min_tolerance(float(times[-1]), fps, tolerance):
            worst = int(np.argmax(off))
            note(
                f"{file.relative_to(recording.folder)}: images are up to {off[worst]:.4f} s off "
                f"the times of their frames, most in episode {episodes[worst].index}; it has a "
                "image for every frame, and is read by number"
            )
        rate = (len(times) - 1) / max(float(np.ptp(times)), 1e-9) if len(times) > 1 else fps
        if has_constant_rate(times) and abs(rate - fps) > (0.01 if counted else 0.001) * fps:
            why = f"the video has {rate:.4g} images a second, {INFO} says {fps:g}"
            hint = f"set fps in {INFO} to the rate of the recording, or make the video again"
            yield Finding(str(file), why, hint=hint)
        if video.size != size:
            yield size_finding(file, camera, video.size, size, episodes[0], 0)
        for episode, one in zip(episodes, placed, strict=True):
            if (finding := _missing_images(file, episode, camera, one, times, fps)) is not None:
                yield finding
            elif decode or video.is_deep:
                yield from _check_images(video, episode, one, camera, probed, decode)
    finally:
        video.close()


def _missing_images(
    file: Path, episode: Episode, camera: str, one: FrameTimes, times: np.ndarray, fps: float
) -> Finding | None:
    """Frames of an episode without an image, and how far the nearest ones are."""
    missing = np.flatnonzero(~np.isfinite(one.seconds))
    if not missing.size:
        return None
    end = f"{len(times)} images up to {times[-1]:.3f} s" if len(times) else "none at all"
    why = f"no image for {missing.size} of {episode.length} frames: the video has {end}"
    if not len(times):
        return Finding(str(file), why, episode.index, int(missing[0]), AGAIN)
    wanted = episode.clips[camera].start + missing / fps
    beyond = wanted > times[-1] + 0.75 / fps
    off = one.error[missing]
    if not beyond.all():
        inside = off[~beyond]
        least, most = float(inside.min()), float(inside.max())
        span = f"{most:.4f} s" if most - least < 1e-4 else f"{least:.4f} to {most:.4f} s"
        why += f"; the nearest ones of {camera} are {span} off"
        hint = f"if these are the right ones: --tolerance {round_up(most)}"
    if beyond.any():
        hint = f"{AGAIN}, or shorten the episode; --tolerance {round_up(float(off.max()))} shows "
        hint += "the last image again"
    return Finding(str(file), why, episode.index, int(missing[0]), hint)


def _check_images(
    video: Video, episode: Episode, one: FrameTimes, camera: str, probed: ProbedImages, whole: bool
) -> Iterator[Finding]:
    """Images that cannot be decoded, of all or of the first; the others are noted."""
    for frame, moment in enumerate(one.seconds.tolist()[: None if whole else 1]):
        try:
            (image,) = video.at([moment], EXACT)
            probed.add(camera, (str(video.file), episode.index, frame), image)
        except WamkitError as problem:
            yield Finding(str(video.file), problem.what, episode.index, frame, problem.hint)
            return
