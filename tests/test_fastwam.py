"""Fast-WAM's own code and wamkit's composition of parts compute the same, from the same weights.

`data/fastwam_tiny.safetensors` was recorded from the published code by `data/make_fastwam_tiny.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from wamkit_fastwam import FastWAM

from wamkit.config.spec import parse
from wamkit.engine.passes import PassRunner
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import DenoisingTarget, Frames, ModelInputs, NoisyVectors, Text
from wamkit.policy.losses import vector_loss, video_loss
from wamkit.policy.policy import Policy
from wamkit.testing.parity import float64, same_values, to_float64

VERIFIED = FastWAM.verified
RECORD = Path(__file__).parent / "data" / "fastwam_tiny.safetensors"


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    with safe_open(RECORD, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def policy(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    """The same composition, its weights read from one file laid out as Fast-WAM's checkpoint."""
    file = str(tmp_path_factory.mktemp("weights") / "fastwam.safetensors")
    start = "weights/"
    save_file({k[len(start) :]: v for k, v in record.items() if k.startswith(start)}, file)
    sizes = {"layers": 2, "num_heads": 2, "head_dim": 12, "mlp_dim": 32, "text_width": 16}
    spec = parse(
        {
            "backbone": {"name": "wan", "variant": "tiny", "weights": file, **sizes},
            "vae": {"name": "wan2.1", "width": "tiny"},
            "text_encoder": "bytes",
            "action_head": {"name": "mot", "width": 20, "mlp_dim": 24, "weights": file},
            "paradigm": "single_pass",
            "actions": {"chunk_size": 6, "groups": [{"name": "arm", "size": 4}]},
            "state": {"size": 3},
            "cameras": {"views": [{"name": "front", "size": [32, 48]}]},
            "video": {"num_frames": 9},
        }
    )
    return Policy.from_spec(spec)


@pytest.fixture(scope="module")
def wide(policy: Policy) -> Policy:
    """The policy in float64, in which the outputs were recorded."""
    return to_float64(policy)


@pytest.fixture
@float64()
def inputs(wide: Policy, record: dict[str, Tensor]) -> ModelInputs:
    return recorded(wide, to_float64(record))


def recorded(policy: Policy, record: dict[str, Tensor]) -> ModelInputs:
    """The recorded sample, in the dtype of the record."""

    def given(name: str) -> Tensor:
        return record[f"inputs/{name}"]

    video, action = (given(f"timestep_{name}") / 1000 for name in ("video", "action"))
    sigma = torch.cat([torch.zeros(2, 1), video[:, None].expand(-1, 2)], 1)
    flows = policy.schedules
    clean = Frames(given("latents"), ("context", "target", "target"), (0.0, 1.0, 2.0), sigma)
    noisy = (
        flows["video"]
        .add(given("latents").movedim(2, 1), given("noise_video").movedim(2, 1), sigma)
        .movedim(1, 2)
    )
    actions = flows["action"].add(given("actions"), given("noise_action"), action)
    inputs = ModelInputs(
        text=Text(given("text")),
        video=clean.put(noisy, "context", "target"),
        action=NoisyVectors(actions, action),
        state=given("proprio"),
    )
    return policy.action_head.prepare(inputs)


def test_a_released_checkpoint_is_read_as_it_is(
    policy: Policy, record: dict[str, Tensor], tmp_path: Path
) -> None:
    state = {k.removeprefix("weights/"): v for k, v in record.items() if k.startswith("weights/")}
    encoder = {k: state.pop(f"proprio_encoder.{k}") for k in ("weight", "bias")}
    file = str(tmp_path / "libero.pt")
    torch.save({"mot": state, "proprio_encoder": encoder, "step": 3, "torch_dtype": "x"}, file)
    update = {
        kind: getattr(policy.spec, kind).model_copy(update={"weights": file})
        for kind in ("backbone", "action_head")
    }
    with pytest.warns(UserWarning, match="is pickled"):
        again = Policy.from_spec(policy.spec.model_copy(update=update))
    ours, theirs = policy.state_dict(), again.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if not k.startswith("text_encoder"))


def test_every_weight_of_the_checkpoint_finds_its_place(
    policy: Policy, record: dict[str, Tensor]
) -> None:
    found = sum(v.numel() for k, v in record.items() if k.startswith("weights/"))
    parts = (policy.backbone, policy.action_head)
    assert sum(p.numel() for part in parts for p in part.parameters()) == found  # type: ignore[attr-defined]


@torch.no_grad()
@float64()
def test_the_training_pass_predicts_the_same(
    wide: Policy, inputs: ModelInputs, record: dict[str, Tensor]
) -> None:
    out = wide.model(inputs)
    limit = VERIFIED["network"]
    same_values(out.video, record["outputs/velocity_video"], limit, scale=1.0)
    same_values(out.action, record["outputs/velocity_action"], limit, scale=1.0)


@torch.no_grad()
def test_a_pass_in_float32_is_near_that_in_float64(
    policy: Policy, record: dict[str, Tensor]
) -> None:
    out = policy.model(recorded(policy, record))
    limit = VERIFIED["network_float32"]
    same_values(out.video, record["outputs/velocity_video"].float(), limit, scale=1.0)
    same_values(out.action, record["outputs/velocity_action"].float(), limit, scale=1.0)


@torch.no_grad()
@float64()
def test_prefill_and_cached_step_predict_the_same_action(
    wide: Policy, inputs: ModelInputs, record: dict[str, Tensor]
) -> None:
    assert inputs.video is not None
    seen = inputs.with_(video=inputs.video.only("context"), action=None)
    cache = wide.model(seen, keep=("text", "context")).cache
    fast = wide.model(inputs.with_(video=None), cache=cache).action
    same_values(fast, record["outputs/velocity_action"], VERIFIED["network"], scale=1.0)


@float64()
def test_visibility_is_the_mask_that_the_published_code_builds(
    wide: Policy, inputs: ModelInputs, record: dict[str, Tensor]
) -> None:
    head: Any = wide.action_head
    assert inputs.video is not None and inputs.action is not None
    streams = embed_video(PassRunner(), wide.backbone, inputs.video, inputs.text).streams
    roles = [s.role for st in streams for s in st.segments for _ in range(s.length)]
    roles += [role for group in head.token_groups(inputs, ()) for role in group.roles]
    sees = wide.paradigm.sees
    mask = torch.tensor([[key in sees[query] for key in roles] for query in roles])
    assert int((mask != record["outputs/mask"].bool()).sum()) <= VERIFIED["mask"]


@torch.no_grad()
@float64()
def test_losses_are_the_published_ones(
    wide: Policy, inputs: ModelInputs, record: dict[str, Tensor]
) -> None:
    assert inputs.video is not None and inputs.action is not None
    record = to_float64(record)
    out, flows = wide.model(inputs), wide.schedules
    assert out.video is not None and out.action is not None
    noise = {name: record[f"inputs/noise_{name}"] for name in ("video", "action")}
    goals = {
        "action": DenoisingTarget(
            flows["action"].velocity(record["inputs/actions"], noise["action"]),
            flows["action"].weight(inputs.action.sigma),
        ),
        "video": DenoisingTarget(
            flows["video"].velocity(record["inputs/latents"], noise["video"])[:, :, 1:],
            flows["video"].weight(inputs.video.sigma[:, 1:]),
            (1, 2),
        ),
    }
    video = video_loss(out.video, goals["video"], None)
    action = vector_loss(out.action, goals["action"], torch.ones_like(out.action))
    # The published weights are divided by their mean and 1e-10.
    same_values(video, record["outputs/loss_video"], VERIFIED["loss"], scale=1.0)
    same_values(action, record["outputs/loss_action"], VERIFIED["loss"], scale=1.0)
