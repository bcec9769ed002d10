"""DreamZero's own code and wamkit's composition of parts compute the same, from the same weights.

`data/dreamzero_tiny.safetensors` was recorded from the published code by
`data/make_dreamzero_tiny.py`, which says what in it is the authors' code. The policy is imported
from a checkpoint in the published layout (`conftest.py`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import wamkit_autoregressive.paradigm as autoregressive
from torch import Tensor
from wamkit_dreamzero import DreamZero
from wamkit_dreamzero.specs import PROMPTS, cameras

import wamkit.interfaces.paradigm as interface
from wamkit.config.cameras import CameraConfig
from wamkit.config.prompts import fill_template
from wamkit.engine.noise_schedule import NoiseSchedule
from wamkit.engine.passes import PassRunner
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import Frames, ModelInputs, NoisyVectors, Text
from wamkit.policy.cameras import CameraLayout
from wamkit.policy.losses import vector_loss, video_loss
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.testing.parity import float64, same_values, to_float64

BLOCKS, STEPS, VALUES = 3, 4, 8
VERIFIED = DreamZero.verified


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
    same_values(video, record[f"trained/{name}/video"], VERIFIED["network"], scale=1.0)
    same_values(out.action, record[f"trained/{name}/action"], VERIFIED["network"], scale=1.0)


@float64()
def test_losses_and_training_levels_are_the_published_ones(
    policy: Policy, record: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, record = to_float64(policy), to_float64(record)
    inputs, goals = noised(wide, record, monkeypatch, guided=True)
    assert inputs.video is not None and inputs.action is not None
    same_values(
        1000 * inputs.action.sigma,
        record["trained/timesteps_action"],
        VERIFIED["levels"],
        scale=1.0,
    )
    sigma = inputs.video.sigma[:, [*range(1, 1 + 2 * BLOCKS)]]
    same_values(1000 * sigma, record["trained/timesteps"][:, 1:], VERIFIED["levels"], scale=1.0)
    with torch.no_grad():
        out = wide.model(inputs)
    assert out.video is not None and out.action is not None
    real = wide.action_head.to_latent("action", torch.ones(1, BLOCKS * STEPS, VALUES))
    action = vector_loss(out.action, goals["action"], real)
    same_values(
        video_loss(out.video, goals["video"], None),
        record["trained/loss_video"],
        VERIFIED["loss"],
        scale=1.0,
    )
    weight = wide.schedules["action"].config.loss_weight
    same_values(weight * action, record["trained/loss_action"], VERIFIED["loss"], scale=1.0)


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
    config = policy.spec.schedules.video.model_copy(
        update={"steps": steps, "evaluate_steps": "all"}
    )
    run = NoiseSchedule(config).init_sampler(torch.zeros(1))
    same_values(
        torch.tensor(run.nodes),
        record[f"levels/{steps}/sigmas"].float(),
        VERIFIED["levels"],
        scale=1.0,
    )
    announced = []
    while not run.done:
        announced.append(round(1000 * run.sigma))
        run.step(torch.zeros(1))
    assert announced == record[f"levels/{steps}/timesteps"].tolist()


def observed(record: dict[str, Tensor], chunk: int, images: slice) -> Observation:
    left, right, wrist = record["run/images"][:, images]
    return Observation(
        {
            "exterior_image_1_left": left[None],
            "exterior_image_2_left": right[None],
            "wrist_image_left": wrist[None],
        },
        "Put the Cup on the plate",
        record["run/states"][chunk : chunk + 1],
    )


@pytest.mark.parametrize(("name", "start"), [("14b", ""), ("5b", "5b/")])
def test_an_episode_acts_as_the_published_policy(
    name: str,
    start: str,
    policy: Policy,
    unguided: Policy,
    record: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video = record["run/noise_video" if name == "14b" else "run/noise_video_5b"]
    noise = {5: video, 3: record["run/noise_action"]}
    policy = policy if name == "14b" else unguided
    monkeypatch.setattr(interface, "draw_noise", lambda shape, *_, **__: noise[len(shape)])
    session = policy.session()
    for chunk, images in enumerate((slice(0, 1), slice(1, 5), slice(5, 9), slice(9, 13))):
        observation = observed(record, chunk, images)
        if chunk < 2 and name == "14b":
            canvas = policy.cameras.canvas(observation.images)[0].permute(1, 2, 3, 0)
            same_values((canvas + 1) * 127.5, record[f"ran/canvas.{chunk}"][0].float(), 1e-6)
        assert session.num_images == images.stop - images.start if chunk else 1
        values = session.act(observation).values[0]
        same_values(values, record[f"ran/{start}actions.{chunk}"], VERIFIED["run"], scale=1.0)


def test_canvas_and_prompt_of_agibot_are_the_published_ones(record: dict[str, Tensor]) -> None:
    layout = CameraConfig(**cameras("agibot", (16, 16), 1))
    head, left, right = record["run/images"][:, :1, None].unbind()
    images = {"top_head": head, "hand_left": left, "hand_right": right}
    canvas = CameraLayout(layout).canvas(images)[0].permute(1, 2, 3, 0)
    same_values((canvas + 1) * 127.5, record["agibot/canvas"][0].float(), 1e-6)
    prompt = fill_template(PROMPTS["agibot"], "Put the Cup on the plate")
    assert [256, *prompt.encode()] == record["agibot/prompt"].tolist()
