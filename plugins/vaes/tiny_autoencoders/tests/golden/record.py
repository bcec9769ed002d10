"""Records `taehv.safetensors`: what the class of github.com/madebyollin/taehv computes when narrow.

Run it in a checkout of that repository (MIT) at commit
1f14a568f24bf8811e0a0ac601613e04fc1581e8, with torch, numpy, safetensors, tqdm and wamkit installed:

    python record.py taehv.safetensors

The class has one width; it is narrowed in its source. Weights and pixels, which lie in [0, 1], are
drawn by numpy's frozen generator from their names and rounded to float32, so that no file has to
hold them. Recorded for each model, computed in float64 on a CPU: the latents [B, T, C, h, w] of a
clip whose first image stands `stride` times in front, and every seventh value of the pixels
[B, T, 3, H, W] that they decode to; for one model also the gradients of the sum of the pixels'
sines, through decoder and encoder, which are rounded to float32. The metadata holds the names and
shapes at published width.
"""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import save_file

from wamkit.testing.tolerance import float64, to_float64

MODELS = {
    "taew2.1": {"latent_channels": 16},
    "taew2.2": {"latent_channels": 48, "patch_size": 2},
    "taeltx2": {
        "latent_channels": 128,
        "patch_size": 4,
        "encoder_time_downscale": (True, True, True),
        "decoder_time_upscale": (True, True, True),
    },
}
CLIPS = {"taew2.1": (2, 9, 3, 16, 24), "taew2.2": (1, 9, 3, 32, 48), "taeltx2": (1, 9, 3, 32, 64)}


def weights(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers decided by the name: latents of deviation 2 or so, pixels within [0, 1]."""
    draw = np.random.RandomState(crc32(name.encode())).standard_normal(shape)
    scale = {"encoder.17.weight": 15.0, "decoder.22.weight": 0.1}.get(name, 1.0)
    draw *= scale / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
    return torch.tensor(draw + (name == "decoder.22.bias") * 0.5, dtype=torch.float32)


def pixels(name: str) -> torch.Tensor:
    """A clip [B, T, 3, H, W] decided by the name."""
    draw = np.random.RandomState(crc32(name.encode())).random_sample(CLIPS[name])
    return torch.tensor(draw, dtype=torch.float32)


def module(source: str) -> ModuleType:
    made = ModuleType("taehv")
    exec(source, made.__dict__)
    return made


source = Path("taehv.py").read_text()
narrow = re.sub(r"\b64\b", "4", source.replace("[256, 128, 64, 64]", "[6, 5, 4, 4]"))
metadata, tensors = {}, {}
for name, options in MODELS.items():
    published = module(source).TAEHV(checkpoint_path=None, **options).state_dict()
    metadata[name] = json.dumps({key: list(t.shape) for key, t in published.items()})
    model = module(narrow).TAEHV(checkpoint_path=None, **options)
    state = {key: weights(key, tuple(t.shape)) for key, t in model.state_dict().items()}
    model.load_state_dict(state)
    model, clip = to_float64((model, pixels(name)))
    clip = torch.cat([*[clip[:, :1]] * (model.t_downscale - 1), clip], 1)
    with float64():
        z = model.encode_video(clip, show_progress_bar=False)
        decoded = model.decode_video(z, show_progress_bar=False)
    print(name, tuple(z.shape), f"std {z.std():.2f}", tuple(decoded.shape), decoded.std())
    print(f"within (0, 1): {((decoded > 0) & (decoded < 1)).float().mean():.3f}")
    tensors[f"{name}.latents"] = z
    tensors[f"{name}.pixels"] = decoded.flatten()[::7]
    if name == "taew2.2":
        decoded.sin().sum().backward()
        tensors |= {f"gradients.{key}": p.grad.float() for key, p in model.named_parameters()}
save_file({k: t.detach().contiguous() for k, t in tensors.items()}, sys.argv[1], metadata)
