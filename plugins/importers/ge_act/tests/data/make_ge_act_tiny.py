"""Record what GE-Act's own code computes at tiny size, for `test_ge_act.py`.

Run it inside a checkout of https://github.com/AgibotTech/Genie-Envisioner (commit 7e007c7), as
`PYTHONPATH=.:TESTS python TESTS/data/make_ge_act_tiny.py OUT.safetensors` with TESTS the folder of
`conftest.py`, and with torch, diffusers, einops and wamkit. All is computed in float64 on a CPU,
and the network once more in float32; of a run in bfloat16, only levels are kept. The authors' code:
the network, one training step (the statements of the loop in `runner/ge_trainer.py`), the pipeline,
and `InferenceLibero.play` of `experiments/eval_libero.py`. Not theirs: the VAE (`LinearVAE`), the
text encoder (wamkit's bytes), and the simulator, whose modules are empty here.
"""

from __future__ import annotations

import ast
import hashlib
import random
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from conftest import STRIDE, LinearVAE

for name in ("libero", "libero.libero", "libero.libero.benchmark", "torch.utils.tensorboard"):
    sys.modules[name] = MagicMock()
for name in ("utils.libero_sim_utils", "utils.optimizer_utils", "utils.memory_utils"):
    sys.modules[name] = MagicMock()

from diffusers import FlowMatchEulerDiscreteScheduler  # noqa: E402
from diffusers.training_utils import compute_loss_weighting_for_sd3  # noqa: E402
from einops import rearrange  # noqa: E402
from experiments.eval_libero import InferenceLibero  # noqa: E402
from models.ltx_models.transformer_ltx_multiview import LTXVideoTransformer3DModel  # noqa: E402
from models.pipeline.custom_pipeline import CustomPipeline  # noqa: E402
from utils import data_utils  # noqa: E402
from utils.model_utils import forward_pass  # noqa: E402

from wamkit.engine.layers import sinusoid  # noqa: E402
from wamkit.testing.tolerance import float64, to_float64  # noqa: E402

VIEWS, MEMORY, CHUNK, ACTIONS, ACTION, STATE = 2, 4, 9, 5, 3, 4
CHANNELS, TEXT, LAYERS = 128, 12, 4
PROMPT = "put it there"


def build(size: int = ACTION + STATE) -> LTXVideoTransformer3DModel:
    """The network with random weights in bfloat16, for vectors of `size` values a step."""
    torch.manual_seed(0)
    net = LTXVideoTransformer3DModel(
        in_channels=CHANNELS, out_channels=CHANNELS, num_attention_heads=2, attention_head_dim=10,
        cross_attention_dim=20, num_layers=LAYERS, caption_channels=TEXT, action_expert=True,
        action_in_channels=size, action_out_channels=size,
        action_num_attention_heads=2, action_attention_head_dim=4,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            scale = 0.3 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.add_(torch.randn(p.shape, generator=rng) * scale)
            p.copy_(p.bfloat16())
    return net.eval()


def published() -> str:
    """A hash of all names and shapes of the network for LIBERO, at its published size."""
    with torch.device("meta"):
        net = LTXVideoTransformer3DModel(
            caption_channels=4096, action_expert=True, action_in_channels=15, action_out_channels=15
        )
    lines = sorted(f"{name} {list(x.shape)}" for name, x in net.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Vae(nn.Module):
    """The linear VAE under the names that the pipeline and the trainer use."""

    spatial_compression_ratio, temporal_compression_ratio = STRIDE[1], STRIDE[0]

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.inner = LinearVAE(matrix)
        self.latents_mean, self.latents_std = torch.zeros(CHANNELS), torch.ones(CHANNELS)

    @property
    def device(self) -> torch.device:
        return self.inner.matrix.device

    def encode(self, pixels: Tensor) -> Any:
        z = self.inner.encode(pixels)
        return SimpleNamespace(
            latent_dist=SimpleNamespace(sample=lambda generator=None: z, mode=lambda: z)
        )


class Tokenizer:
    """The ids of wamkit's bytes, as a tokenizer of transformers."""

    model_max_length = 128

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def __call__(self, prompts: list[str], **options: Any) -> Any:
        rows = [self.encoder._row(prompt) for prompt in prompts]
        length = options.get("max_length", max(map(len, rows)))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return SimpleNamespace(input_ids=ids, attention_mask=mask)


class TextEncoder(nn.Module):
    """wamkit's bytes, as a text encoder of transformers."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, Tokenizer(encoder)

    @property
    def device(self) -> torch.device:
        return self.encoder.table.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.table.weight.dtype

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        places = torch.arange(ids.shape[1])
        x = self.encoder.table(ids)
        x = x + sinusoid(places, self.encoder.width).to(x.dtype)
        return (x + self.encoder.ffn(self.encoder.norm(x)),)


def trained(net: Any, vae: Vae, text: TextEncoder, batch: dict[str, Any]) -> dict[str, Tensor]:
    """One step of the authors' trainer up to its loss, from the statements of its loop."""
    tree = ast.parse(Path("runner/ge_trainer.py").read_text())
    for loop in ast.walk(tree):
        body = getattr(loop, "body", None)
        if isinstance(loop, ast.With) and "batch['video']" in ast.unparse(body[0]):
            break
    last = next(i for i, s in enumerate(body) if ast.unparse(s).startswith("loss = "))
    flow = FlowMatchEulerDiscreteScheduler()
    args = SimpleNamespace(
        use_color_jitter=False, return_action=True, return_video=False, noisy_video=True,
        add_state=True, caption_dropout_p=0.0, flow_weighting_scheme="none", flow_logit_mean=0.0,
        flow_logit_std=1.0, flow_mode_scale=1.29, noise_to_first_frame=0.01,
        pixel_wise_timestep=True, train_mode="action_full", action_loss_scale=1.0,
        data={"train": {"n_previous": MEMORY, "chunk": CHUNK, "action_chunk": ACTIONS}},
    )  # fmt: skip
    names: dict[str, Any] = {
        "self": SimpleNamespace(
            args=args, vae=vae, tokenizer=text.tokenizer, text_encoder=text, scheduler=flow,
            diffusion_model=net, SPATIAL_DOWN_RATIO=STRIDE[1], TEMPORAL_DOWN_RATIO=STRIDE[0],
            uncond_prompt_embeds=torch.zeros(1, 1, 1),
        ),
        "accelerator": SimpleNamespace(device="cpu"),
        "batch": batch, "weight_dtype": torch.float64, "torch": torch, "rearrange": rearrange,
        "scheduler_sigmas": flow.sigmas.double(), "forward_pass": forward_pass,
        "compute_density_for_timestep_sampling": lambda **_: torch.tensor([0.5, 0.25]),
        "compute_loss_weighting_for_sd3": compute_loss_weighting_for_sd3,
        **{k: getattr(data_utils, k) for k in (
            "get_latents", "get_text_conditions", "randn_tensor",
            "gen_noise_from_condition_frame_latent",
        )},
    }  # fmt: skip
    torch.manual_seed(2)
    random.seed(2)  # of the noise in memory frames
    code = ast.Module(body=body[: last + 1], type_ignores=[])
    exec(compile(code, "ge_trainer", "exec"), names)
    sigma = names["action_sigmas"]
    return {
        "inputs/train_latents": unpacked(names["noisy_latents"]),
        "inputs/train_noise_action": names["noise_actions"],
        "inputs/train_noisy_action": names["noisy_actions"],
        "inputs/train_sigma": sigma,
        "inputs/train_timesteps": names["timesteps"][::VIEWS, ::2].double() / 1000,
        "inputs/train_text": names["prompt_embeds"][:, :17],
        "inputs/train_text_mask": names["prompt_attention_mask"][:, :17].to(torch.uint8),
        "outputs/train_velocity_action": names["pred_all"]["action"].detach(),
        "outputs/train_loss": names["loss"].detach(),
    }


def unpacked(x: Tensor) -> Tensor:
    """Tokens of views [B V, T h w, C] as latents [B, V, C, T, h, w]; 1 x 2 latents a frame."""
    return rearrange(x, "(b v) (t h w) c -> b v c t h w", v=VIEWS, h=1, w=2).contiguous()


def acted(
    net: Any,
    vae: Vae,
    text: TextEncoder,
    inputs: dict[str, Tensor],
    low_high: Any,
    dtype: torch.dtype = torch.float64,
) -> Any:
    """A chunk of actions in physical units, by the authors' actor and pipeline."""
    pipeline = CustomPipeline(FlowMatchEulerDiscreteScheduler(), vae, text, text.tokenizer, net)
    actor = InferenceLibero.__new__(InferenceLibero)
    actor.__dict__ |= {
        "device": "cpu", "dtype": dtype, "add_state": True, "action_dim": ACTION + STATE,
        "basic_action_dim": ACTION, "num_inference_steps": 10, "chunk": CHUNK,
        "TEMPORAL_DOWN_RATIO": STRIDE[0], "action_chunk": ACTIONS, "n_prev": MEMORY,
        "threshold": 20, "count": 0, "pipeline": pipeline, "buffer": [],
        "args": SimpleNamespace(pixel_wise_timestep=True),
        "act_min": low_high["action"][0][None], "act_max": low_high["action"][1][None],
    }  # fmt: skip
    images = coarse(inputs["images"])  # [V, T, 3, H, W]
    frames = images.double() / 255.0 * 2.0 - 1.0
    actor.obs = list(frames.unbind(1))
    low, high = low_high["state"]  # as `InferenceLibero.infer` does before it calls `play`
    state = (inputs["state"][None] - low) / (high - low + 1e-6) * 2 - 1
    state = torch.cat((torch.zeros([1, ACTION]), state), dim=1)
    actions = actor.play(images[:, -1], PROMPT, excution_step=8, state=state)
    shape = (1, ACTIONS, ACTION + STATE), (VIEWS, CHANNELS, MEMORY + 2, 1, 2)
    noise = [torch.randn(s, generator=torch.Generator().manual_seed(42)) for s in shape]
    return actions, pipeline.scheduler.sigmas, noise


def levels_in_bfloat16(net: Any, matrix: Tensor, text: Any, *seen: Any) -> dict[str, Tensor]:
    """What a run in bfloat16, as published, tells the network of levels, and its step lengths."""
    net, levels, lengths = deepcopy(net).bfloat16().eval(), [], []
    step = FlowMatchEulerDiscreteScheduler.step

    def watch(module: Any, args: Any, named: dict[str, Any]) -> None:
        levels.append(named["action_timestep"][0, -1])

    def measured(flow: Any, velocity: Tensor, at: Tensor, x: Tensor, **named: Any) -> Any:
        one, zero = torch.ones(1, dtype=velocity.dtype), torch.zeros(1, dtype=x.dtype)
        lengths.append(step(deepcopy(flow), one, at, zero, **named)[0])
        return step(flow, velocity, at, x, **named)

    net.register_forward_pre_hook(watch, with_kwargs=True)
    with patch.object(FlowMatchEulerDiscreteScheduler, "step", measured):
        parts = Vae(matrix.bfloat16()), TextEncoder(deepcopy(text).bfloat16())
        acted(net, *parts, *seen, dtype=torch.bfloat16)
    return {
        "outputs/levels_bfloat16": torch.stack(levels),
        "outputs/lengths_bfloat16": torch.cat(lengths),
    }


def masks(net: Any) -> dict[str, Tensor]:
    """Which token of a clip depends on which through self-attention, across views and apart.

    Tokens stand view by view, frame by frame, [V T h w] in all.
    """
    count = (MEMORY + 2) * 2
    x = torch.randn(VIEWS, count, 20, requires_grad=True)
    rotary = net.rope(x, (8 / 30, 32, 32), MEMORY + 2, 1, 2)
    found = {}
    for layer, block in enumerate(net.transformer_blocks):
        y = block.attn1(x, image_rotary_emb=rotary, n_view=VIEWS, cross_view_attn=layer % 3 == 0)
        rows = [torch.autograd.grad(row.sum(), x, retain_graph=True)[0] for row in y.flatten(0, 1)]
        found[f"mask_{layer}"] = torch.stack([(g.flatten(0, 1) != 0).any(1) for g in rows])
    return {name: mask.to(torch.uint8) for name, mask in found.items()}


def coarse(images: Tensor) -> Tensor:
    """Images [..., h, w] four times as large, made of blocks."""
    return images.repeat_interleave(4, -1).repeat_interleave(4, -2)


@torch.no_grad()
def forward(net: Any, x: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network once with memory frames at 0 and noisy future frames at one level a sample."""
    batch = len(x["text"])
    z = rearrange(x["latents"], "b v c t h w -> (b v) (t h w) c")
    level = 1000 * x["sigma_video"].repeat_interleave(VIEWS)[:, None].repeat(1, z.shape[1])
    level[:, : MEMORY * 2] = 0
    out = net(
        hidden_states=z, encoder_hidden_states=x["text"], timestep=level,
        encoder_attention_mask=x["text_mask"].bool(), n_view=VIEWS, num_frames=MEMORY + 2,
        rope_interpolation_scale=(8 / 30, 32, 32), height=1, width=2, return_dict=False,
        action_states=x["actions"], return_action=True, history_action_state=x["state"],
        action_timestep=1000 * x["sigma_action"][:, None].repeat(1, ACTIONS),
    )[0]  # fmt: skip
    assert batch == len(out["action"])
    return {"video": unpacked(out["video"]), "action": out["action"]}


def main(out: str) -> None:
    from wamkit_toy.text_encoder import ByteEncoder

    net, rng = build(), torch.Generator().manual_seed(1)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    torch.manual_seed(5)
    bytes_ = ByteEncoder(TEXT, 16).bfloat16().float()
    matrix = randn(CHANNELS, 12)
    x = {
        "latents": randn(2, VIEWS, CHANNELS, MEMORY + 2, 1, 2),
        "text": randn(2, 5, TEXT),
        "text_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "actions": randn(2, ACTIONS, ACTION + STATE),
        "state": torch.cat([torch.zeros(2, 1, ACTION), randn(2, 1, STATE)], 2),
        "sigma_video": torch.tensor([1.0, 0.3125]),
        "sigma_action": torch.tensor([0.75, 0.125]),
    }
    images = torch.randint(0, 256, (VIEWS, MEMORY, 3, 8, 16), generator=rng, dtype=torch.uint8)
    state: dict[str, Tensor] = {f"weights/{k}": v.bfloat16() for k, v in net.state_dict().items()}
    state |= {f"text/{k}": v.bfloat16() for k, v in bytes_.state_dict().items()}
    low_high = {
        "action": [torch.tensor([-0.7, -0.1, -1.0]), torch.tensor([0.9, 0.2, 1.0])],
        "state": [torch.tensor([-0.4, 0.9, -0.04, 2.0]), torch.tensor([0.2, 1.3, 0.04, 3.5])],
    }
    state["vae"] = matrix
    state |= {f"inputs/{k}": v for k, v in x.items()}
    state |= {f"statistics/{k}": torch.stack(v) for k, v in low_high.items()}
    state |= {f"outputs/{k}": v for k, v in masks(net).items()}
    state["outputs/float32_action"] = forward(net, x)["action"]
    seen = {"images": images, "state": torch.tensor([0.1, 1.0, 0.01, 2.5])}
    state |= {f"inputs/run_{k}": v for k, v in seen.items()}
    wide = to_float64(net)
    with float64():
        state |= {f"outputs/{k}": v for k, v in forward(wide, to_float64(x)).items()}
        vae, text = Vae(matrix.double()), TextEncoder(to_float64(bytes_))
        batch = {
            "video": torch.rand(2, 3, VIEWS, MEMORY + 1, 32, 64, generator=rng) * 2 - 1,
            "caption": [PROMPT, "pick"],
            "actions": torch.randn(2, MEMORY + ACTIONS, ACTION + STATE, generator=rng),
            "state": to_float64(x["state"]),
        }
        state |= trained(wide, vae, text, batch)
        state["inputs/train_actions"] = batch["actions"][:, -ACTIONS:]
        actions, grid, noise = acted(wide.eval(), vae, text, to_float64(seen), to_float64(low_high))
    state |= levels_in_bfloat16(net, matrix, bytes_, seen, low_high)
    state |= {"outputs/run_actions": actions, "outputs/run_sigmas": grid}
    state |= {
        "inputs/run_noise_action": noise[0],
        "inputs/run_noise_video": noise[1][:, :, MEMORY:],
    }
    save_file({k: v.contiguous() for k, v in state.items()}, out, {"published": published()})


if __name__ == "__main__":
    main(sys.argv[1])
