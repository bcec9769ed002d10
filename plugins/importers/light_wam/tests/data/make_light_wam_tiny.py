"""Record what Light-WAM's own code computes at tiny size, for `test_light_wam.py`.

Run it inside a checkout of https://github.com/L1ziang/Light-WAM (commit b2785f6) as
`PYTHONPATH=src:. python make_light_wam_tiny.py OUT.safetensors`, with its requirements and wamkit.
The file holds the weights under the names of a released checkpoint, its statistics, one training
batch and one observation, drawn in float32; what the training step makes of the batch, computed in
float64 on a CPU; and the actions of a whole run as in `experiments/libero`, computed in float32.
The VAE and the text encoder are wamkit's own tiny ones with random weights. The simulator `libero`
is not needed and replaced by empty modules.
"""

# ruff: noqa: E402

from __future__ import annotations

import sys
import types
from typing import Any
from unittest.mock import patch

for name in ("libero", "libero.libero", "libero.libero.envs"):
    sys.modules[name] = types.ModuleType(name)
for name in ("get_libero_path", "benchmark"):
    setattr(sys.modules["libero.libero"], name, None)
for name in ("OffScreenRenderEnv", "SubprocVectorEnv"):
    setattr(sys.modules["libero.libero.envs"], name, None)

import torch
from experiments.libero import eval_libero_single as evaluation
from lightwam.datasets.lerobot.processors.lightwam_processor import LightWAMProcessor
from lightwam.datasets.lerobot.transforms.action_state_merger import ConcatLeftAlign
from lightwam.datasets.lerobot.transforms.image import ToTensor
from lightwam.models.wan22.lightwam import DisabledActionExpert, LightWAM
from lightwam.models.wan22.mot import MoT
from lightwam.models.wan22.state_fusion_action_expert import StateFusionActionExpert
from lightwam.models.wan22.wan_video_dit import WanVideoDiT
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms import Resize

from wamkit.config.spec import parse
from wamkit.policy.policy import Policy
from wamkit.testing.tolerance import float64, to_float64

HEADS, HEAD, TEXT, LAYERS, ACTION, STATE, CHUNK = 2, 12, 16, 3, 4, 3, 8
TASK = "put the cup away"
SPEC = {
    "backbone": {
        "name": "wan", "variant": "tiny", "layers": LAYERS, "num_heads": HEADS, "head_dim": HEAD,
        "mlp_dim": 24, "text_width": TEXT,
    },
    "vae": {"name": "wan2.1", "width": "tiny"},
    "text_encoder": {"name": "bytes", "max_length": 128},
    "action_head": {"name": "state_fusion", "layers": [0, 2], "num_heads": 2},
    "paradigm": "single_pass",
    "actions": {"chunk_size": CHUNK, "groups": [{"name": "arm", "size": ACTION}]},
    "state": {"size": STATE},
    "cameras": {"views": [{"name": "image", "size": [32, 32]}]},
}  # fmt: skip


class VAE:
    """wamkit's VAE with the interface that Light-WAM calls."""

    temporal_downsample_factor = 4

    def __init__(self, vae: Any) -> None:
        self.vae, self.model, self.dtype = vae, types.SimpleNamespace(z_dim=16), torch.float32

    def encode(self, videos: Any, **_: Any) -> Tensor:
        clip = torch.stack(videos) if isinstance(videos, list) else videos
        return self.vae.encode(clip.float()).to(clip.dtype)

    def to(self, *_: Any, **__: Any) -> VAE:
        return self


def build(vae: VAE) -> LightWAM:
    torch.manual_seed(0)
    video = WanVideoDiT(
        hidden_dim=HEADS * HEAD, in_dim=16, out_dim=16, ffn_dim=24, patch_size=(1, 2, 2),
        has_image_input=False, seperated_timestep=True, fuse_vae_embedding_in_latents=True,
        video_attention_mask_mode="first_frame_causal", num_heads=HEADS, attn_head_dim=HEAD,
        num_layers=LAYERS, text_dim=TEXT, freq_dim=256, eps=1e-6, use_wam_adapter=True,
        adapter_layer_indices=[0, 2], adapter_dim=6, use_backbone_lora=True,
        lora_layer_indices=[0, 1, 2], lora_rank=2, lora_alpha=4.0,
        lora_target_modules=[
            *(f"{kind}_attn.{x}" for kind in ("self", "cross") for x in "qkvo"), "ffn.0", "ffn.2"
        ],
    )  # fmt: skip
    head = StateFusionActionExpert(
        video_hidden_dim=HEADS * HEAD, action_dim=ACTION, num_fusion_layers=2, per_layer_dim=12,
        trunk_dim=16, token_pooling_type="learned_query", token_pooling_num_queries=3,
        token_pooling_num_heads=2, step_pos_dim=256, feature_sources=["adapted"],
    )  # fmt: skip
    model = LightWAM(
        video_expert=video, action_expert=DisabledActionExpert(ACTION),
        mot=MoT({"video": video}, mot_checkpoint_mixed_attn=False), vae=vae, text_dim=TEXT,
        proprio_dim=STATE, video_backbone_type="wan2_1_t2v",
        video_latent_spatial_downsample_factor=2, action_temporal_weighting_enabled=True,
        action_temporal_weighting_num_prefix_steps=3, action_temporal_weighting_tail_weight=0.0,
        use_wam_adapter=True, remove_original_action_expert=True, state_fusion_action_expert=head,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            scale = 0.3 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.add_(torch.randn(p.shape, generator=rng) * scale)
    return model.eval()


@torch.no_grad()
@float64()
def training_step(model: LightWAM, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the training step of the published code makes of the inputs, in float64."""
    model.torch_dtype = torch.float64
    kept: dict[str, Any] = {}

    def keep(name: str, of: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            kept[name] = of(*args, **kwargs)
            return kept[name]

        return call

    sample = {
        "video_latents": inputs["latents"], "context": inputs["text"],
        "context_mask": torch.ones(inputs["text"].shape[:2], dtype=torch.bool),
        "proprio": inputs["proprio"][:, None], "action": inputs["actions"],
        "action_is_pad": inputs["action_is_pad"].bool(),
        "image_is_pad": inputs["image_is_pad"].bool(),
    }  # fmt: skip
    predict, act = model._predict_video_only, model._predict_state_fusion_action_from_observation
    masks = model.video_expert.build_video_to_video_mask
    with (
        patch.object(model, "_predict_video_only", keep("video", predict)),
        patch.object(model, "_predict_state_fusion_action_from_observation", keep("action", act)),
        patch.object(model.video_expert, "build_video_to_video_mask", keep("mask", masks)),
        patch.object(
            model.train_video_scheduler, "sample_training_t", lambda **_: inputs["timestep_video"]
        ),
        patch.object(torch, "randn_like", lambda _: inputs["noise_video"]),
    ):
        total, losses = model.training_loss(sample)
        mask = masks(video_seq_len=3 * 2, video_tokens_per_frame=2, device=torch.device("cpu"))
    found = {"velocity_video": kept["video"], "action": kept["action"], "mask": mask.byte()}
    found |= {k: torch.tensor(v) for k, v in losses.items() if k in ("loss_video", "loss_action")}
    return found | {"loss": total}


STATISTICS = {
    "action": {
        "min": [-0.4, -0.02, 0.1, 0.0], "max": [0.6, 0.03, 0.10005, 1.0],
        "mean": [0.05, 0.002, 0.10002, 0.4], "std": [0.2, 0.008, 0.00001, 0.5],
        "q01": [-0.3, -0.018, 0.1, 0.0], "q99": [0.5, 0.027, 0.10005, 1.0],
    },
    "state": {
        "min": [-0.7, 0.4, -1e-5], "max": [0.1, 1.9, 2e-5], "mean": [-0.2, 1.0, 0.0],
        "std": [0.1, 0.3, 1e-5], "q01": [-0.6, 0.5, -1e-5], "q99": [0.0, 1.8, 2e-5],
    },
}  # fmt: skip
"""One action varies by 5e-5 and one state by 3e-5, which their normalizer takes for constant."""


def whole_run(model: LightWAM, policy: Policy) -> dict[str, Tensor]:
    """Actions from images, state and instruction, by the code of the LIBERO evaluation."""
    rng = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (2, 48, 40, 3), generator=rng, dtype=torch.uint8)
    state = torch.tensor([-0.25, 1.2, 1.5e-5])
    shapes = {
        "images": [
            {"key": key, "raw_shape": [3, 48, 40], "shape": [3, 32, 32]}
            for key in ("image", "wrist_image")
        ],
        "action": [{"key": "default", "raw_shape": ACTION, "shape": ACTION}],
        "state": [{"key": "default", "raw_shape": STATE, "shape": STATE}],
    }
    transforms = [ToTensor(), Resize([32, 32])]
    processor = LightWAMProcessor(
        shape_meta=shapes, num_obs_steps=9, num_output_cameras=2, action_output_dim=ACTION,
        proprio_output_dim=STATE, action_state_transforms=None, use_stepwise_action_norm=False,
        norm_default_mode="min/max", norm_exception_mode=None, train_transforms=transforms,
        val_transforms=transforms, action_state_merger=ConcatLeftAlign(),
    ).eval()  # fmt: skip
    processor.set_normalizer_from_stats(
        {
            kind: {"default": {f"global_{row}": torch.tensor(v) for row, v in rows.items()}}
            for kind, rows in STATISTICS.items()
        }
    )
    config = OmegaConf.create(
        {"data": {"train": {"concat_multi_camera": "horizontal"}}, "EVALUATION": {}}
    )
    obs = {"agentview_image": images[0].numpy(), "robot0_eye_in_hand_image": images[1].numpy()}
    kept: dict[str, Tensor] = {}

    def encode_prompt(prompt: str) -> tuple[Tensor, Tensor]:
        tokens = policy.text_embeddings.encode((TASK,), prompt.replace(TASK, "{instruction}"))
        kept["context"] = tokens.tokens
        return tokens.tokens, tokens.valid

    def denormalize(action: Tensor, processor: Any) -> Any:
        found = normal(action, processor)
        kept["normalized"], kept["action"] = action, torch.tensor(found[0])
        return found

    def encode(video: Any, **_: Any) -> Tensor:
        kept["canvas"] = video[0]
        kept["latents"] = encode_with(video)
        return kept["latents"]

    normal, encode_with = evaluation._denormalize_action, model.vae.encode
    model.torch_dtype, model.encode_prompt = torch.float32, encode_prompt
    with (
        patch.object(evaluation, "_extract_sim_state", lambda _: state.numpy()),
        patch.object(evaluation, "_denormalize_action", denormalize),
        patch.object(model.vae, "encode", encode),
    ):
        evaluation._predict_action_chunk(
            obs, TASK, model, processor, config, action_horizon=CHUNK, input_w=64, input_h=32,
            model_device="cpu",
        )  # fmt: skip
    return {
        **{f"run/{k}": v.float() for k, v in kept.items()},
        "run/images": images.flip(1, 2),  # the cameras as the policy sees them
        "run/state": state,
    }


def main(out: str) -> None:
    policy = Policy.from_spec(parse(SPEC))
    model = build(VAE(policy.vae))
    rng = torch.Generator().manual_seed(1)
    inputs = {
        "latents": torch.randn(2, 16, 3, 4, 8, generator=rng),
        "noise_video": torch.randn(2, 16, 3, 2, 4, generator=rng),
        "actions": torch.randn(2, CHUNK, ACTION, generator=rng),
        "timestep_video": torch.tensor([951.0, 312.5]),
        "text": torch.randn(2, 5, TEXT, generator=rng),
        "proprio": torch.randn(2, STATE, generator=rng),
        "action_is_pad": torch.tensor([[0] * 8, [0, 0, 1, 1, 1, 1, 1, 1]], dtype=torch.uint8),
        "image_is_pad": torch.tensor([[0] * 9, [0] * 5 + [1] * 4], dtype=torch.uint8),
    }
    run = whole_run(model, policy)
    state = {f"weights/mot.{k}": v.float() for k, v in model.mot.state_dict().items()}
    for name in ("state_fusion_action_expert", "proprio_encoder"):
        held = getattr(model, name).state_dict()
        state |= {f"weights/{name}.{k}": v.float() for k, v in held.items()}
    torch.manual_seed(7)
    flow = model.train_video_scheduler
    times = flow.sample_training_t(batch_size=32, device="cpu", dtype=torch.float32)
    state |= {"levels/timesteps": times, "levels/weights": flow.training_weight(times)}
    wide = to_float64((model, inputs))
    state |= {f"inputs/{k}": v for k, v in inputs.items()}
    state |= {f"outputs/{k}": v for k, v in training_step(*wide).items()} | run
    state |= {
        f"statistics/{kind}/{row}": torch.tensor(values, dtype=torch.float64)
        for kind, rows in STATISTICS.items()
        for row, values in rows.items()
    }
    save_file({k: v.contiguous().clone() for k, v in state.items()}, out)


if __name__ == "__main__":
    main(sys.argv[1])
