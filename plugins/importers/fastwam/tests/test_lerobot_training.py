"""A policy folder of LeRobot's Fast-WAM learns as LeRobot's own class makes it.

`data/lerobot_fastwam_training.safetensors` was recorded by `data/make_lerobot_fastwam_tiny.py`:
one call of `FastWAMPolicy.forward` on images, states and actions as a data set has them, with the
weights of the other record, in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import released
import torch
from torch import Tensor
from wamkit_fastwam import FastWAM

from wamkit.engine.noise_schedule import NoiseSchedule
from wamkit.engine.passes import PassRunner
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import DenoisingTargets, ModelInputs, ModelOutput, Text
from wamkit.policy.importing import plan_import
from wamkit.policy.losses import modality_loss
from wamkit.policy.observation import Batch, Observation
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import training_inputs
from wamkit.testing.parity import same_values
from wamkit.testing.recorded import RecordedNoise, read_record

VERIFIED = FastWAM.verified
RECORD = Path(__file__).parent / "data" / "lerobot_fastwam_training.safetensors"
PARTS = (
    *("backbone.variant=tiny", "vae.name=pixel_shuffle", "vae.strides=[4,2,2]"),
    *("text_encoder.name=bytes", "text_encoder.max_length=128"),
)
CAMERAS = ("image", "wrist_image")


class Step(NamedTuple):
    """One training step of an imported policy, on what was recorded."""

    policy: Policy
    batch: Batch
    noisy: ModelInputs
    goals: DenoisingTargets
    found: ModelOutput


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    return read_record(RECORD)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The import of the folder, with the smaller images of the recorded step."""
    home = tmp_path_factory.mktemp("lerobot")
    images = {f"observation.images.{n}": {"type": "VISUAL", "shape": [3, 16, 16]} for n in CAMERAS}
    state = {"observation.state": {"type": "STATE", "shape": [3]}}
    folder = released.lerobot(
        home / "source", image_size=[16, 32], input_features={**images, **state}
    )
    return Policy.load(plan_import(folder, None, PARTS).write(home / "policy", random_parts=True))


@pytest.fixture(params=["padded", "unpadded"])
def name(request: pytest.FixtureRequest) -> str:
    """Whether the class knew which actions and images are padding."""
    return str(request.param)


@pytest.fixture
@torch.no_grad()
def step(
    policy: Policy, trained: dict[str, Tensor], name: str, monkeypatch: pytest.MonkeyPatch
) -> Step:
    """The step with LeRobot's draws, in the order in which they are drawn here."""
    text = Text(trained["given/context"])
    monkeypatch.setattr("wamkit.policy.preprocessing.embed_prompts", lambda *_, **__: text)
    images = {view: trained[f"given/observation.images.{view}"] for view in CAMERAS}
    marked = name == "padded"
    batch = Batch(
        Observation(images, ("a", "b", "c"), trained["given/observation.state"]),
        trained["given/action"],
        step_valid=~trained["given/action_is_pad"] if marked else None,
        frame_valid=~trained["given/image_is_pad"] if marked else None,
    )
    draws = iter([trained["draws/rand/1"], trained["draws/rand/0"]])  # the action's comes first
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(draws))
    rng = RecordedNoise([trained["draws/randn_like/1"], trained["draws/randn_like/0"]])
    noisy, goals = policy.paradigm.add_noise(training_inputs(policy, batch), policy.schedules, rng)
    return Step(policy, batch, noisy, goals, policy.model(noisy))


def test_a_training_step_predicts_as_lerobot_does(step: Step, trained: dict[str, Tensor]) -> None:
    assert step.found.video is not None and step.found.action is not None
    video = step.found.video[:, :, list(step.goals["video"].places)]
    for part, found in (("video", video), ("action", step.found.action)):
        same_values(found, trained[f"velocity_{part}"], VERIFIED["lerobot_network"], scale=1.0)


def test_levels_are_drawn_as_lerobot_draws_them(step: Step, trained: dict[str, Tensor]) -> None:
    assert step.noisy.video is not None and step.noisy.action is not None
    video = step.noisy.video.levels
    assert isinstance(video, Tensor)
    for part, levels in (("video", video[:, 1:]), ("action", step.noisy.action.sigma)):
        expected = trained[f"level_{part}"][:, None].expand_as(levels) / 1000
        same_values(levels, expected, VERIFIED["lerobot_levels"], scale=1.0)


def test_levels_of_actions_are_rounded_where_lerobot_runs_in_bfloat16(
    trained: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = released.lerobot(tmp_path / "lerobot", torch_dtype="bfloat16")
    spec = plan_import(folder, None, PARTS).spec
    assert not spec.schedules.video.bf16_timesteps
    flow = NoiseSchedule(spec.schedules.action)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.linspace(0.001, 0.999, 64))
    levels = flow.sample((64,), torch.zeros(1), torch.Generator())
    expected = trained["rounded/timesteps"].float() / 1000
    same_values(levels, expected, VERIFIED["lerobot_levels"], scale=1.0)
    expected = trained["rounded/weights"]
    same_values(flow.weight(levels).float(), expected, VERIFIED["lerobot_levels"], scale=1.0)


def test_a_training_step_costs_what_lerobot_says(
    step: Step, name: str, trained: dict[str, Tensor]
) -> None:
    losses = {
        part: modality_loss(step.policy, part, goal, step.noisy, step.found, step.batch)
        for part, goal in step.goals.items()
    }
    losses[""] = losses["video"] + losses["action"]
    start = "" if name == "padded" else "unpadded/"
    for part, loss in losses.items():
        expected = trained[f"{start}loss{'_' * bool(part)}{part}"]
        same_values(loss, expected, VERIFIED["lerobot_loss"], scale=1.0)


def test_who_sees_whom_is_the_mask_of_lerobot(step: Step, trained: dict[str, Tensor]) -> None:
    assert step.noisy.video is not None
    head: Any = step.policy.action_head
    streams = embed_video(
        PassRunner(), step.policy.backbone, step.noisy.video, step.noisy.text
    ).streams
    roles = [s.role for st in streams for s in st.segments for _ in range(s.length)]
    roles += [role for group in head.token_groups(step.noisy, ()) for role in group.roles]
    sees = step.policy.paradigm.sees
    assert isinstance(sees, dict)
    mask = torch.tensor([[key in sees[query] for key in roles] for query in roles])
    assert int((mask != trained["mask"]).sum()) <= VERIFIED["mask"]
