"""On RoboCasa and ALOHA, Cosmos Policy's own evaluations and imported policies do the same.

`data/cosmos_policy_robots.safetensors` was recorded from them by
`data/make_cosmos_policy_robots.py`; the weights of the network are those of
`data/cosmos_policy_tiny.safetensors`.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from wamkit_cosmos_policy import CosmosPolicy

from wamkit.checkpoints.pickle_values import embeddings
from wamkit.checkpoints.random_weights import build_seeded
from wamkit.checkpoints.safetensors import save
from wamkit.config.spec import parse, read
from wamkit.config.trust import trusting_paths
from wamkit.policy.importing import plan_import
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.policy.precomputed_text import store
from wamkit.policy.preprocessing import canvas_of
from wamkit.testing.parity import float64, to_float64
from wamkit.testing.recorded import RecordedNoise, act_with_noise, read_record

DATA = Path(__file__).parent / "data"
EXAMPLES = Path(__file__).resolve().parents[4] / "examples"
TASK = "put the bowl on the plate"
VERIFIED = CosmosPolicy.verified


def read_all(name: str, start: str) -> dict[str, Tensor]:
    """The tensors of a record whose names begin like this, by the rest of their names."""
    return read_record(DATA / name, start)


@dataclass(frozen=True)
class Robot:
    """A robot of the record."""

    title: str
    example: str
    views: dict[str, str]
    """View of the spec -> the key of its predicted image there."""
    image: tuple[int, int]
    """Height and width of what the cameras show, in pixels."""
    side: int
    """Height and width of what the policy sees, in pixels."""
    executed: int
    """Actions of a chunk that are executed."""

    def record(self) -> dict[str, Tensor]:
        return read_all("cosmos_policy_robots.safetensors", f"{self.title.lower()}/")

    def sizes(self) -> list[str]:
        """Overrides of the published spec: what a checkpoint of the record's size does not hold."""
        size = [f"cameras.views.{i}.size=[{self.side}, {self.side}]" for i in range(3)]
        text = ("text_encoder.embedding=16", "text_encoder.max_length=5")
        return [*size, *text, 'vae.width="tiny"', 'dtype="float32"']


ROBOTS = {
    "robocasa": Robot(
        title="RoboCasa",
        example="cosmos_policy_robocasa.toml",
        views={
            "wrist_image": "future_wrist_image",
            "left_image": "future_image",
            "right_image": "future_image2",
        },
        image=(48, 48),
        side=48,
        executed=16,
    ),
    "aloha": Robot(
        title="ALOHA",
        example="cosmos_policy_aloha.toml",
        views={
            "left_wrist": "future_wrist_image",
            "right_wrist": "future_wrist_image2",
            "primary": "future_image",
        },
        image=(480, 640),
        side=64,
        executed=50,
    ),
}


@pytest.fixture(scope="module", params=list(ROBOTS))
def robot(request: pytest.FixtureRequest) -> Robot:
    return ROBOTS[request.param]


@pytest.fixture(scope="module")
def record(robot: Robot) -> dict[str, Tensor]:
    return robot.record()


@pytest.fixture(scope="module")
def policy(robot: Robot, record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    """The policy that an import of a checkpoint in the released layout gives."""
    folder = tmp_path_factory.mktemp(robot.title)
    released = folder / f"Cosmos-Policy-{robot.title}-Predict2-2B.pt"
    torch.save(read_all("cosmos_policy_tiny.safetensors", "weights/"), released)
    rows = {k[11:]: v.tolist() for k, v in record.items() if k.startswith("statistics/")}
    for kind in ("actions", "proprio"):
        low = rows[f"{kind}_min"]
        rows |= {f"{kind}_mean": low, f"{kind}_std": [0.1] * len(low)}
    statistics = folder / f"{robot.title.lower()}_dataset_statistics.json"
    statistics.write_text(json.dumps(rows))
    pickled = folder / f"{robot.title.lower()}_t5_embeddings.pkl"
    text = read_all("cosmos_policy_robots.safetensors", "text")[""]
    pickled.write_bytes(pickle.dumps({TASK: text}))
    spec = parse(read(EXAMPLES / robot.example, robot.sizes()))
    store(spec.text_encoder, embeddings(pickled), folder / "text.safetensors")
    save(build_seeded(spec, "vae", spec.vae.build, "cpu"), folder / "vae.safetensors")
    files = [f"text_encoder.embeddings_file={folder / 'text.safetensors'}"]
    files += [f"vae.weights={folder / 'vae.safetensors'}"]
    plan = plan_import(released, None, [*robot.sizes(), *files])
    with trusting_paths():
        return Policy.load(plan.write(folder / "policy"))


@pytest.fixture(scope="module")
def wide(policy: Policy) -> Policy:
    """The policy in float64, in which the record was made."""
    return to_float64(policy)


def image_of(camera: int, height: int, width: int) -> Tensor:
    """The image [height, width, 3] of a camera in `data/make_cosmos_policy_robots.py`."""
    y, x, c = torch.meshgrid(*(torch.arange(n) for n in (height, width, 3)), indexing="ij")
    found = 7 * y + 3 * x + 31 * c + (x * y) // 90 + 50 * camera
    return (found % 256).to(torch.uint8)


@pytest.fixture
def seen(robot: Robot, record: dict[str, Tensor]) -> Observation:
    images = {name: image_of(i, *robot.image).numpy() for i, name in enumerate(robot.views)}
    return Observation(images, TASK, record["state"])


def noise_of(record: dict[str, Tensor]) -> list[Tensor]:
    """The recorded noise [1, 16, 11, h, w] in the order in which it is drawn here."""
    noise = record["noise"]
    action, next_state, value = (
        noise[:, :, i : i + 1].transpose(1, 2).flatten(2) for i in (5, 6, 10)
    )
    return [action, noise[:, :, 7:10], next_state, value]


def test_the_spec_has_the_published_slots_and_sizes(
    robot: Robot, policy: Policy, record: dict[str, Tensor]
) -> None:
    spec, frames = policy.spec, int(record["frames"])
    assert 2 * len(spec.cameras.views) + 5 == frames
    assert spec.video.frame_stride == spec.actions.chunk_size == len(record["actions"])
    for schedule in policy.schedules.values():
        assert schedule.config.sampling_args.scale == pytest.approx(sqrt(frames))
    weights = {part: policy.schedules[part].config.loss_weight for part in ("video", "action")}
    assert weights["action"] == pytest.approx(10 / frames)
    assert weights["video"] == pytest.approx(10 * len(robot.views) / frames)


def test_images_of_three_cameras_become_the_published_pixels(
    policy: Policy, seen: Observation, record: dict[str, Tensor]
) -> None:
    pixels = (canvas_of(policy, seen) + 1) * 127.5
    expected = record["pixels"].permute(0, 3, 1, 2)[:, :, None]
    assert torch.equal(pixels.round().to(torch.uint8), expected)


@float64()
def test_a_whole_run_gives_what_the_published_evaluation_executes(
    robot: Robot, wide: Policy, seen: Observation, record: dict[str, Tensor]
) -> None:
    chunk = act_with_noise(wide, seen, noise_of(record))
    error = (chunk.values[0] - record["actions"]).abs().max()
    assert float(error) < VERIFIED["run"], float(error)
    executed = record["executed"]
    assert len(executed) == robot.executed
    base = torch.tensor([0.0, 0.0, 0.0, 0.0, -1.0]).expand(robot.executed, -1)
    sent = torch.cat([chunk.values[0][: robot.executed], base], 1)[:, : executed.shape[1]]
    assert float((sent - executed).abs().max()) < VERIFIED["run"]
    assert chunk.value is not None
    assert abs(float(chunk.value[0] + 1) / 2 - float(record["value"])) < VERIFIED["run"]


@float64()
def test_predicted_images_of_three_cameras_are_the_published_ones(
    robot: Robot,
    wide: Policy,
    seen: Observation,
    record: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = RecordedNoise(noise_of(record))
    monkeypatch.setattr("wamkit.policy.policy.generator", lambda seed: drawn)
    imagined = wide.imagine(seen).views
    for view, name in robot.views.items():
        pixels = ((imagined[view][0, :, 1] + 1) * 127.5).clamp(0, 255)
        error = pixels.to(torch.uint8).int() - record[name].permute(2, 0, 1).int()
        assert int(error.abs().max()) <= 1
