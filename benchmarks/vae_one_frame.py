"""Time the encoding of one observed frame: wamkit's native Wan VAE against the diffusers class.

    python benchmarks/vae_one_frame.py

One 224 x 448 picture, published sizes, the same random weights in both, float32, on the CPU.
Medians of 3 runs in turn, and their ratio. Needs the `hf` extra.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

import wamkit

CASES: dict[str, dict[str, Any]] = {
    "wan2.1": {},
    "wan2.2": {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "scale_factor_spatial": 16,
        "latents_mean": [0.0] * 48,
        "latents_std": [1.0] * 48,
    },
}


def seconds(encode: Callable[[torch.Tensor], Any], pixels: torch.Tensor) -> float:
    start = time.perf_counter()
    encode(pixels)
    return time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    from diffusers import AutoencoderKLWan

    pixels = torch.rand(1, 3, 1, 224, 448) * 2 - 1
    print(f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| VAE | diffusers, s | wamkit, s | ratio | largest difference |\n|---|---|---|---|---|")
    for name, config in CASES.items():
        theirs = AutoencoderKLWan(**config).eval()
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            ours = wamkit.load_part("vae", {"name": name, "weights": folder})
            times: dict[str, list[float]] = {"theirs": [], "ours": []}
            for _ in range(3):
                times["theirs"].append(seconds(theirs.encode, pixels))
                times["ours"].append(seconds(ours.encode, pixels))
            shape = ours.config  # with the published statistics of its latents
            mean, std = (
                torch.tensor(numbers).view(1, -1, 1, 1, 1)
                for numbers in (shape.latents_mean, shape.latents_std)
            )
            expected = (theirs.encode(pixels).latent_dist.mode() - mean) / std
            error = float((ours.encode(pixels) - expected).abs().max())
        a, b = (statistics.median(times[who]) for who in ("theirs", "ours"))
        print(f"| {name} | {a:.2f} | {b:.2f} | {a / b:.1f}x | {error:.1e} |")


if __name__ == "__main__":
    main()
