"""Statistics are those of all frames, of what the policy learns, and are computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wamkit
from wamkit.actions import ActionSpace, Statistics
from wamkit.data import Feature, Recording, Samples, Writer, statistics
from wamkit.errors import WamkitError
from wamkit.parity import same_values
from wamkit.spec import PolicySpec, parse, read

SMALL = Path(__file__).parent / "data" / "small.toml"


def spec_of(kind: str) -> PolicySpec:
    arm: dict[str, Any] = {"name": "arm", "size": 2, "kind": kind}
    if kind == "relative":
        arm["state"] = 1
    actions = {"chunk": 4, "groups": [{"name": "gripper", "size": 1}, arm]}
    return parse(read(SMALL, ["state.size=3"]) | {"actions": actions})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of different lengths and ranges, of random numbers."""
    rng = np.random.default_rng(0)
    features = {
        "observation.images.front": Feature("image", (8, 8, 3)),
        "observation.state": Feature("float32", (3,)),
        "action": Feature("float32", (3,)),
    }
    place = tmp_path_factory.mktemp("data") / "set"
    with Writer(place, 10, features) as writer:
        for scale, length in ((1, 40), (10, 15)):
            for _ in range(length):
                writer.add_frame(
                    {
                        "observation.images.front": np.zeros((8, 8, 3), np.uint8),
                        "observation.state": scale * rng.normal(size=3),
                        "action": scale * rng.normal(size=3),
                    }
                )
            writer.add_episode("try")
    return place


def _all(folder: Path, spec: PolicySpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Actions as the policy learns them [all steps, A], and every state [frames, P]."""
    samples, space = Samples(folder, spec), ActionSpace(spec.actions)
    steps, states = [], []
    for i in range(len(samples)):
        sample = samples[i]
        relative = space.relative(sample["actions"][None], sample["state"][None])[0]
        steps.append(relative[sample["step_valid"]])
        states.append(sample["state"])
    return torch.cat(steps), torch.stack(states)


def _close(found: Statistics, values: torch.Tensor, dims: slice) -> None:
    expected = Statistics.of(values)
    for name in Statistics.__dataclass_fields__:
        mine, theirs = (torch.tensor(getattr(s, name))[dims] for s in (found, expected))
        same_values(mine, theirs)


def test_relative_groups_are_described_as_the_policy_learns_them(
    folder: Path, tmp_path: Path
) -> None:
    spec = spec_of("relative")
    found = statistics(Recording(folder), spec, cache=tmp_path)
    steps, states = _all(folder, spec)
    _close(found["action"], steps, slice(1, 3))
    _close(found["state"], states, slice(0, 3))
    wamkit.build(spec).set_statistics(found)


def test_other_groups_count_every_frame_once(folder: Path, tmp_path: Path) -> None:
    spec = spec_of("absolute")
    found = statistics(Recording(folder), spec, cache=tmp_path)
    samples = Samples(folder, spec)
    actions = torch.stack([samples[i]["actions"][0] for i in range(len(samples))])
    _close(found["action"], actions, slice(0, 3))
    assert found == statistics(Recording(folder), cache=tmp_path)


def test_quantiles_are_of_all_frames_and_no_mean_of_episodes(folder: Path, tmp_path: Path) -> None:
    recording = Recording(folder)
    whole = statistics(recording, cache=tmp_path)["action"].q99
    parts = [statistics(recording, episodes=[i], cache=tmp_path)["action"].q99 for i in (0, 1)]
    assert abs(whole[0] - (parts[0][0] + parts[1][0]) / 2) > 0.5


def test_they_are_computed_once_and_again_when_the_data_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wamkit.data.describing as module

    features = {"action": Feature("float32", (1,))}
    for value in (1, 2):
        with Writer(tmp_path / "set", 10, features) as writer:
            writer.add_episode("try", [{"action": [value]}] * 3)
        first = statistics(Recording(tmp_path / "set"))
        assert first["action"].max == (value,)
        with monkeypatch.context() as context:
            context.setattr(module, "Numbers", None)  # nothing can be computed now
            assert statistics(Recording(tmp_path / "set")) == first
    assert len(list((tmp_path / "set" / "meta" / "wamkit").iterdir())) == 1


def test_an_empty_column_of_the_data_is_named(folder: Path) -> None:
    from wamkit.data import Columns

    with pytest.raises(WamkitError, match="has no 'acton' for action") as problem:
        statistics(Recording(folder), columns=Columns(action="acton"))
    assert "did you mean 'action'" in problem.value.hint
