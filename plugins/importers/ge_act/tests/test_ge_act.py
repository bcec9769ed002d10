"""GE-Act's own code and wamkit's composition of parts compute the same, from the same weights.

`data/ge_act_tiny.safetensors` was recorded from the published code by `data/make_ge_act_tiny.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wamkit.config.check import check
from wamkit.config.spec import PolicySpec, parse
from wamkit.config.visibility import freeze
from wamkit.engine.attention_plan import plan_pass
from wamkit.engine.noise_schedule import NoiseTape
from wamkit.engine.passes import PassRunner
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import DenoisingTarget, Frames, ModelInputs, NoisyVectors, Text
from wamkit.policy.actions import Statistics
from wamkit.policy.losses import vector_loss
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.parity import float64, same_values, to_float64

DATA = Path(__file__).parent / "data"
VIEWS, OBSERVED, FUTURE, ACTION = 2, 4, 2, 3
PATCH, STRIDE = 16, (8, 32, 32)


class LinearVAE(nn.Module):
    """A VAE for records that only encodes: a latent sees its last image, as 2 x 2 mean colors."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix, requires_grad=False)  # [C, 12]
        self.channels, self.stride = len(matrix), STRIDE

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, 1 + 8 k, H, W] to latents [B, C, 1 + k, H / 32, W / 32]."""
        last = pixels[:, :, :: STRIDE[0]]
        flat = F.avg_pool2d(last.transpose(1, 2).flatten(0, 1), PATCH)  # [B T, 3, H / 16, W / 16]
        blocks = F.pixel_unshuffle(flat, STRIDE[1] // PATCH)  # [B T, 12, H / 32, W / 32]
        z = (self.matrix @ blocks.flatten(2)).unflatten(2, blocks.shape[2:])
        return z.unflatten(0, (len(pixels), -1)).transpose(1, 2)


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    with safe_open(DATA / "ge_act_tiny.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def part(record: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a record behind a prefix."""
    return {k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix)}


def spec_of(file: str) -> PolicySpec:
    sizes = {"layers": 4, "num_heads": 2, "head_dim": 10, "mlp_dim": 80, "text_width": 12}
    head = {"num_heads": 2, "head_dim": 4, "mlp_dim": 32}
    raw = {
        "backbone": {
            "name": "ltx", "variant": "tiny", "weights": file, **sizes, "fps": 30.0,
            "causal_times": False, "views": 3,
        },
        "vae": {"name": "ltx", "variant": "0.9.1", "width": "tiny"},
        "text_encoder": {"name": "bytes", "max_length": 16},
        "action_head": {
            "name": "reader", "reads": "each", "weights": file, **head,
            "state": "action_token", "positions": "rotary_float32",
        },
        "paradigm": {"name": "joint", "context": "open", "refresh": [0], "context_noise": 0.01},
        "actions": {
            "chunk_size": 5,
            "groups": [
                {"name": "pose", "size": 2, "kind": "delta", "normalization": "quantile"},
                {"name": "gripper", "size": 1, "normalization": "quantile"},
                {"name": "state", "size": 4, "normalization": "quantile"},
            ],
        },
        "state": {"size": 4, "normalization": "quantile"},
        "cameras": {
            "layout": "clip_per_view",
            "views": [{"name": name, "size": [32, 64]} for name in ("image", "wrist_image")],
        },
        "video": {"num_frames": 13, "num_observed": 4, "observed_latents": "images"},
        "schedules": {
            "video": {
                "shift": 1.0, "loss_weighting": "none", "loss_weight": 0.0,
                "timestep_sampling": "pure_noise",
            },
            "action": {
                "shift": 1.0, "loss_weighting": "none", "steps": 10,
                "timestep_sampling": "indexed",
            },
        },
    }  # fmt: skip
    return parse(raw)


@pytest.fixture(scope="module")
def policy(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    file = str(tmp_path_factory.mktemp("weights") / "ge_act.safetensors")
    save_file(part(record, "weights/"), file)
    spec = spec_of(file)
    assert check(spec) == []
    policy = Policy.from_spec(spec)
    policy.text_encoder.load_state_dict(part(record, "text/"))  # type: ignore[attr-defined]
    policy.vae = LinearVAE(record["vae"])
    return policy


@pytest.fixture(scope="module")
def wide(policy: Policy) -> Policy:
    """The policy in float64, in which the outputs were recorded."""
    return to_float64(policy)


def inputs_of(record: dict[str, Tensor], prefix: str = "inputs/") -> ModelInputs:
    """The inputs of a recorded pass."""
    x = part(record, prefix)
    z = x["latents"]  # [B, V, C, T, h, w]
    z = torch.cat([z[:, :, :, :OBSERVED].movedim(1, 2).flatten(2, 3),
                   z[:, :, :, OBSERVED:].movedim(1, 2).flatten(2, 3)], 2)  # fmt: skip
    roles = ("context",) * OBSERVED * VIEWS + ("target",) * FUTURE * VIEWS
    times = (0.0, 1.0, 2.0, 3.0) * VIEWS + (4.0, 5.0) * VIEWS
    views = (0,) * OBSERVED + (1,) * OBSERVED + (0,) * FUTURE + (1,) * FUTURE
    sigma = torch.cat(
        [torch.zeros(2, OBSERVED * VIEWS), x["sigma_video"][:, None].expand(-1, FUTURE * VIEWS)], 1
    )
    return ModelInputs(
        Text(x["text"], x["text_mask"].bool()),
        Frames(z, roles, times, sigma, views=views),
        action=NoisyVectors(x["actions"], x["sigma_action"]),
        state=x["state"][:, 0, ACTION:],
    )


def by_view(z: Tensor) -> Tensor:
    """Latents [B, C, V * T, h, w] in the order of inputs as [B, V, C, T, h, w]."""
    seen = z[:, :, : OBSERVED * VIEWS].unflatten(2, (VIEWS, -1))
    rest = z[:, :, OBSERVED * VIEWS :].unflatten(2, (VIEWS, -1))
    return torch.cat([seen, rest], 3).movedim(2, 1)


@torch.no_grad()
@float64()
def test_the_network_predicts_the_same(wide: Policy, record: dict[str, Tensor]) -> None:
    out = wide.model(inputs_of(to_float64(record)))
    assert out.video is not None
    same_values(by_view(out.video), record["outputs/video"])
    same_values(out.action, record["outputs/action"])


@torch.no_grad()
def test_the_network_in_float32_predicts_the_same(
    policy: Policy, record: dict[str, Tensor]
) -> None:
    out = policy.model(inputs_of(record))
    same_values(out.action, record["outputs/float32_action"], 2e-5)


@float64()
def test_views_attend_to_each_other_in_the_published_layers(
    wide: Policy, record: dict[str, Tensor]
) -> None:
    inputs = inputs_of(to_float64(record))
    assert inputs.video is not None
    stream = embed_video(PassRunner(), wide.backbone, inputs.video, inputs.text).frames
    shape = tuple((s.name, s.length) for s in stream.segments)
    active = (tuple(True for _ in stream.blocks),)
    plan = plan_pass((shape,), active, freeze(wide.paradigm.sees), apart=stream.views_apart)
    place = torch.arange(stream.tokens.shape[1]).view(1, 1, -1, 1, 2)
    order = by_view(place).flatten()
    for layer, step in enumerate(plan):
        mask = torch.zeros(len(order), len(order), dtype=torch.uint8)
        start = 0
        for group in step.queries[0]:
            for piece in step.key_sets[group.key_set].slices:
                keys = slice(piece.start, piece.start + piece.length)
                mask[start : start + group.length, keys] = 1
            start += group.length
        assert torch.equal(mask[order][:, order], record[f"outputs/mask_{layer}"])


def test_noise_levels_of_a_run_are_the_published_ones(
    wide: Policy, record: dict[str, Tensor]
) -> None:
    sampler = wide.schedules["action"].init_sampler(torch.zeros(1, 1, 1))
    levels = torch.tensor(sampler.level.table, dtype=torch.float64)  # type: ignore[union-attr]
    assert float((levels - record["outputs/run_sigmas"]).abs().max()) < 1e-6


@torch.no_grad()
@float64()
def test_a_training_step_has_the_published_loss(wide: Policy, record: dict[str, Tensor]) -> None:
    x = part(to_float64(record), "inputs/train_")
    x |= {"sigma_action": x["sigma"], "sigma_video": x["timesteps"][:, -1]}
    x |= {"actions": x["noisy_action"], "state": record["inputs/state"].double()}
    inputs = inputs_of({f"inputs/{k}": v for k, v in (x | {"clean": x["actions"]}).items()})
    flow, clean = wide.schedules["action"], to_float64(record)["inputs/train_actions"]
    same_values(flow.add(clean, x["noise_action"], x["sigma"]), x["noisy_action"])
    out = wide.model(inputs).action
    same_values(out, record["outputs/train_velocity_action"])
    goal = DenoisingTarget(flow.velocity(clean, x["noise_action"]), flow.weight(x["sigma"]))
    assert out is not None
    loss = vector_loss(out, goal, torch.ones_like(out))
    same_values(loss, record["outputs/train_loss"])


@torch.no_grad()
@float64()
def test_a_run_from_images_gives_the_published_actions(
    wide: Policy, record: dict[str, Tensor]
) -> None:
    record, wide = to_float64(record), to_float64(wide)
    low, high = torch.cat([record["statistics/action"], record["statistics/state"]], 1)
    wide.set_statistics({"action": quantiles(low, high), "state": quantiles(low[3:], high[3:])})
    images = record["inputs/run_images"].repeat_interleave(4, -1).repeat_interleave(4, -2)
    seen = Observation(
        images=dict(zip(("image", "wrist_image"), images, strict=True)),
        prompt="put it there",
        state=record["inputs/run_state"],
    )
    inputs = inference_inputs(wide, seen)
    tape = NoiseTape(torch.Generator())
    video = record["inputs/run_noise_video"].transpose(0, 1).flatten(1, 2)[None]
    tape.entries = [(video, 0), (record["inputs/run_noise_action"], 0)]
    out = wide.paradigm.act(wide.model_with_cfg(inputs), inputs, wide.schedules, tape)
    actions = wide.to_action_chunk(out, seen).values[0, :, :ACTION]
    assert float((actions - record["outputs/run_actions"]).abs().max()) < 1e-6


def quantiles(low: Tensor, high: Tensor) -> Statistics:
    """Statistics whose quantiles scale as the published code does, whose range is 1e-6 wider."""
    high = high + 1e-6
    rows = [low, high, (low + high) / 2, torch.ones_like(low), low, high]
    return Statistics(*(tuple(row.tolist()) for row in rows))
