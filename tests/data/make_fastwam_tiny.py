"""Record what Fast-WAM's own code computes at tiny size, for `test_fastwam.py`.

Run it inside a checkout of https://github.com/yuantianyuan01/FastWAM (commit 45d8e14) as
`PYTHONPATH=src python make_fastwam_tiny.py OUT.safetensors`, with torch, einops and wamkit. The
file holds the weights under the names of a released checkpoint and one training sample, drawn in
float32, and what the training pass predicts for it, computed in float64 on a CPU.
"""

from __future__ import annotations

import sys

import torch
from fastwam.models.wan22.action_dit import ActionDiT
from fastwam.models.wan22.mot import MoT
from fastwam.models.wan22.schedulers.scheduler_continuous import WanContinuousFlowMatchScheduler
from fastwam.models.wan22.wan_video_dit import WanVideoDiT
from safetensors.torch import save_file

from wamkit.testing.tolerance import float64, to_float64

HEADS, HEAD, TEXT, LAYERS = 2, 12, 16, 2


def build() -> tuple[MoT, torch.nn.Linear]:
    torch.manual_seed(0)
    shared = {"num_heads": HEADS, "attn_head_dim": HEAD, "num_layers": LAYERS, "text_dim": TEXT}
    shared |= {"freq_dim": 256, "eps": 1e-6}
    video = WanVideoDiT(
        hidden_dim=HEADS * HEAD, in_dim=16, out_dim=16, ffn_dim=32, patch_size=(1, 2, 2),
        has_image_input=False, seperated_timestep=True, fuse_vae_embedding_in_latents=True,
        video_attention_mask_mode="first_frame_causal", **shared,
    )  # fmt: skip
    action = ActionDiT(action_dim=4, hidden_dim=20, ffn_dim=24, **shared)
    mot = MoT({"video": video, "action": action}, mot_checkpoint_mixed_attn=False)
    proprio = torch.nn.Linear(3, TEXT)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in [*mot.parameters(), *proprio.parameters()]:
            scale = 0.3 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.add_(torch.randn(p.shape, generator=rng) * scale)
    return mot.eval(), proprio


@torch.no_grad()
@float64()
def computed(
    mot: MoT, proprio: torch.nn.Linear, inputs: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What the published code makes of the inputs, in float64."""
    video, action = mot.mixtures["video"], mot.mixtures["action"]
    flow = WanContinuousFlowMatchScheduler(shift=5.0)
    latents = flow.add_noise(inputs["latents"], inputs["noise_video"], inputs["timestep_video"])
    latents[:, :, :1] = inputs["latents"][:, :, :1]
    noisy = flow.add_noise(inputs["actions"], inputs["noise_action"], inputs["timestep_action"])
    context = torch.cat([inputs["text"], proprio(inputs["proprio"])[:, None]], 1)
    mask = torch.ones(context.shape[:2], dtype=torch.bool)
    seen = {"context": context, "context_mask": mask}
    pre_v = video.pre_dit(
        latents, inputs["timestep_video"], fuse_vae_embedding_in_latents=True, **seen
    )
    pre_a = action.pre_dit(noisy, inputs["timestep_action"], **seen)
    n, total = pre_v["tokens"].shape[1], pre_v["tokens"].shape[1] + pre_a["tokens"].shape[1]
    first = int(pre_v["meta"]["tokens_per_frame"])
    allowed = torch.zeros(total, total, dtype=torch.bool)
    allowed[:n, :n] = video.build_video_to_video_mask(
        video_seq_len=n, video_tokens_per_frame=first, device=allowed.device
    )
    allowed[n:, n:] = True
    allowed[n:, :first] = True
    pre = {"video": pre_v, "action": pre_a}
    out_tokens = mot(
        embeds_all={k: p["tokens"] for k, p in pre.items()},
        attention_mask=allowed,
        freqs_all={k: p["freqs"] for k, p in pre.items()},
        context_all={
            k: {"context": p["context"], "mask": p["context_mask"]} for k, p in pre.items()
        },
        t_mod_all={k: p["t_mod"] for k, p in pre.items()},
    )
    velocity_v = video.post_dit(out_tokens["video"], pre_v)
    velocity_a = action.post_dit(out_tokens["action"], pre_a)
    error_v = (velocity_v - (inputs["noise_video"] - inputs["latents"])).square()[:, :, 1:]
    error_a = (velocity_a - (inputs["noise_action"] - inputs["actions"])).square()
    weight_v = flow.training_weight(inputs["timestep_video"])
    weight_a = flow.training_weight(inputs["timestep_action"])
    return {
        "mask": allowed.to(torch.uint8),
        "velocity_video": velocity_v,
        "velocity_action": velocity_a,
        "loss_video": (error_v.mean((1, 2, 3, 4)) * weight_v).mean(),
        "loss_action": (error_a.mean((1, 2)) * weight_a).mean(),
    }


def main(out: str) -> None:
    mot, proprio = build()
    rng = torch.Generator().manual_seed(1)
    inputs = {
        "latents": torch.randn(2, 16, 3, 4, 6, generator=rng),
        "noise_video": torch.randn(2, 16, 3, 4, 6, generator=rng),
        "actions": torch.randn(2, 6, 4, generator=rng),
        "noise_action": torch.randn(2, 6, 4, generator=rng),
        "timestep_video": torch.tensor([951.0, 312.5]),
        "timestep_action": torch.tensor([87.5, 640.0]),
        "text": torch.randn(2, 5, TEXT, generator=rng),
        "proprio": torch.randn(2, 3, generator=rng),
    }
    outputs = computed(*to_float64((mot, proprio, inputs)))
    state = {f"weights/{k}": v for k, v in mot.state_dict().items()}
    state |= {f"weights/proprio_encoder.{k}": v for k, v in proprio.state_dict().items()}
    state |= {f"inputs/{k}": v for k, v in inputs.items()}
    state |= {f"outputs/{k}": v for k, v in outputs.items()}
    save_file({k: v.contiguous() for k, v in state.items()}, out)


if __name__ == "__main__":
    main(sys.argv[1])
