"""Record what LingBot-VA's own code computes at tiny size, for `test_lingbot_va.py`.

Run it inside a checkout of https://github.com/robbyant/lingbot-va (commit 7c6ffa9) as
`PYTHONPATH=. python make_lingbot_va_tiny.py OUT.safetensors`, with torch, diffusers, transformers,
einops, easydict and wamkit. The file holds the weights under the names of the released
`transformer/` folder, one training sample, normalized actions and episodes on LIBERO and
RoboTwin, drawn in float32, and what the published code makes of them in float64 on a CPU.

What is not the published code: `flash_attn` and `lerobot` are empty modules, for nothing here
runs them; the flex attention of training is computed densely from the published mask
functions; the casts to bfloat16 inside `forward_train` and in `Trainer` are to float64; the noise
of an episode is drawn beforehand; its latents and prompts come from `tests/pixel_vae.py` and the
record.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from wamkit.testing.tolerance import float64, to_float64

sys.path.insert(0, str(Path(__file__).parents[5] / "tests"))

from pixel_vae import PixelVAE, patterns, set_patterned_weights

HEADS, HEAD, TEXT, LAYERS, CHANNELS = 2, 12, 16, 2, 48


def import_published() -> types.SimpleNamespace:
    """The published modules, with empty ones for what computes nothing here."""
    from diffusers import AutoencoderKLWan  # noqa: F401 - it asks what is installed
    from diffusers.pipelines.wan import pipeline_wan  # noqa: F401
    from transformers import UMT5EncoderModel  # noqa: F401

    empty: dict[str, dict[str, Any]] = {
        "flash_attn": {"flash_attn_func": None},
        "wandb": {},
        "lerobot": {},
        "lerobot.constants": {"HF_LEROBOT_HOME": Path()},
        "lerobot.datasets": {},
        "lerobot.datasets.lerobot_dataset": {
            "LeRobotDataset": object,
            "LeRobotDatasetMetadata": None,
        },
        "lerobot.datasets.utils": {"get_episode_data_index": None},
        "lerobot.datasets.compute_stats": {"aggregate_stats": None, "compute_episode_stats": None},
    }
    for name, values in empty.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(values)
    sys.path.insert(0, "wan_va")
    import train
    import wan_va_server
    from dataset import lerobot_latent_dataset
    from modules import model

    return types.SimpleNamespace(
        train=train, server=wan_va_server, model=model, dataset=lerobot_latent_dataset
    )


def build(published: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    net = published.model.WanTransformer3DModel(
        patch_size=[1, 2, 2], num_attention_heads=HEADS, attention_head_dim=HEAD,
        in_channels=CHANNELS, out_channels=CHANNELS, action_dim=30, text_dim=TEXT, freq_dim=256,
        ffn_dim=32, num_layers=LAYERS, attn_mode="torch",
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            scale = 0.3 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.add_(torch.randn(p.shape, generator=rng) * scale)
            p.copy_(p.bfloat16())  # as released files are
    return net.eval()


class DenseFlex(torch.nn.Module):
    """Attention under the mask that `FlexAttnFunc.init_mask` made."""

    masks: Any = None

    def __init__(self, is_cross: bool) -> None:
        super().__init__()
        self.is_cross = is_cross

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = self.masks.cross_attention_mask if self.is_cross else self.masks.attention_mask
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
        )
        return out.nan_to_num().transpose(1, 2)


def make_dense(mask_mod: Any, b: int, h: int, q: int, kv: int, **_: Any) -> Tensor:
    """The mask [q, kv] of a published mask function."""
    zero = torch.zeros(())
    return mask_mod(zero, zero, torch.arange(q)[:, None], torch.arange(kv)[None])  # type: ignore[no-any-return]


def use_flex(published: Any, net: Any) -> None:
    """The network in its training mode of attention."""
    flex = published.model.FlexAttnFunc
    flex.compiled_create_block_mask = staticmethod(make_dense)
    DenseFlex.masks = flex
    for block in net.blocks:
        for attention, is_cross in ((block.attn1, False), (block.attn2, True)):
            attention.__dict__.pop("attn_op", None)
            attention.attn_op = DenseFlex(is_cross)


def use_torch(published: Any, net: Any) -> None:
    """The network in its mode of attention for use."""
    for block in net.blocks:
        for attention in (block.attn1, block.attn2):
            attention._modules.pop("attn_op", None)
            attention.attn_op = published.model.custom_sdpa


class StreamingVAE:
    """`PixelVAE` with the interface of `WanVAEStreamingWrapper`, which keeps what came before."""

    def __init__(self) -> None:
        config = types.SimpleNamespace(latents_mean=[0.0] * CHANNELS, latents_std=[1.0] * CHANNELS)
        parameters = lambda: iter([torch.zeros(())])  # noqa: E731
        self.vae = types.SimpleNamespace(config=config, parameters=parameters)
        self.clear_cache()

    def clear_cache(self) -> None:
        self.seen: Tensor | None = None

    def encode_chunk(self, images: Tensor) -> Tensor:
        z, self.seen = PixelVAE().encode_next(images, self.seen)
        return torch.cat([z, torch.zeros_like(z)], 1)


# The size of views, latents and actions of two robots, at the sizes of the record.
ROBOTS: dict[str, dict[str, Any]] = {
    "libero": {"height": 32, "width": 32, "frame_chunk_size": 2, "latent": (2, 4)},
    "robotwin": {"height": 64, "width": 64, "frame_chunk_size": 2, "latent": (6, 4)},
}
STEPS = {"num_inference_steps": 3, "action_num_inference_steps": 4, "action_per_frame": 4}
MEMORY = {"attn_window": 4}  # 2 chunks
CHUNKS = {"libero": 5, "robotwin": 2}


def episode_draws(published: Any, robot: str) -> dict[str, Tensor]:
    """Prompts and noise of an episode, of the channels that the robot uses."""
    rng = torch.Generator().manual_seed(len(robot))
    config, shape = published.server.VA_CONFIGS[robot], ROBOTS[robot]
    frames, chunks = shape["frame_chunk_size"], CHUNKS[robot]
    used = config.used_action_channel_ids

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng)

    found = {"prompt": normal(1, 5, TEXT), "negative": normal(1, 2, TEXT)}
    for k in range(chunks):
        found[f"noise_video.{k}"] = normal(1, CHANNELS, frames, *shape["latent"])
        found[f"noise_action.{k}"] = normal(1, len(used), frames, STEPS["action_per_frame"], 1)
    return found


@torch.no_grad()
@float64()
def act(published: Any, net: Any, given: dict[str, Tensor], robot: str) -> dict[str, Tensor]:
    """An episode as the client of LIBERO runs it, every action executed as it was given."""
    use_torch(published, net)
    given_config = published.server.VA_CONFIGS[robot]
    sizes = {**ROBOTS[robot], **STEPS, **MEMORY, "save_root": tempfile.mkdtemp()}
    config = type(given_config)({**given_config, **sizes})
    server = object.__new__(published.server.VA_Server)
    server.cache_name, server.job_config, server.save_root = "pos", config, config.save_root
    server.dtype, server.device = torch.float64, torch.device("cpu")
    scheduler = published.server.FlowMatchScheduler
    server.scheduler, server.action_scheduler = (
        scheduler(shift=shift, sigma_min=0.0, extra_one_step=True)
        for shift in (config.snr_shift, config.action_snr_shift)
    )
    server.streaming_vae, server.streaming_vae_half = StreamingVAE(), StreamingVAE()
    server.vae, server.transformer, server.env_type = server.streaming_vae.vae, net, config.env_type
    texts = [F.pad(given[name], (0, 0, 0, 512 - given[name].shape[1])) for name in PROMPTS]
    server.encode_prompt = lambda **_: texts
    published.server.save_async = lambda *_: None
    noises = iter([given[f"noise_{n}.{k}"] for k in range(CHUNKS[robot]) for n in PARTS])
    count = 1 + 4 * (config.frame_chunk_size * (CHUNKS[robot] - 1) - 1)
    views = {
        key: patterns(count, i).permute(0, 2, 3, 1).numpy()
        for i, key in enumerate(config.obs_cam_keys)
    }
    looks = [{key: images[t] for key, images in views.items()} for t in range(count)]
    found, begin = {}, torch.randn
    server.infer({"reset": True, "prompt": "record"})
    try:
        torch.randn = lambda *size, **_: in_channels(next(noises), size, config)
        at = 1
        for k in range(CHUNKS[robot]):
            action = server.infer({"obs": looks[0], "prompt": "record"})["action"]
            found[f"action.{k}"] = torch.from_numpy(action)  # [A, frames, K]
            count = 4 * (action.shape[1] - (k == 0))
            if k + 1 < CHUNKS[robot]:
                seen = {"obs": looks[at : at + count], "compute_kv_cache": True, "state": action}
                server.infer(seen)
            at += count
    finally:
        torch.randn = begin
    return found


def in_channels(noise: Tensor, size: tuple[int, ...], config: Any) -> Tensor:
    """Noise of the size that is asked for; what a robot does not use is zeroed there anyway."""
    if noise.shape[1] == size[1]:
        return noise.clone()
    whole = noise.new_zeros(size)
    whole[:, config.used_action_channel_ids] = noise
    return whole


PROMPTS, PARTS = ("prompt", "negative"), ("video", "action")
TRAINING = {"chunk_size": 2, "window_size": 4}
USED = [0, 1, 2, 28]


def training_draws() -> dict[str, Tensor]:
    """A sample of two: 6 latent frames in blocks of 2, and 4 actions a frame."""
    rng = torch.Generator().manual_seed(1)
    shape = 2, CHANNELS, 6, 2, 4
    text = torch.zeros(2, 512, TEXT)
    text[:, :5] = torch.randn(2, 5, TEXT, generator=rng)
    actions = torch.zeros(2, 30, 6, 4, 1)
    actions[:, USED] = torch.randn(2, len(USED), 6, 4, 1, generator=rng)
    mask = torch.zeros_like(actions)
    mask[:, USED] = 1
    return {
        "latents": torch.randn(*shape, generator=rng),
        "noise_video": torch.randn(*shape, generator=rng),
        "noise_clean": torch.randn(*shape, generator=rng),
        "actions": actions,
        "noise_action": torch.randn(2, 30, 6, 4, 1, generator=rng),
        "actions_mask": mask,
        "text": text,
        "ids_video": torch.tensor([40, 512, 998, 305, 0, 871]),
        "ids_clean": torch.tensor([501, 999, 730, 640, 500, 812]),
        "ids_action": torch.tensor([3, 777, 250, 620, 999, 90]),
    }


def trainer_of(published: Any, net: Any) -> Any:
    """The published trainer without its data, devices and optimizer."""
    trainer = object.__new__(published.train.Trainer)
    scheduler = published.train.FlowMatchScheduler
    trainer.device, trainer.patch_size = torch.device("cpu"), (1, 2, 2)
    trainer.gradient_accumulation_steps = 1
    for name, shift in (("latent", 5.0), ("action", 0.05)):
        flow = scheduler(shift=shift, sigma_min=0.0, extra_one_step=True)
        flow.set_timesteps(1000, training=True)
        setattr(trainer, f"train_scheduler_{name}", flow)
    return trainer


@torch.no_grad()
@float64()
def train(published: Any, net: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """One training pass as `Trainer._train_step` makes it, with draws that were made before."""
    use_flex(published, net)
    trainer = trainer_of(published, net)
    ids = iter([given["ids_video"], given["ids_clean"], given["ids_action"]])
    noises = iter([given["noise_video"], given["noise_clean"], given["noise_action"]])
    randoms = iter([torch.tensor([0.2]), torch.tensor([0.9])])  # clean frames are noised
    published.train.sample_timestep_id = lambda **_: next(ids)
    old = Tensor.normal_, torch.rand, torch.bfloat16
    batch = {
        "latents": given["latents"].clone(),
        "actions": given["actions"].clone(),
        "actions_mask": given["actions_mask"],
        "text_emb": given["text"],
    }
    try:
        Tensor.normal_ = lambda self: self.copy_(next(noises))  # type: ignore[method-assign,assignment]
        torch.rand = lambda *_: next(randoms)  # type: ignore[assignment]
        torch.bfloat16 = torch.float64
        sample = trainer._prepare_input_dict(batch)
        sample |= TRAINING
        found = net(sample, train_mode=True)
        video, action = trainer.compute_loss(sample, found)
    finally:
        Tensor.normal_, torch.rand, torch.bfloat16 = old  # type: ignore[method-assign]
    patches = published.train.data_seq_to_patch((1, 2, 2), found[0], 6, 2, 4, batch_size=2)
    flows = trainer.train_scheduler_latent, trainer.train_scheduler_action
    size = 2 * 2 * 6 * (2 + 4)
    return {
        "velocity_video": patches,
        "velocity_action": found[1].unflatten(1, (6, 4)).permute(0, 3, 1, 2),
        "loss_video": video,
        "loss_action": action,
        "mask": published.model.FlexAttnFunc.attention_mask[:size, :size].to(torch.uint8),
        "levels_video": flows[0].sigmas,
        "levels_action": flows[1].sigmas,
        "weights_video": flows[0].linear_timesteps_weights,
        "weights_action": flows[1].linear_timesteps_weights,
    }


def normalize(published: Any) -> dict[str, Tensor]:
    """Physical actions of 6 latent frames of LIBERO, and what the data set makes of them."""
    config = published.server.VA_CONFIGS["libero"]
    rng = torch.Generator().manual_seed(2)
    actions = (1.2 * torch.randn(20, 7, generator=rng)).bfloat16().float()
    data = object.__new__(published.dataset.LatentLeRobotDataset)
    data.config = config
    data.q01, data.q99 = (
        torch.tensor(config.norm_stat[row], dtype=torch.float64).numpy()[None]
        for row in ("q01", "q99")
    )
    found, _ = data._action_post_process(0, 21, torch.arange(21).numpy(), actions.numpy())
    return {"inputs/actions": actions, "outputs/actions": found[:7].double()}


PIECES = 1, 4, 8
"""Images that come one after the other."""


@torch.no_grad()
@float64()
def encode(published: Any) -> dict[str, Tensor]:
    """Latents of an episode by `WanVAEStreamingWrapper` around diffusers' VAE, in its pieces."""
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan(
        base_dim=4, decoder_base_dim=6, z_dim=CHANNELS, dim_mult=[1, 2, 4, 4], num_res_blocks=2,
        temperal_downsample=[False, True, True], is_residual=True, in_channels=12, out_channels=12,
        patch_size=2, scale_factor_temporal=4, scale_factor_spatial=16,
        latents_mean=[0.0] * CHANNELS, latents_std=[1.0] * CHANNELS,
    ).double()  # fmt: skip
    set_patterned_weights(vae)
    stream = published.server.WanVAEStreamingWrapper(vae)
    images = patterns(sum(PIECES), 0, 32, 32).transpose(0, 1)[None].double() / 127.5 - 1
    found = [stream.encode_chunk(piece)[:, :CHANNELS] for piece in images.split(PIECES, 2)]
    return {"outputs/latents": torch.cat(found, 2)}


def published_shapes(published: Any) -> str:
    """Names and shapes of the released `transformer/`, of the first block for all, as JSON."""
    with torch.device("meta"):
        net = published.model.WanTransformer3DModel()
    shapes = {name: list(p.shape) for name, p in net.state_dict().items()}
    return json.dumps({k: v for k, v in shapes.items() if not re.match(r"blocks\.[1-9]", k)})


def rounded(draws: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same in numbers that a file of half the size holds exactly."""
    return {k: v.bfloat16().float() if v.is_floating_point() else v for k, v in draws.items()}


def main(out: str) -> None:
    published = import_published()
    net = build(published)
    draws = rounded(training_draws())
    wide = to_float64(net)
    outputs = train(published, wide, to_float64(draws))
    draws["text"] = draws["text"][:, :5]
    draws["noise_action"], draws["actions"] = (
        draws[n][:, USED] for n in ("noise_action", "actions")
    )
    del draws["actions_mask"]
    state = {f"weights/{k}": v for k, v in net.state_dict().items()}
    state |= {f"training/inputs/{k}": v for k, v in draws.items()}
    state |= {f"training/outputs/{k}": v for k, v in outputs.items()}
    state |= {f"normalization/{k}": v.contiguous() for k, v in normalize(published).items()}
    state |= {f"vae/{k}": v for k, v in encode(published).items()}
    for robot in ROBOTS:
        given = rounded(episode_draws(published, robot))
        found = act(published, wide, to_float64(given), robot)
        state |= {f"{robot}/inputs/{k}": v for k, v in given.items()}
        state |= {f"{robot}/outputs/{k}": v for k, v in found.items()}
    half = {k: v.bfloat16() if v.dtype == torch.float32 else v for k, v in state.items()}
    facts = {"published": published_shapes(published), "config": json.dumps(dict(net.config))}
    save_file({k: v.contiguous() for k, v in half.items()}, out, facts)


if __name__ == "__main__":
    main(sys.argv[1])
