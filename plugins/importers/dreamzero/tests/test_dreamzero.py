"""DreamZero's own code and wamkit's composition of parts compute the same, from the same weights.

`data/dreamzero_tiny.safetensors` was recorded from the published code by
`data/make_dreamzero_tiny.py`, which says what in it is the authors' code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import wamkit_autoregressive.paradigm as autoregressive
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from wamkit_wan.image_encoder import ImageEncoder, Shape

import wamkit.interfaces.paradigm as interface
from wamkit.checkpoints.safetensors import load
from wamkit.config.spec import parse
from wamkit.engine.noise_schedule import NoiseSchedule
from wamkit.engine.passes import PassRunner
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import Frames, ModelInputs, NoisyVectors, Text
from wamkit.policy.actions import Statistics
from wamkit.policy.losses import vector_loss, video_loss
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.testing.parity import float64, same_values, to_float64

DATA = Path(__file__).parent / "data"
BLOCKS, STEPS, VALUES = 3, 4, 8
ROWS = ("min", "max", "mean", "std", "q01", "q99")
TEMPLATE = (
    "A multi-view video shows that a robot {instruction} The video is split into three views: The "
    "top view shows the camera view from the robot's wrist, the bottom-left view shows the camera "
    "view from the left exterior camera, and the bottom-right view shows the camera view from the "
    "right exterior camera. During training, one of the two bottom exterior views may be a black "
    "screen (dropped view). The robot {instruction}"
)
NEGATIVE = (
    "Vibrant colors, overexposed, static, blurry details, text, subtitles, style, artwork, "
    "painting, image, still, grayscale, dull, worst quality, low quality, JPEG artifacts, ugly, "
    "mutilated, extra fingers, bad hands, bad face, deformed, disfigured, mutated limbs, fused "
    "fingers, stagnant image, cluttered background, three legs, many people in the background, "
    "walking backwards."
)
STEPS_OF_IMAGES = {"center_share": 0.95, "rounding": "floor"}
SCHEDULE = {
    "shift": 5.0,
    "timestep_sampling": "indexed",
    "solver": "unipc",
    "steps": 16,
    "grid_start": 0.999,
    "whole_timesteps": True,
    "evaluate_steps": [0, 1, 2, 6, 10, 13, 14, 15],
}


def table(weights: str, guided: bool) -> dict[str, Any]:
    """The spec at tiny size; unguided, it is that on Wan 2.2 TI2V-5B."""
    sizes = {"layers": 2, "num_heads": 2, "head_dim": 12, "mlp_dim": 32, "text_width": 16}
    return {
        "backbone": {
            "name": "wan",
            "variant": "tiny",
            "cond_channels": 20 if guided else 0,
            "cond_embeds_width": 16,
            **sizes,
        },
        "vae": {"name": "wan2.1", "width": "tiny"},
        "text_encoder": {
            "name": "bytes",
            "max_length": 511,
            "prompt_template": TEMPLATE,
            "negative_prompt": NEGATIVE,
        },
        "action_head": {
            "name": "shared_stream",
            "weights": weights,
            "positions": "line",
            "sine_first": True,
            "hidden_width": 20,
            "way_out": "none",
            "action_slots": 12,
            "state_slots": 10,
        },
        "paradigm": {
            "name": "autoregressive",
            "chunks": BLOCKS,
            "action": "mutual",
            "context_noise_prob": 0.0,
            "state": "block",
            "state_sees": "block_in_use",
            "state_level": "action",
            "guides": "sample",
            "denoise_first": True,
        },
        "actions": {
            "chunk_size": STEPS,
            "clip": 1.0,
            "groups": [
                {"name": "joints", "size": 7, "kind": "relative", "state": 0},
                {"name": "gripper", "size": 1},
            ],
        },
        "state": {"size": VALUES, "normalization": "quantile", "clip": 1.0},
        "cameras": {
            "layout": "t_shape",
            "views": [
                {"name": "wrist", "size": [16, 32], "repeat_columns": 2, **STEPS_OF_IMAGES},
                {"name": "left", "size": [16, 16], **STEPS_OF_IMAGES},
                {"name": "right", "size": [16, 16], **STEPS_OF_IMAGES},
            ],
        },
        "video": {"num_frames": 9, "new_images": 4, "new_clip": "apart"},
        "schedules": {
            "video": {**SCHEDULE, "guidance_scale": 5.0},
            "action": {**SCHEDULE, "shared_sigma": True, "loss_weight": VALUES / 12},
        },
    }


def fill(module: nn.Module, seed: int) -> nn.Module:
    """Weights that follow from a seed alone, as in the script."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            spread = 1 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.copy_((p.ndim == 1) * 0.5 + torch.randn(p.shape, generator=rng) * spread)
    return module.eval()


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    with safe_open(DATA / "dreamzero_tiny.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def built(record: dict[str, Tensor], folder: Path, *, guided: bool = True) -> Policy:
    """The composition, its weights read from one file laid out as DreamZero's checkpoint."""
    start, file = "weights/", str(folder / "model.safetensors")
    state = {k.removeprefix(start): v for k, v in record.items() if k.startswith(start)}
    if not guided:
        name = "action_head.model.patch_embedding.weight"
        state[name] = state[name][:, :16].contiguous()
    for other in ("text_encoder", "image_encoder", "vae"):
        state[f"action_head.{other}.model.weight"] = torch.ones(3)
    save_file(state, file)
    weights = f"{file}#action_head.model"
    raw = table(weights, guided)
    for group in raw["actions"]["groups"]:
        group["normalization"] = "quantile"
    policy = Policy.from_spec(
        parse(raw),
        statistics={
            kind: Statistics(*(tuple(record[f"statistics/{kind}.{row}"].tolist()) for row in ROWS))
            for kind in ("action", "state")
        },
    )
    load(policy.backbone, weights, layouts=policy.spec.backbone.layouts())
    fill(policy.vae, 11)  # type: ignore[arg-type]
    fill(policy.text_encoder, 13)  # type: ignore[arg-type]
    policy.conditioner = fill(ImageEncoder(Shape(16, layers=2, heads=2)), 12)  # type: ignore[assignment]
    encode = policy.text_encoder.encode  # padding is zeros, and attended, as with UMT5
    policy.text_encoder.encode = lambda prompts: Text(encode(prompts).tokens)  # type: ignore
    return policy


@pytest.fixture(scope="module")
def policy(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    return built(record, tmp_path_factory.mktemp("guided"))


@pytest.fixture(scope="module")
def unguided(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    return built(record, tmp_path_factory.mktemp("unguided"), guided=False)


def clean(record: dict[str, Tensor], guided: bool) -> ModelInputs:
    """The recorded sample before noise is added."""
    latents = record["train/latents"]
    frames = latents.shape[2]
    roles = ("context",) + ("target",) * (frames - 1)
    guide = record["train/guide"] if guided else None
    times = tuple(float(i) for i in range(frames))
    levels = torch.zeros(1, frames)
    return ModelInputs(
        Text(record["train/text"], cond_embeds=record["train/clip"]),
        Frames(latents, roles, times, levels, guide),
        NoisyVectors(record["train/actions"], torch.zeros(1)),
        state=record["train/states"][..., :VALUES],
    )


def noised(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, guided: bool
) -> tuple[ModelInputs, Any]:
    """The sample at the recorded levels with the recorded noise, and its targets."""
    noise = record["train/noise_video"]
    copies = torch.zeros_like(noise[:, :, 1:-2])  # clean ones get noise of level 0
    drawn = [noise[:, :, 1:], record["train/noise_action"], copies, noise[:, :, :1]]
    index = record["train/index"]
    levels = [index[:, 1:], index[:, :1]]

    def sample(flow: NoiseSchedule, shape: Any, like: Tensor, rng: Any) -> Tensor:
        chosen, u = levels.pop(0), torch.linspace(1, 0, 1001)[:-1]
        assert tuple(chosen.shape) == tuple(shape)
        return (flow.shift * u / (1 + (flow.shift - 1) * u))[chosen]

    monkeypatch.setattr(autoregressive, "draw_noise", lambda *_, **__: drawn.pop(0))
    monkeypatch.setattr(NoiseSchedule, "sample", sample)
    inputs = policy.action_head.prepare(clean(record, guided))
    return policy.paradigm.add_noise(inputs, policy.schedules, torch.Generator())


@pytest.mark.parametrize("name", ["14b", "5b"])
@float64()
def test_the_training_pass_predicts_the_same(
    name: str,
    record: dict[str, Tensor],
    policy: Policy,
    unguided: Policy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = to_float64(policy if name == "14b" else unguided)
    inputs, _ = noised(wide, to_float64(record), monkeypatch, guided=name == "14b")
    with torch.no_grad():
        out = wide.model(inputs)
    assert out.video is not None
    video = torch.cat([out.video[:, :, -1:], out.video[:, :, 1 : 1 + 2 * BLOCKS]], 2)
    same_values(video, record[f"trained/{name}/video"], 1e-11)
    same_values(out.action, record[f"trained/{name}/action"], 1e-11)


@float64()
def test_losses_and_training_levels_are_the_published_ones(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, record = to_float64(policy), to_float64(record)
    inputs, goals = noised(wide, record, monkeypatch, guided=True)
    assert inputs.video is not None and inputs.action is not None
    same_values(1000 * inputs.action.sigma, record["trained/timesteps_action"], 1e-6)
    sigma = inputs.video.sigma[:, [*range(1, 1 + 2 * BLOCKS)]]
    same_values(1000 * sigma, record["trained/timesteps"][:, 1:], 1e-6)
    with torch.no_grad():
        out = wide.model(inputs)
    assert out.video is not None and out.action is not None
    real = wide.action_head.to_latent("action", torch.ones(1, BLOCKS * STEPS, VALUES))
    action = vector_loss(out.action, goals["action"], real)
    same_values(video_loss(out.video, goals["video"], None), record["trained/loss_video"], 1e-6)
    weight = wide.schedules["action"].config.loss_weight
    same_values(weight * action, record["trained/loss_action"], 1e-6)


@float64()
def test_visibility_is_the_mask_of_the_published_training_pass(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = to_float64(policy)
    inputs, _ = noised(policy, to_float64(record), monkeypatch, guided=True)
    head: Any = policy.action_head
    assert inputs.video is not None
    one = embed_video(PassRunner(), policy.backbone, inputs.video, inputs.text).frames
    tokens = [s.role for s in one.segments for _ in range(s.length // 4)]  # one a frame
    first, noisy, seen = tokens[:1], tokens[1 : 1 + 2 * BLOCKS], tokens[1 + 2 * BLOCKS : -1]
    seen += ["seen.2"] * 2  # which nobody else sees, so that no pass has it
    own = [role for group in head.token_groups(inputs, ()) for role in group.roles]
    states = [role for role in own if role.startswith("state")]
    actions = [role for role in own if role.startswith("action")]
    roles = [*first, *seen, tokens[-1], *noisy, *actions, *states]
    sees: Any = policy.paradigm.sees
    mask = torch.tensor([[key in sees[query] for key in roles] for query in roles])
    assert torch.equal(mask, record["mask/train"].bool())


@pytest.mark.parametrize("steps", [4, 16])
def test_levels_are_those_of_the_published_sampler(
    policy: Policy, record: dict[str, Tensor], steps: int
) -> None:
    config = policy.spec.schedules.video.model_copy(update={"steps": steps, "evaluate_steps": None})
    run = NoiseSchedule(config).init_sampler(torch.zeros(1))
    same_values(torch.tensor(run.nodes), record[f"levels/{steps}/sigmas"].float(), 1e-7)
    announced = []
    while not run.done:
        announced.append(round(1000 * run.sigma))
        run.step(torch.zeros(1))
    assert announced == record[f"levels/{steps}/timesteps"].tolist()


def observed(record: dict[str, Tensor], chunk: int, images: slice) -> Observation:
    left, right, wrist = record["run/images"][:, images]
    return Observation(
        {
            "left": left[None],
            "right": right[None],
            "wrist": wrist[None],
        },
        "put the cup on the plate",
        record["run/states"][chunk : chunk + 1],
    )


def test_an_episode_acts_as_the_published_policy(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = {5: record["run/noise_video"], 3: record["run/noise_action"]}
    monkeypatch.setattr(interface, "draw_noise", lambda shape, *_, **__: noise[len(shape)])
    session = policy.session()
    for chunk, images in enumerate((slice(0, 1), slice(1, 5), slice(5, 9), slice(9, 13))):
        observation = observed(record, chunk, images)
        if chunk < 2:
            canvas = policy.cameras.canvas(observation.images)[0].permute(1, 2, 3, 0)
            same_values((canvas + 1) * 127.5, record[f"ran/canvas.{chunk}"][0].float(), 1e-6)
        assert session.num_images == images.stop - images.start if chunk else 1
        values = session.act(observation).values[0]
        same_values(values, record[f"ran/actions.{chunk}"], 1e-5)
