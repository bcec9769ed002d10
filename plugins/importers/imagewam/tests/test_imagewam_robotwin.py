"""On RoboTwin, ImageWAM's own evaluation and an imported policy do the same, from its settings.

`data/imagewam_robotwin.safetensors` was recorded from it by `data/make_imagewam_robotwin.py`; where
weights are not in it, they are those of `data/imagewam_tiny.safetensors`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from wamkit_imagewam import ImageWAM
from wamkit_imagewam.specs import ROBOTWIN

from wamkit.engine.noise_schedule import NoiseSchedule, shift_sigma
from wamkit.policy.importing import plan_import
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.testing.parity import float64, to_float64
from wamkit.testing.recorded import act_with_noise, part_of, read_record

DATA = Path(__file__).parent / "data"
PROMPT = "lift both"
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
TINY = ("dtype=float32", "vae.width=tiny", "text_encoder.name=bytes", "text_encoder.max_length=96")
VERIFIED = ImageWAM.verified


def read_all(name: str) -> dict[str, Tensor]:
    """All tensors of a record by name."""
    return read_record(DATA / name)


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    return read_all("imagewam_robotwin.safetensors")


@pytest.fixture(scope="module")
def released(record: dict[str, Tensor], tmp_path_factory: Any) -> Path:
    """A folder as it is released, with the authors' settings."""
    folder: Path = tmp_path_factory.mktemp("ImageWAM-FLUX.2-4B-RoboTwin")
    whole = {**read_all("imagewam_tiny.safetensors"), **record}
    weights = part_of(whole, "weights/")
    parts: dict[str, dict[str, Tensor]] = {"mot": {}, "proprio_encoder": {}}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    torch.save({**parts, "step": 3}, folder / "model.pt")
    with safe_open(DATA / "imagewam_robotwin.safetensors", framework="pt") as file:
        about = file.metadata()
    (folder / "dataset_stats.json").write_text(about["statistics"])
    (folder / "train_config.yaml").write_text(about["settings"])
    return folder


@pytest.fixture(scope="module")
def policy(released: Path, import_released: Any) -> Policy:
    """The policy that an import of the released folder gives."""
    return import_released(released, TINY)


@pytest.fixture(scope="module")
def wide(policy: Policy) -> Policy:
    """The policy in float64, in which the record was made."""
    return to_float64(policy)


def image_of(camera: int) -> Tensor:
    """The image [3, 240, 320] of a camera in `data/make_imagewam_robotwin.py`."""
    y, x, c = torch.meshgrid(*(torch.arange(n) for n in (240, 320, 3)), indexing="ij")
    found = 7 * y + 3 * x + 31 * c + (x * y) // 90 + 50 * camera
    return (found % 256).to(torch.uint8).permute(2, 0, 1)


@pytest.fixture
def seen(record: dict[str, Tensor]) -> Observation:
    images = {name: image_of(i)[None, None] for i, name in enumerate(CAMERAS)}
    return Observation(images, PROMPT, record["run/state"][None])


def test_the_authors_settings_give_the_spec_of_two_arms(released: Path) -> None:
    spec = plan_import(released, None, TINY).spec.dump()
    settings = json.loads((released / "train_config.yaml").read_text())
    assert settings["data"]["train"]["robotwin_camera_layout"] == "compact_288x256"
    for part in ("actions", "state", "cameras", "video", "schedules"):
        expected, found = ROBOTWIN[part], spec[part]
        assert included(expected, found), part


def included(expected: Any, found: Any) -> bool:
    """Whether all values of a table are in another one, in which more may be."""
    if isinstance(expected, dict):
        return all(included(value, found.get(key)) for key, value in expected.items())
    if isinstance(expected, list):
        pairs = zip(expected, found, strict=True)
        return all(included(one, other) for one, other in pairs)
    return bool(expected == found)


def test_images_of_three_cameras_become_the_published_canvas(
    policy: Policy, seen: Observation, record: dict[str, Tensor]
) -> None:
    canvas = policy.cameras.canvas(seen.images)[0, :, 0]
    assert list(canvas.shape[1:]) == record["run/canvas_size"].tolist()
    pixels = ((canvas + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(pixels[:, ::4, ::4], record["run/canvas"])


@float64()
def test_a_run_on_robotwin_gives_the_published_joint_positions(
    wide: Policy, seen: Observation, record: dict[str, Tensor]
) -> None:
    found = act_with_noise(wide, seen, [record["run/noise"]]).values[0]
    error = float((found - record["run/actions"]).abs().max())
    assert error <= VERIFIED["run"], error
    executed = record["run/executed"].numpy()
    assert np.array_equal(record["run/actions"].numpy().astype(np.float32), executed)
    assert len(executed) == wide.spec.actions.chunk_size


@float64()
def test_training_levels_are_rounded_as_the_published_ones(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule, drawn = policy.schedules["action"], record["rounded/drawn"]
    assert schedule.config.bf16_timesteps
    monkeypatch.setattr(torch, "rand", lambda *given, **named: drawn)
    levels = schedule.sample((64,), torch.zeros(1), torch.Generator())
    assert torch.equal(1000 * levels, record["rounded/timesteps"].double())
    assert not torch.equal(levels, shift_sigma(drawn, schedule.shift).double())
    error = (schedule.weight(levels) - record["rounded/weights"]).abs().max()
    assert float(error) <= VERIFIED["rounded_levels"], float(error)


@float64()
@pytest.mark.parametrize("steps", [4, 10])
def test_rounded_levels_of_sampling_are_the_published_ones(
    policy: Policy, record: dict[str, Tensor], steps: int
) -> None:
    rounded = policy.schedules["action"].config.model_copy(update={"bf16_sampling": True})
    sampler = NoiseSchedule(rounded).init_sampler(torch.zeros(1, 1), steps)
    timesteps = [1000 * level for level in sampler.levels]
    assert timesteps == pytest.approx(record[f"rounded/sampling_{steps}"].tolist(), rel=1e-12)
    lengths = []
    while not sampler.done:
        before = sampler.x
        sampler.step(torch.ones(1, 1))
        lengths.append(float(sampler.x - before))
    published = record[f"rounded/lengths_{steps}"].tolist()
    assert lengths == pytest.approx(published, abs=VERIFIED["rounded_levels"])
