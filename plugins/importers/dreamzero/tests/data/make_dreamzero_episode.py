"""An episode as DreamZero's own policy runs it, at tiny size, for `make_dreamzero_tiny.py`.

What is the authors' code here, and what is replaced, is said there.
"""

from __future__ import annotations

import types
from typing import Any

import groot.vla.model.dreamzero.transform.dreamzero_cotrain as cotrain
import numpy as np
import torch
import torch.nn.functional as F
from groot.vla.data.schema import DatasetMetadata
from groot.vla.data.transform import (
    ComposedModalityTransform,
    ConcatTransform,
    StateActionToTensor,
    StateActionTransform,
    VideoCrop,
    VideoResize,
    VideoToNumpy,
    VideoToTensor,
)
from groot.vla.model.n1_5.sim_policy import GrootSimPolicy
from make_dreamzero_stubs import CLIP, Batch, dit, fill, head_module, on_cpu
from torch import Tensor, nn
from transformers.feature_extraction_utils import BatchFeature
from wamkit_toy.text_encoder import ByteEncoder
from wamkit_wan.image_encoder import ImageEncoder, Shape
from wamkit_wan.vae import WAN21, WanVAE, tiny

from wamkit.testing.tolerance import to_float64

BLOCKS, FRAMES, STEPS, ACTION, STATE, WIDTH = 3, 2, 4, 12, 10, 24
VIEWS = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")
SIZE = {"h": 12, "w": 18, "height": 16, "width": 16}  # of an image, and resized


class Tokenizer:
    """Bytes as tokens; a prompt begins with 256."""

    vocab_size = 257

    def __call__(self, prompts: list[str], max_length: int, **_: Any) -> Any:
        rows = [[256, *prompt.encode()] for prompt in prompts]
        ids = [row + [0] * (max_length - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (max_length - len(row)) for row in rows]
        return types.SimpleNamespace(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))


class Text(nn.Module):
    """wamkit's encoder of bytes in place of UMT5."""

    text_encoder_pretrained_path = "."

    def __init__(self, encoder: ByteEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        rows = [row[1 : int(n)].tolist() for row, n in zip(ids, mask.sum(1), strict=True)]
        return self.encoder.encode([bytes(row).decode() for row in rows]).tokens

    def load_state_dict(self, *_: Any, **__: Any) -> None: ...  # type: ignore[override]


class Image(nn.Module):
    """wamkit's CLIP tower."""

    image_encoder_pretrained_path = "."

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.model = types.SimpleNamespace(load_state_dict=lambda *_, **__: 0)

    def encode_image(self, images: Tensor) -> Tensor:
        return self.encoder((), images[:, 0])


class Video(nn.Module):
    """wamkit's VAE."""

    vae_pretrained_path, z_dim = ".", 16

    def __init__(self, vae: WanVAE) -> None:
        super().__init__()
        self.vae, self.seen = vae, []
        self.model = types.SimpleNamespace(load_state_dict=lambda *_, **__: 0)

    def encode(self, pixels: Tensor, **_: Any) -> Tensor:
        z = self.vae.encode(pixels)
        self.seen.append(z)
        return z


def policy_head(
    model: dit.CausalWanModel,
    parts: dict[str, Any],
    noise: dict[str, Tensor],
    canvas: int | None,
    slots: int = ACTION,
) -> Any:
    """`WANPolicyHead` around the tiny network, for `slots` values of an action."""
    head_module.instantiate = lambda part: part
    head_module.ensure_file = lambda *_, **__: "."
    torch.load = lambda *_, **__: {}  # type: ignore[assignment]
    config = head_module.WANPolicyHeadConfig(
        tiled=False, tile_size_height=34, tile_size_width=34, tile_stride_height=18,
        tile_stride_width=16, num_frame_per_block=FRAMES, hidden_size=20, lora_rank=4,
        num_frames=1 + 4 * FRAMES * BLOCKS, lora_alpha=4, lora_target_modules="q",
        init_lora_weights="kaiming", train_architecture="full", use_gradient_checkpointing=False,
        input_embedding_dim=WIDTH, action_dim=slots, action_horizon=STEPS,
        num_inference_timesteps=4, noise_beta_alpha=1.5, noise_beta_beta=1.0,
        video_noise_beta_alpha=3.0, video_noise_beta_beta=1.0, high_noise_beta_alpha=3.0,
        tune_projector=True, tune_diffusion_model=True, defer_lora_injection=False,
        skip_component_loading=True, decouple_inference_noise=False, target_video_height=canvas,
        target_video_width=canvas, diffusion_model_cfg=model, text_encoder_cfg=parts["text"],
        image_encoder_cfg=parts["image"], vae_cfg=parts["video"],
    )  # fmt: skip
    head = head_module.WANPolicyHead(config).eval()
    head._device, head.trt_engine = "cpu", None  # as `post_initialize`

    def recorded(shape: tuple[int, ...], **_: Any) -> Tensor:
        found = noise["video"] if len(shape) == 5 else noise["action"]
        assert tuple(found.shape) == tuple(shape), (found.shape, shape)
        return found

    head.generate_noise = recorded
    return head


def statistics() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata of a data set, as `experiment_cfg/metadata.json` holds it."""
    rng = torch.Generator().manual_seed(5)
    tables: dict[str, Any] = {"state": {}, "action": {}}
    plain: dict[str, Tensor] = {}
    modalities: dict[str, Any] = {"state": {}, "action": {}, "video": {}}
    for kind in tables:
        for name, size in (("joint_position", 7), ("gripper_position", 1)):
            mean, std = torch.randn(size, generator=rng), torch.rand(size, generator=rng) + 0.5
            rows = {"q01": mean - 2 * std, "q99": mean + 2 * std, "min": mean - 3 * std}
            rows |= {"max": mean + 3 * std, "mean": mean, "std": std}
            tables[kind][name] = {k: row.tolist() for k, row in rows.items()}
            for k, row in rows.items():
                key = f"{kind}.{k}"
                plain[key] = torch.cat([plain[key], row]) if key in plain else row
            modalities[kind][name] = {
                "absolute": True, "rotation_type": None, "shape": [size], "continuous": True,
            }  # fmt: skip
    for view in VIEWS:
        modalities["video"][view] = {
            "resolution": [SIZE["w"], SIZE["h"]], "channels": 3, "fps": 5.0,
        }  # fmt: skip
    return {
        "statistics": tables, "modalities": modalities, "embodiment_tag": "oxe_droid",
    }, plain  # fmt: skip


def transform(metadata: dict[str, Any]) -> ComposedModalityTransform:
    """`transform_oxe_droid` of the published configuration, in evaluation."""
    video = [f"video.{name}" for name in VIEWS]
    state, action = (
        [f"{kind}.joint_position", f"{kind}.gripper_position"] for kind in ("state", "action")
    )
    cotrain.AutoTokenizer = types.SimpleNamespace(from_pretrained=lambda *_, **__: Tokenizer())
    made = ComposedModalityTransform(
        transforms=[
            VideoToTensor(apply_to=video),
            VideoCrop(apply_to=video, scale=0.95),
            VideoResize(
                apply_to=video, height=SIZE["height"], width=SIZE["width"], interpolation="linear"
            ),
            VideoToNumpy(apply_to=video),
            StateActionToTensor(apply_to=state),
            StateActionTransform(
                apply_to=state, normalization_modes=dict.fromkeys(state, "q99")
            ),
            StateActionToTensor(apply_to=action),
            StateActionTransform(
                apply_to=action, normalization_modes=dict.fromkeys(action, "q99")
            ),
            ConcatTransform(
                video_concat_order=video, state_concat_order=state, action_concat_order=action
            ),
            cotrain.DreamTransform(
                default_instruction="Perform the default behavior.", max_state_dim=STATE,
                max_action_dim=ACTION, max_length=512, state_horizon=1, action_horizon=STEPS,
                embodiment_tag_mapping={"oxe_droid": 17, "agibot": 26, "gr1_unified": 24,
                                        "mecka_hands": 27, "xdof": 22, "yam": 32},
            ),
        ]
    )  # fmt: skip
    made.set_metadata(DatasetMetadata.model_validate(metadata))
    made.eval()
    return made


class Model:
    """What `GrootSimPolicy` calls of the whole model; its backbone is the identity."""

    def __init__(self, head: Any) -> None:
        self.action_head, self.states = head, []

    def lazy_joint_video_action_causal(self, inputs: Any, latent_video: Any = None) -> Any:
        data = BatchFeature(data=inputs)
        self.states.append(data["state"])
        self.images = data["images"]
        self.text = data["text"]
        return self.action_head.lazy_joint_video_action(None, data, latent_video=latent_video)


def episode(
    model: dit.CausalWanModel, encoder: ByteEncoder, canvas: int | None = None
) -> tuple[Any, Any, Any]:
    """Four chunks: from one image, twice from four new ones, and anew from the newest.

    `canvas` is the edge that the canvas is made smaller to, as on Wan 2.2 TI2V-5B.
    """
    edge = (canvas or 32) // 8
    rng, own = (torch.Generator().manual_seed(seed) for seed in (7, 8))
    inputs: dict[str, Tensor] = {
        "noise_video": torch.randn(1, 16, FRAMES, edge, edge, generator=own),
        "noise_action": torch.randn(1, STEPS, ACTION, generator=rng),
        "states": torch.randn(4, 8, generator=rng),
    }
    coarse = torch.rand(3, 13, 3, 6, 8, generator=rng)  # smooth images, stored as they are
    images = F.interpolate(coarse.flatten(0, 1), (SIZE["h"], SIZE["w"]), mode="bicubic")
    images = (images.clamp(0, 1) * 255).byte().unflatten(0, (3, 13))
    inputs["images"] = images
    vae = fill(WanVAE(tiny(WAN21)), 11)
    tower = fill(ImageEncoder(Shape(CLIP, layers=2, heads=2)), 12)
    with on_cpu():
        wide = [to_float64(x) for x in (vae, tower, encoder)]
        parts = {"video": Video(wide[0]), "image": Image(wide[1]), "text": Text(wide[2])}
        noise = to_float64({k: inputs[f"noise_{k}"] for k in ("video", "action")})
        head = policy_head(to_float64(model), parts, noise, canvas)
    metadata, plain = statistics()
    policy = object.__new__(GrootSimPolicy)
    policy.eval_transform, policy.eval_bf16, policy.rank = transform(metadata), True, 0
    policy.train_cfg = {"relative_action": True, "relative_action_keys": ["joint_position"]}
    policy.trained_model = Model(head)
    outputs: dict[str, Tensor] = {}
    looks = [slice(0, 1), slice(1, 5), slice(5, 9), slice(9, 13)]
    network_run = policy.trained_model.lazy_joint_video_action_causal

    def widely(*args: Any, **kwargs: Any) -> Any:
        with on_cpu():
            return network_run(*args, **kwargs)

    policy.trained_model.lazy_joint_video_action_causal = widely
    for k, look in enumerate(looks):
        obs: dict[str, Any] = {
            f"video.{name}": images[i, look].permute(0, 2, 3, 1).numpy()
            for i, name in enumerate(VIEWS)
        }
        state = inputs["states"][k].double().numpy()[None]
        obs |= {"state.joint_position": state[:, :7], "state.gripper_position": state[:, 7:]}
        obs["annotation.language.action_text"] = "Put the Cup on the plate"
        batch, video = policy.lazy_joint_forward_causal(Batch(obs=obs))
        act = [np.asarray(batch.act[f"action.{n}"]) for n in ("joint_position", "gripper_position")]
        act[1] = act[1].reshape(STEPS, 1)
        outputs[f"actions.{k}"] = torch.from_numpy(np.concatenate(act, -1))
        if k == 0:
            outputs["video"] = video[:, :, -FRAMES:]
        if k < 2:
            outputs[f"canvas.{k}"] = torch.as_tensor(policy.trained_model.images)
        text = policy.trained_model.text
        outputs["prompt"] = text[text > 0].to(torch.int16)
    return inputs, outputs, {**plain}


def agibot(images: Tensor) -> dict[str, Tensor]:
    """The canvas and the prompt of AgiBot, of a first image of each view [3, 3, h, w]."""
    metadata, _ = statistics()
    made = transform({**metadata, "embodiment_tag": "agibot"})
    obs: dict[str, Any] = {
        f"video.{name}": image.permute(1, 2, 0).numpy()[None, None]
        for name, image in zip(VIEWS, images, strict=True)
    }
    state = np.zeros((1, 1, 8))
    obs |= {"state.joint_position": state[..., :7], "state.gripper_position": state[..., 7:]}
    obs["annotation.language.action_text"] = np.array(["Put the Cup on the plate"])
    done = made(obs)
    text = done["text"]
    return {"canvas": torch.as_tensor(done["images"]), "prompt": text[text > 0].to(torch.int16)}
