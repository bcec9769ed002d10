"""Time the encoding of one observed frame: wamkit's VAEs against the diffusers classes.

    OMP_NUM_THREADS=1 python benchmarks/vae_one_frame.py
    OMP_NUM_THREADS=1 python benchmarks/vae_one_frame.py wan2.2 ltx --runs 5
    OMP_NUM_THREADS=1 python benchmarks/vae_one_frame.py --kept
    OMP_NUM_THREADS=1 python benchmarks/vae_one_frame.py --bfloat16

One 224 x 448 image, published sizes, the same random weights in both, float32, on the CPU. Each
class encodes once before, then both in turn; the times are the least processor time of the runs.
`--kept` tells what the flat kernels (`wamkit.acceleration.single_frame_conv`) take that are kept
from call to call, and how long an image of 128 x 256 takes with them, with kernels made for it,
and, for LTX, in diffusers' way, over time. `--bfloat16` compares the latents of every registered
VAE at toy size, with random weights, in bfloat16 and in float32. Needs the `hf` extra.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle
from wamkit_wan.latents import WAN22_MEAN, WAN22_STD

import wamkit
from wamkit.acceleration import single_frame_conv as flat
from wamkit.config.registry import registry
from wamkit.policy.preprocessing import vae_dtype
from wamkit.testing.fixtures import spec_with

SIZE = (224, 448)


@dataclass
class Case:
    """A VAE in both libraries, and how diffusers' latents become those a model denoises."""

    reference: str
    sizes: dict[str, Any] = field(default_factory=dict)
    table: dict[str, Any] = field(default_factory=dict)
    normalized: Callable[[Tensor, Any, Any], Tensor] = lambda z, theirs, ours: z
    clip: bool = True
    """The class takes clips; otherwise images."""


def wan(z: Tensor, theirs: Any, ours: Any) -> Tensor:
    """With the published statistics of its latents."""
    return _scaled(z, torch.tensor(ours.config.latents_mean), torch.tensor(ours.config.latents_std))


def ltx(z: Tensor, theirs: Any, ours: Any) -> Tensor:
    return _scaled(z, theirs.latents_mean, theirs.latents_std)


def flux1(z: Tensor, theirs: Any, ours: Any) -> Tensor:
    return (z - ours.shift) * ours.scale


def flux2(z: Tensor, theirs: Any, ours: Any) -> Tensor:
    mean, std = ours.bn.moments(z.dtype)
    return (pixel_unshuffle(z, 2) - mean) / std


def _scaled(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (z - mean.view(-1, 1, 1, 1)) / std.view(-1, 1, 1, 1)


def ltx_case(name: str, variant: str) -> Case:
    table = {"name": name, "variant": variant}
    sizes = registry().get("vae", name)(variant=variant).blocks  # type: ignore[call-arg,attr-defined]
    kind = "AutoencoderKLLTXVideo" if name == "ltx" else "AutoencoderKLLTX2Video"
    return Case(kind, sizes, table, ltx)


IMAGE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
FLUX1 = {
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}
WAN22 = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 16,
    "latents_mean": list(WAN22_MEAN),
    "latents_std": list(WAN22_STD),
}
CASES: dict[str, Callable[[], Case]] = {
    "wan2.1": lambda: Case("AutoencoderKLWan", {}, {"name": "wan2.1"}, wan),
    "wan2.2": lambda: Case("AutoencoderKLWan", WAN22, {"name": "wan2.2"}, wan),
    "ltx": lambda: ltx_case("ltx", "0.9.5"),
    "ltx2": lambda: ltx_case("ltx2", "2.0"),
    "flux1": lambda: Case(
        "AutoencoderKL",
        {**IMAGE, **FLUX1},
        {"name": "flux1"},
        flux1,
        clip=False,
    ),
    "flux2": lambda: Case("AutoencoderKLFlux2", IMAGE, {"name": "flux2"}, flux2, clip=False),
    "taef1": lambda: Case(
        "AutoencoderTiny", {"latent_channels": 16}, {"name": "taef1"}, clip=False
    ),
}


def seconds(encode: Callable[[], Any]) -> float:
    start = time.process_time()
    encode()
    return time.process_time() - start


def compared(name: str, runs: int) -> str:
    """One row of the table."""
    import diffusers

    case = CASES[name]()
    torch.manual_seed(0)
    theirs = getattr(diffusers, case.reference)(**case.sizes).eval()
    clip = torch.rand(1, 3, 1, *SIZE) * 2 - 1
    printed = clip if case.clip else clip[:, :, 0]
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours: Any = wamkit.load_part("vae", {**case.table, "weights": folder}).eval()
        out = theirs.encode(printed)
        z = out.latents if hasattr(out, "latents") else out.latent_dist.mode()
        expected = case.normalized(z, theirs, ours)
        found = ours.encode(clip)
        error = float((found - (expected if case.clip else expected.unsqueeze(2))).abs().max())
        a, b = [], []
        for _ in range(runs):
            a.append(seconds(lambda: theirs.encode(printed)))
            b.append(seconds(lambda: ours.encode(clip)))
    label = " ".join(str(value) for value in case.table.values())
    return f"| {label} | {min(a):.2f} | {min(b):.2f} | {min(a) / min(b):.1f}x | {error:.1e} |"


def kept(name: str, runs: int) -> str:
    """What flat kernels take and give, in one run; weights are random."""
    torch.manual_seed(0)
    vae: Any = wamkit.load_part("vae", name).eval()
    clip = torch.rand(1, 3, 1, 128, 256) * 2 - 1

    def anew() -> None:
        vae.forget()
        vae.encode(clip)

    ways: list[Callable[[], Any]] = [lambda: vae.encode(clip), anew]
    if name.startswith("ltx"):
        ways.append(lambda: vae.encoder(clip))
    for way in reversed(ways):
        way()
    size = sum(k.kernel.nbytes for m in vae.modules() if (k := m.__dict__.get(flat.FOLDED)))
    times = [
        min(column)
        for column in zip(*([seconds(w) for w in ways] for _ in range(runs)), strict=True)
    ]
    weights = sum(p.nbytes for p in vae.parameters())
    cells = [f"{time:.2f}" for time in times] + [""] * (3 - len(times))
    return f"| {name} | {size / 1e6:.0f} | {weights / 1e6:.0f} | {' | '.join(cells)} |"


def rounded(name: str) -> str:
    """How far latents in bfloat16 are from those in float32, and images decoded from them."""
    part = spec_with(vae=name).vae
    vaes: list[Any] = []
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        vaes.append(part.model_copy(update={"dtype": dtype}).build().eval())
    exact, rough = vaes
    _, height, width = exact.stride
    sides = 4 * max(height, 8), 4 * max(width, 8)
    pixels = torch.rand(4, 3, 1, *sides, generator=torch.Generator().manual_seed(1)) * 2 - 1
    given = vae_dtype(rough)
    wanted, found = exact.encode(pixels), rough.encode(pixels.to(given)).float()
    error = (found - wanted).norm() / wanted.norm()
    printed = exact.decode(wanted)
    decoded = rough.decode(wanted.to(given)).float()
    return f"| {name} | {error:.2%} | {float((decoded - printed).abs().mean()):.4f} |"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="One observed frame through the VAEs.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}; all if left out")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kept", action="store_true", help="what kept kernels take and give")
    parser.add_argument("--bfloat16", action="store_true", help="errors instead of times")
    args = parser.parse_args()
    if args.bfloat16:
        print("| VAE | latents, relative error | images, mean difference |\n|---|---|---|")
        for name in registry().names("vae"):
            print(rounded(name), flush=True)
        return
    if args.kept:
        print("| VAE | kept, MB | weights, MB | kept, s | made anew, s | over time, s |")
        print("|---|---|---|---|---|---|")
        for name in args.names or ("wan2.1", "wan2.2", "ltx", "ltx2"):
            print(kept(name, args.runs), flush=True)
        return
    import diffusers

    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    print(f"CPU, {torch.get_num_threads()} threads, {versions}\n")
    print("| VAE | diffusers, s | wamkit, s | ratio | largest difference |")
    print("|---|---|---|---|---|")
    for name in args.names or CASES:
        print(compared(name, args.runs), flush=True)


if __name__ == "__main__":
    main()
