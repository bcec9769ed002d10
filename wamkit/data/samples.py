"""Training samples of a policy: around each recorded frame, the clip, the actions, the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..policy.cameras import expect_channels
from .latents import StoredLatents
from .lerobot_format import TOLERANCE, Columns, Episode, LeRobotFolder
from .needs import expect
from .reader import ColumnStore, FrameReader
from .timing import find_start_times


class Sample(TypedDict):
    """Images, state, prompt and actions around one frame index t.

    With k images observed and `every` actions between two, image i is the one at frame
    t + (i - k + 1) * every. Outside the episode the first or the last image is repeated. How
    many images (T) and actions (N) there are follows from the spec: `num_images` and `steps`.
    """

    images: dict[str, Tensor]  # view -> [T, 3, height, width] uint8; [k, ...] with latents; deep
    # images [T, 1, height, width] float32
    frame_valid: Tensor  # [T] bool, False outside the episode
    state: NotRequired[Tensor]  # [P] at t, physical units; float32, or float64 where that is coarse
    prompt: str
    actions: Tensor  # [N, A], those of frames t to t + N - 1, as the state
    step_valid: Tensor  # [N] bool, False after the end of the episode
    latents: NotRequired[Tensor]  # [C, t, h, w], if they are stored
    states: NotRequired[Tensor]  # [n, P] at the beginning of each of n chunks, if each has one
    next_state: NotRequired[Tensor]  # [P] when the actions are done, or at the end
    value: NotRequired[float]  # in [-1, 1] when the actions are done, if the policy predicts it
    progress: int  # frames left in the episode after t
    episode: int
    frame: int  # t, counted from the beginning of the episode


class Samples(Dataset[Sample]):
    """The samples of some episodes, one for each frame, or for each whose latents are stored."""

    def __init__(
        self,
        recording: LeRobotFolder | str | Path,
        spec: PolicySpec,
        columns: Columns | None = None,
        *,
        episodes: Sequence[int] | None = None,
        latents: str | Path | None = None,
        tolerance: float = TOLERANCE,
        discount: float = 0.99,
    ) -> None:
        """`episodes`: which to use (all); `latents`: a folder of `wamkit precompute latents`.

        A demonstration is assumed to succeed at its last frame: the value of a frame so many frames
        earlier is `discount` to that power, put on [-1, 1] (Cosmos Policy, arXiv 2601.16163).

        Raises WamkitError if the data set does not meet the needs of the spec: cameras, sizes of
        action and state, frames a second equal to actions.control_hz, times within `tolerance`
        seconds.
        """
        if not isinstance(recording, LeRobotFolder):
            recording = LeRobotFolder(recording)
        self.recording, self.spec, self.columns = recording, spec, columns or Columns()
        expect(recording, spec, self.columns)
        self.episodes = select_episodes(recording, episodes)
        names = [self.columns.action, "timestamp", *([self.columns.state] * (spec.state.size > 0))]
        names += ["task_index"] if "task_index" in recording.features else []
        self._numbers = ColumnStore(recording, self.episodes, names)
        inputs = set(names) & {self.columns.action, self.columns.state}
        self._numbers.expect_finite(sorted(inputs))
        self._exact = {name: to_float(self._numbers[name]) for name in inputs}
        self._images = FrameReader(recording, tolerance)
        numbers = self._numbers
        times = [
            numbers.episode_values(place, "timestamp")[:, 0] for place in range(len(self.episodes))
        ]
        started = find_start_times(recording, self.episodes, times, tolerance)
        self._images.expect_counted([e for e in self.episodes if e.index in started])
        self._delta = np.repeat(
            [group.kind == "delta" for group in spec.actions.groups],
            [group.size for group in spec.actions.groups],
        )
        self.discount = discount
        self.latents = None
        if latents is not None:
            self.latents = StoredLatents(latents)
            self.latents.expect(recording, spec, self.columns)
        places = np.repeat(np.arange(len(self.episodes)), [e.length for e in self.episodes])
        frames = np.arange(len(places)) - self._numbers.starts[places]
        self._moments = np.stack([places, frames], 1)  # [samples, 2]: which episode, and t
        if self.latents is not None:
            known = [(self.episodes[place].index, t) in self.latents for place, t in self._moments]
            self._moments = self._moments[np.array(known, dtype=bool)]
        if not len(self._moments):
            raise WamkitError(
                f"no sample in {len(self.episodes)} episodes of {recording.folder}",
                "choose other episodes, or store latents of these",
            )

        for view in spec.cameras.views:  # refused before a run begins; no file stays open
            self._view_images(view.name, self.episodes[0], [0], FrameReader(recording, tolerance))

    def __len__(self) -> int:
        return len(self._moments)

    def __getitem__(self, index: int) -> Sample:
        place, t = map(int, self._moments[index])
        episode, last = self.episodes[place], self.episodes[place].length - 1
        moments, frame_valid = clip_frames(self.spec, t, last + 1)
        steps = np.arange(t, t + self.spec.steps)
        step_valid = steps <= last
        actions = self._actions(place, np.minimum(steps, last))
        actions = np.where(~step_valid[:, None] & self._delta, 0.0, actions)
        sample = Sample(
            images={},
            frame_valid=torch.from_numpy(frame_valid),
            prompt=self._prompt(place, t),
            actions=torch.from_numpy(actions.astype(self._exact[self.columns.action])),
            step_valid=torch.from_numpy(step_valid),
            progress=last - t,
            episode=episode.index,
            frame=t,
        )
        after = min(t + self.spec.steps, last)
        if "value" in self.spec.predicts:
            sample["value"] = 2 * self.discount ** (last - after) - 1
        if self.spec.state.size:
            states = self._numbers.episode_values(place, self.columns.state)
            exact = self._exact[self.columns.state]
            sample["state"] = torch.from_numpy(states[t].astype(exact))
            if self.spec.paradigm.states_per_sample > 1:
                starts = np.minimum(steps[:: self.spec.actions.chunk_size], last)
                sample["states"] = torch.from_numpy(states[starts].astype(exact))
            sample["next_state"] = torch.from_numpy(states[after].astype(exact))
        if self.latents is not None:
            sample["latents"] = self.latents[episode.index, t]
            moments = moments[: self.spec.video.num_observed]
        for view in self.spec.cameras.views:
            images = self._view_images(view.name, episode, moments, self._images)
            sample["images"][view.name] = torch.from_numpy(images).permute(0, 3, 1, 2)
        return sample

    def _actions(self, place: int, frames: np.ndarray) -> np.ndarray:
        """The actions of frames of an episode [N, A], with the state at each where it belongs."""
        actions = self._numbers.episode_values(place, self.columns.action)[frames]
        config = self.spec.actions
        if len(config.executed) == config.size:
            return actions
        states = self._numbers.episode_values(place, self.columns.state)[frames]
        parts = {"action": actions, "state": states}
        return np.stack([parts[kind][:, i] for kind, i in config.sources], 1)

    def _view_images(
        self, view: str, episode: Episode, frames: Sequence[int], source: FrameReader
    ) -> np.ndarray:
        """Images of a view.

        Raises WamkitError if they are deep and the view is not, or the other way round.
        """
        key = self.columns.view(view)
        images = source.read(episode, key, frames)
        where = f"{key!r} of episode {episode.index} at frame {frames[0]}"
        expect_channels(self.spec.cameras, view, images.shape[-1], images, where)
        return images

    def moment(self, index: int) -> tuple[int, int]:
        """The episode of a sample, and its frame there."""
        place, t = map(int, self._moments[index])
        return self.episodes[place].index, t

    def _prompt(self, place: int, t: int) -> str:
        """The instruction of a frame, or the first of its episode."""
        episode, tasks = self.episodes[place], self.recording.tasks
        if "task_index" in self.recording.features:
            number = self._numbers.episode_values(place, "task_index")[t, 0]
            if number not in tasks:
                raise WamkitError(
                    f"episode {episode.index}, frame {t} is of task {number}, which is empty",
                    "run `wamkit data check` on the folder",
                )
            return tasks[int(number)]
        if not episode.tasks:
            raise WamkitError(f"episode {episode.index} has no instruction", "add its task")
        return episode.tasks[0]


def expect_on_time(recording: LeRobotFolder, tolerance: float = TOLERANCE) -> None:
    """Raises WamkitError if the frames of an episode are not evenly 1 / fps apart."""
    episodes = recording.episodes
    numbers = ColumnStore(recording, episodes, ["timestamp"])
    times = [numbers.episode_values(place, "timestamp")[:, 0] for place in range(len(episodes))]
    find_start_times(recording, episodes, times, tolerance)


def to_float(values: np.ndarray) -> type[np.floating]:
    """Convert to float32, or to float64 if float32 is too coarse, such as for large counts."""
    if not len(values) or values.dtype.itemsize < 4 or values.dtype == np.float32:
        return np.float32
    exact = values.astype(np.float64)
    lost = np.abs(exact.astype(np.float32) - exact).max(0, initial=0.0)
    return np.float64 if (lost > 1e-6 * np.ptp(exact, 0)).any() else np.float32


def clip_frames(spec: PolicySpec, t: int, length: int) -> tuple[list[int], np.ndarray]:
    """Frames of the clip's images around t in an episode of `length`, and which are its own."""
    moments = t + np.array(spec.video.moments(spec.num_images))
    inside = np.clip(moments, 0, length - 1)
    return inside.tolist(), moments == inside


def select_episodes(
    recording: LeRobotFolder, episodes: Sequence[int] | None
) -> tuple[Episode, ...]:
    """The episodes with these indexes, in order; all if None. Raises WamkitError for others."""
    if episodes is None:
        return recording.episodes
    known = {episode.index: episode for episode in recording.episodes}
    if missing := sorted(set(episodes) - set(known)):
        raise WamkitError(
            f"{recording.folder} has no episode {missing[0]}; it has {len(known)}",
            "choose among those",
        )
    return tuple(known[index] for index in sorted(set(episodes)))


def split(
    recording: LeRobotFolder, validation: float, seed: int = 0
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indexes of the episodes to train on and of those to validate on, always the same ones.

    `validation` is the share of the second, of which there is at least one unless it is 0. Raises
    WamkitError if nothing would be left to train on.
    """
    indexes = [episode.index for episode in recording.episodes]
    count = 0 if validation == 0 else max(1, round(len(indexes) * validation))
    if not 0 <= validation < 1 or count >= len(indexes):
        raise WamkitError(
            f"{count} of {len(indexes)} episodes for validation leaves none to train on",
            "set val_fraction=0 to hold out none, or a share below 1 of at least two episodes",
        )
    mixed = np.random.default_rng(seed).permutation(indexes).tolist()
    return tuple(sorted(mixed[count:])), tuple(sorted(mixed[:count]))
