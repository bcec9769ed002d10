"""Features and batches of LeRobot as wamkit's; what is made of them without LeRobot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_policy_wamkit.batches import prompts_of, to_batch, to_observation, to_pixels
from lerobot_policy_wamkit.features import expect, features_of, mismatches, offsets, view_keys
from lerobot_policy_wamkit.history import ExecutedChunk, History
from lerobot_policy_wamkit.prefixes import prefix_of, takes_prefixes

from wamkit.config.spec import PolicySpec, override, parse, read
from wamkit.data import LeRobotFolder, Samples, collate
from wamkit.data.reader import ColumnStore, FrameReader
from wamkit.errors import WamkitError
from wamkit.testing.dataset import record

ROOT = Path(__file__).parents[3]
TOP = {"top": "observation.images.top"}
STATES = ["action_head.state=token", "state.size=2"]
NAMED = 'cameras.views=[{ name = "top", size = [64, 96] }]'


def spec_of(*changes: str, example: str = "toy") -> PolicySpec:
    raw = dict(read(ROOT / "examples" / f"{example}.toml"))
    return parse(override(raw, [NAMED, *STATES, *changes]))


def rows(folder: Path, spec: PolicySpec, moments: list[tuple[int, int]]) -> dict[str, Any]:
    """Samples as LeRobot's loader makes them: clamped to the episode, with masks of padding."""
    recording, frames = LeRobotFolder(folder), offsets(spec)
    names = ["action", "observation.state"]
    numbers = ColumnStore(recording, recording.episodes, names)
    images, found = FrameReader(recording), []
    for place, t in moments:
        episode, one = recording.episodes[place], {}
        asked = {"action": frames.action, names[1]: frames.observation}
        for key, wanted in {**asked, TOP["top"]: frames.observation}.items():
            steps = np.array(wanted) + t
            inside = steps.clip(0, episode.length - 1)
            if key in asked:
                one[key] = torch.from_numpy(numbers.episode_values(place, key)[inside].copy())
            else:
                seen = torch.from_numpy(images.read(episode, key, inside.tolist()))
                one[key] = seen.permute(0, 3, 1, 2).float() / 255
            one[f"{key}_is_pad"] = torch.from_numpy(steps != inside)
        found.append(one | {"task": episode.tasks[0]})
    batch: dict[str, Any] = {
        k: torch.stack([one[k] for one in found]) for k in found[0] if k != "task"
    }
    return batch | {"task": [one["task"] for one in found]}


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("video.num_observed=3", "video.num_frames=11", "video.frame_stride=2"),
        ("paradigm.name=autoregressive", "paradigm.chunks=2"),
    ],
    ids=["one image", "a history", "several chunks"],
)
def test_a_batch_is_what_wamkit_reads_of_the_same_data(tmp_path: Path, changes: Any) -> None:
    spec = spec_of(*changes)
    folder = record(tmp_path / "data", spec, image_format="image")
    samples = Samples(folder, spec)
    right = collate([samples[0], samples[9], samples[12]])
    found = to_batch(spec, TOP, rows(folder, spec, [(0, 0), (0, 9), (1, 0)]), offsets(spec))
    assert found.observation.prompt == right.observation.prompt
    for name in ("actions", "step_valid", "frame_valid", "states"):
        mine, own = getattr(found, name), getattr(right, name)
        assert mine is None if own is None else torch.equal(mine, own), name
    assert found.observation.state is not None and right.observation.state is not None
    assert torch.equal(found.observation.state, right.observation.state)
    assert torch.equal(found.observation.images["top"], right.observation.images["top"])


def test_images_of_8_bits_come_back_exactly() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_pixels(levels.float() / 255), levels)
    assert to_pixels(levels) is levels


def test_all_mismatches_are_named_at_once() -> None:
    spec = spec_of()
    inputs = {
        "observation.images.wrist": ("VISUAL", (3, 8, 8)),
        "observation.images.a": ("VISUAL", (3, 8, 8)),
    }
    inputs |= {"observation.state": ("STATE", (6,))}
    found = list(mismatches(spec, {"left": "x"}, inputs, {"action": ("ACTION", (6,))}, 30.0))
    assert len(found) == 5
    for part in (
        "'left'",
        "observation.images.top",
        "6 values; the policy takes 2",
        "have 4",
        "30 ",
    ):
        assert any(part in line for line in found), part
    with pytest.raises(WamkitError, match="reasons: 5"):
        expect(spec, {"left": "x"}, inputs, {"action": ("ACTION", (6,))}, 30.0)


def test_features_of_a_policy_fit_it() -> None:
    spec = spec_of()
    inputs, outputs = features_of(spec, {"top": "observation.image"})
    assert set(inputs) == {"observation.image", "observation.state"}
    expect(spec, {"top": "observation.image"}, inputs, outputs, spec.actions.control_hz)


def test_the_only_camera_is_that_of_the_only_view() -> None:
    spec = spec_of()
    one = {"observation.image": ("VISUAL", (96, 96, 3))}
    assert view_keys(spec, {}, one) == {"top": "observation.image"}
    assert view_keys(spec, {}, {**one, "observation.images.b": ("VISUAL", (3, 8, 8))}) == TOP


def test_environments_without_a_task_need_an_instruction() -> None:
    assert prompts_of({"task": ["a", "b"]}, 2, None) == ["a", "b"]
    assert prompts_of({"task": "a"}, 2, None) == ["a", "a"]
    assert prompts_of({"task": ["", ""]}, 2, "push") == ["push", "push"]
    for batch in ({}, {"task": [""]}, {"task": ["a", "b", "c"]}):
        with pytest.raises(WamkitError, match="2 samples"):
            prompts_of(batch, 2, None)


def test_the_first_observation_stands_for_those_before_the_episode() -> None:
    spec = spec_of("video.num_observed=3", "video.num_frames=11", "video.frame_stride=2")
    history = History(spec, stateful=False)
    assert history.looks_back and not History(spec_of(), stateful=False).looks_back
    seen = []
    for step in range(7):
        history.add({"step": step})
        seen.append([look["step"] for look in history.context()])
    assert seen[0] == [0, 0, 0] and seen[3] == [0, 1, 3] and seen[6] == [2, 4, 6]


def test_a_chunk_is_remembered_as_a_caller_says_it_was_executed() -> None:
    made, chunk = ExecutedChunk(), torch.arange(6.0).reshape(1, 3, 2)
    with pytest.raises(WamkitError, match="before the first one"):
        made.note(torch.zeros(1, 2))
    made.begin(chunk)
    for _ in range(3):
        made.take()
    assert made.changed is None
    with pytest.raises(WamkitError, match=r"actions \[2\]; expected \[1, 2\]"):
        made.note(torch.zeros(2))
    made.note(torch.full((1, 2), 9.0))
    assert made.changed is not None and made.changed.tolist() == [[[0, 1], [2, 3], [9, 9]]]
    assert chunk[0, 2].tolist() == [4, 5]
    made.begin(chunk)
    assert made.changed is None


def test_an_observation_has_the_looks_in_order() -> None:
    spec = spec_of()
    looks = [
        {
            TOP["top"]: torch.full((2, 3, 8, 8), level),
            "observation.state": torch.full((2, 2), level),
        }
        for level in (0.0, 1.0)
    ]
    looks[-1] |= {"task": ["a", "b"]}  # type: ignore[dict-item]
    seen = to_observation(spec, TOP, looks)
    assert seen.images["top"].shape == (2, 2, 3, 8, 8) and seen.prompt == ("a", "b")
    assert seen.images["top"][:, 0].max() == 0 and seen.images["top"][:, 1].min() == 255
    assert seen.state is not None and seen.state.tolist() == [[1, 1], [1, 1]]


def test_zeros_that_fill_a_prefix_are_not_taken() -> None:
    spec = spec_of()
    left = torch.zeros(10, 4)
    left[:3] = 1.0
    assert takes_prefixes(spec)
    prefix = prefix_of(spec, left, 5)
    assert prefix is not None and prefix.delay == 3 and prefix.values.shape == (1, 3, 4)
    assert prefix_of(spec, torch.zeros(10, 4), 5) is None
    assert prefix_of(spec, left, 0) is None
    longer = prefix_of(spec, torch.ones(30, 4), 2, size=3)
    assert longer is not None and longer.values.shape[0] == 3 and longer.values.shape[1] <= 8
