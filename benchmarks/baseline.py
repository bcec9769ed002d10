"""Compare wamkit with a plain PyTorch implementation of Fast-WAM, with the same weights.

    python benchmarks/baseline.py --plot docs/speed.svg      64, 128, 256, 512 x 8
    python benchmarks/baseline.py 128 8 --iters 15

The plain implementations follow github.com/yuantianyuan01/FastWAM (commit 45d8e14, `infer_action`
in `fastwam.py`, `mot.py`, `action_dit.py`, `wan_video_dit.py`), operation by operation, in eager
mode: RoPE in complex128, a dense boolean mask in every attention, a modulation for each observed
token. The KV cache of the observed frame is concatenated with the new keys in every layer of every
step. Timestep and text embeddings and the text keys are recomputed in every step; RoPE tables,
masks and the state token are computed once. A prompt of 16 text tokens is padded with zeros to 127,
and all of them are attended to; wamkit's text encoders return one padding token with weight 111,
which is the same attention. `no cache` passes the observed frame with every action step, as the
published `infer_joint` passes video.

In bfloat16 the plain implementations round what the published code rounds: weights of norms,
modulation and actions between steps; the norm of queries and keys is float32 inside, and positions
are complex128. Only noise levels are not rounded, so that both sides use the same ones.

From latents to normalized actions, 10 steps, batch 1, random weights, CPU, float32. All
implementations run in turn: `ms` is the median wall time, `CPU ms` the minimum processor time,
which other processes disturb less, and which the ratio uses. The second table has the framework
overhead from the same run: the share of `policy.act`, from images to actions, that disappears when
the same modules and operations are called by hand (`wamkit.bench.measure.framework`); median and
quartiles over as many iterations.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wamkit
from wamkit.bench import machine
from wamkit.bench.measure import framework
from wamkit.config.spec import read
from wamkit.engine.layers import rotary_angles
from wamkit.engine.noise_schedule import draw_noise
from wamkit.engine.passes import PassRunner
from wamkit.files.plots import bars, style, write
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import ModelInputs, Text
from wamkit.policy.policy import Policy, generator
from wamkit.policy.preprocessing import inference_inputs
from wamkit.policy.run_mode import compiler
from wamkit.testing.fixtures import observation

SPEC = Path(__file__).parent.parent / "examples" / "fastwam.toml"
TEXT_TOKENS = 127  # and the state's; the published code attends to all of them, padding included
PROMPT_TOKENS = 16  # of them; typical for an instruction with a T5 tokenizer
LEVELS = 256  # width of the sinusoid of a noise level
Cache = list[tuple[Tensor, Tensor]]  # keys and values [B, S, H * E] of every layer


def small(width: int, layers: int) -> Policy:
    """examples/fastwam.toml for a CPU: 98 observed tokens, 32 actions, 128 text tokens."""
    raw = dict(read(SPEC)) | {"dtype": "float32"}
    raw["backbone"] = {"name": "wan", "variant": "tiny", "layers": layers, "num_heads": width // 64}
    raw["backbone"] |= {"head_dim": 64, "mlp_dim": 4 * width, "latent_channels": 192}
    raw["vae"] = {"name": "pixel_shuffle", "strides": [1, 8, 8]}
    raw["text_encoder"] = {"name": "bytes", "max_length": 127}
    raw["action_head"] = raw["action_head"] | {"init": "random", "width": width // 2}
    raw["action_head"]["mlp_dim"] = 2 * width
    views = [{"name": name, "size": [112, 112]} for name in ("image", "wrist_image")]
    raw["cameras"] = {"layout": "side_by_side", "views": views}
    raw["video"] = {"num_frames": 3, "frame_stride": 4}
    return wamkit.build(raw)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor) -> Tensor:
    """[B, S, H * E] each, mask bool [.., S, S of the keys]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def apply_rotary(x: Tensor, places: Tensor, heads: int) -> Tensor:
    """x [B, S, H * E] by places [S, 1, E / 2] complex128."""
    x = x.unflatten(-1, (heads, -1))
    pairs = torch.view_as_complex(x.to(torch.float64).reshape(*x.shape[:3], -1, 2))
    return torch.view_as_real(pairs * places).flatten(2).to(x.dtype)


def rms(norm: Any, x: Tensor) -> Tensor:
    y = x.float()
    return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + norm.eps)).to(x.dtype) * norm.weight


def cast_module(module: Any, dtype: torch.dtype) -> Any:
    """`module`, or a copy of it in `dtype` if its weights have another."""
    if all(weight.dtype == dtype for weight in module.parameters()):
        return module
    return copy.deepcopy(module).to(dtype)


class Levels:
    """What embeds noise levels, in the dtype of everything else."""

    def __init__(self, embedder: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.embed, self.project = (
            cast_module(part, dtype) for part in (embedder.time_embedder, embedder.time_proj)
        )

    def __call__(self, sigma: Tensor) -> Tensor:
        """Noise levels [n] as modulations [n, 6, D]."""
        steps = torch.arange(LEVELS // 2, dtype=torch.float64, device=sigma.device)
        steps = steps.div(LEVELS // 2)
        angles = torch.outer((1000 * sigma).type(torch.float64), torch.pow(10000, -steps))
        wave = torch.cat([angles.cos(), angles.sin()], 1).to(self.dtype)
        return self.project(F.silu(self.embed(wave))).unflatten(1, (6, -1))


class Layer:
    """The weights of a block, all of them in one dtype."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        self.attn, self.cross_attn, net = block.attn1, block.attn2, block.ffn.net
        self.first, self.last = net[0].proj, net[2]
        self.norms = [cast_module(n, dtype) for n in (self.attn.norm_q, self.attn.norm_k)]
        self.cross_attn_norms = [
            cast_module(n, dtype) for n in (self.cross_attn.norm_q, self.cross_attn.norm_k)
        ]
        self.norm: nn.LayerNorm = cast_module(block.norm2, dtype)
        self.table: Tensor = block.scale_shift_table.detach().to(dtype)  # [1, 6, D]


@dataclass
class Expert:
    """State of one of the two networks during the layers."""

    layers: Sequence[Layer]
    x: Tensor  # [B, S, D]
    places: Tensor  # [S, 1, E / 2] complex128
    modulation: Tensor  # [B, 6, D], or [B, S, 6, D] for a level of each token
    text_tokens: Tensor  # [B, L, D]
    text_mask: Tensor  # bool [B, 1, S, L]
    heads: int

    def project_qkv(self, at: int) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]:
        """q, k, v [B, S, H * E] and the rest of the modulation."""
        layer, each = self.layers[at], self.modulation.ndim == 4
        attn, (norm_q, norm_k) = layer.attn, layer.norms
        table = (layer.table + self.modulation).chunk(6, 2 if each else 1)
        shift, scale, *rest = [part.squeeze(2) for part in table] if each else table
        y = F.layer_norm(self.x, self.x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        q, k = rms(norm_q, attn.to_q(y)), rms(norm_k, attn.to_k(y))
        v = attn.to_v(y)
        return (
            apply_rotary(q, self.places, self.heads),
            apply_rotary(k, self.places, self.heads),
            v,
            rest,
        )

    def finish_layer(self, at: int, attended: Tensor, rest: Sequence[Tensor]) -> None:
        """Residual of the attention output [B, S, H * E], cross-attention, then feed-forward."""
        layer, (gate, shift, scale, gate_ffn) = self.layers[at], rest
        x, attn, (norm_q, norm_k) = self.x, layer.cross_attn, layer.cross_attn_norms
        x = x + gate * layer.attn.to_out[0](attended)
        y = F.layer_norm(x, x.shape[-1:], layer.norm.weight, layer.norm.bias, 1e-6)
        q, k = rms(norm_q, attn.to_q(y)), rms(norm_k, attn.to_k(self.text_tokens))
        attended = attention(q, k, attn.to_v(self.text_tokens), self.heads, self.text_mask)
        x = x + attn.to_out[0](attended)
        y = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        self.x = x + gate_ffn * layer.last(F.gelu(layer.first(y), approximate="tanh"))


class Plain:
    """A policy's weights, used as Fast-WAM's code uses its own, on their device.

    All that is computed has the dtype of the backbone's matrices.
    """

    @torch.no_grad()
    def __init__(self, policy: Policy, inputs: ModelInputs) -> None:
        """`inputs` hold all text tokens, padding included (`expand_repeats`)."""
        assert inputs.video is not None and inputs.action is not None
        backbone: Any = policy.backbone
        head: Any = policy.action_head
        self.policy, self.head, self.backbone, self.inputs = policy, head, backbone, inputs
        dtype = self.dtype = backbone.patch_embedding.weight.dtype
        self.layers = [Layer(block, dtype) for block in backbone.blocks]
        self.head_layers = [Layer(block, dtype) for block in head.blocks]
        self.levels = Levels(backbone.condition_embedder, dtype)
        self.head_levels = Levels(head.condition_embedder, dtype)
        self.frame = inputs.video.only("context").z[:, :, :1].to(dtype)  # [B, C, 1, h, w]
        self.device, self.actions = self.frame.device, inputs.action.x.shape[1]
        traits = policy.spec.backbone.traits
        self.heads = traits.num_heads
        context = embed_video(PassRunner(), backbone, inputs.video.only("context"), inputs.text)
        rotary = context.frames.rotary
        self.rotary = torch.complex(rotary.cos.double(), rotary.sin.double())[:, None]
        places = torch.arange(self.actions, device=self.device)
        angles = rotary_angles(places, traits.head_dim)
        self.places = torch.polar(torch.ones_like(angles), angles)[:, None]

    @torch.no_grad()
    def act(self, *, cached: bool) -> Tensor:
        """The actions [B, N, A], normalized."""
        inputs, head, device = self.inputs, self.head, self.device
        assert inputs.action is not None and inputs.state is not None
        state = head.state_encoder(inputs.state.to(self.dtype))[:, None]
        text_tokens = torch.cat([inputs.text.tokens.to(self.dtype), state], 1)
        valid = torch.ones(text_tokens.shape[:2], dtype=torch.bool, device=device)
        if inputs.text.valid is not None:
            valid[:, :-1] = inputs.text.valid
        seen, count = len(self.rotary), self.actions
        mask = torch.zeros(seen + count, seen + count, dtype=torch.bool, device=device)
        mask[:seen, :seen] = True
        mask[seen:, :] = True
        x = draw_noise(tuple(inputs.action.x.shape), inputs.action.x, generator(0)).to(self.dtype)
        past = None
        if cached:
            past = run_layers([self.video(text_tokens, valid)], mask[:seen, :seen], None)
        for sigma, lower in pairwise(self.policy.schedules["action"].grid()):
            experts = [self.action(x, sigma, text_tokens, valid)]
            if not cached:
                experts.insert(0, self.video(text_tokens, valid))
            run_layers(experts, mask[seen:] if cached else mask, past)
            x = x + head.action_decoder(experts[-1].x) * (lower - sigma)
        return x

    def video(self, text_tokens: Tensor, valid: Tensor) -> Expert:
        """The video network over the observed frame, whose tokens have level 0."""
        patches, embedder = self.backbone.patch_embedding, self.backbone.condition_embedder
        x = F.conv3d(self.frame, patches.weight, patches.bias, stride=patches.stride)
        x = x.flatten(2).transpose(1, 2).contiguous()
        modulation = self.levels(torch.zeros(x.shape[1], device=self.device))[None]
        text_mask = valid[:, None].expand(-1, x.shape[1], -1)[:, None]
        text = embedder.text_embedder(text_tokens)
        return Expert(self.layers, x, self.rotary, modulation, text, text_mask, self.heads)

    def action(self, x: Tensor, sigma: float, text_tokens: Tensor, valid: Tensor) -> Expert:
        """The action network."""
        head = self.head
        modulation = self.head_levels(torch.full((len(x),), sigma, device=self.device))
        tokens, text = head.action_encoder(x), head.condition_embedder.text_embedder(text_tokens)
        text_mask = valid[:, None].expand(-1, x.shape[1], -1)[:, None]
        return Expert(
            self.head_layers, tokens, self.places, modulation, text, text_mask, self.heads
        )


def expand_repeats(text: Text) -> Text:
    """Repeat each text token as often as `Text.repeats` counts it, as published code has them."""
    if text.repeats is None:
        return text
    counts = text.repeats[0].long()
    tokens, valid = (
        None if x is None else x.repeat_interleave(counts, 1) for x in (text.tokens, text.valid)
    )
    assert tokens is not None
    return Text(tokens, valid)


def run_layers(experts: Sequence[Expert], mask: Tensor, past: Cache | None) -> Cache:
    """Run all layers, each with dense attention under one boolean mask."""
    kept: Cache = []
    for layer in range(len(experts[0].layers)):
        projections = [expert.project_qkv(layer) for expert in experts]
        q, k = torch.cat([s[0] for s in projections], 1), torch.cat([s[1] for s in projections], 1)
        v = torch.cat([s[2] for s in projections], 1)
        kept.append((k, v))
        if past is not None:
            k, v = torch.cat([past[layer][0], k], 1), torch.cat([past[layer][1], v], 1)
        attended = attention(q, k, v, experts[0].heads, mask)
        parts = attended.split([expert.x.shape[1] for expert in experts], 1)
        for expert, part, (*_, rest) in zip(experts, parts, projections, strict=True):
            expert.finish_layer(layer, part, rest)
    return kept


@dataclass
class Measured:
    """Measurement of one implementation."""

    milliseconds: float  # median on the clock
    cpu: float  # least processor time, in milliseconds
    error: float  # largest difference of its actions from those of the first


def with_fresh_caches(inputs: ModelInputs) -> ModelInputs:
    """The same inputs for another chunk: only the prompt cache is kept."""
    return inputs.with_(text=inputs.text.with_fresh_chunk_cache())


@torch.no_grad()
def framework_share(policy: Policy, iters: int) -> list[float]:
    """Quartiles of the framework overhead, as a share of a chunk."""
    seen = observation(policy.spec, batch=1)

    def act() -> None:
        policy.act(seen, seed=0)

    act()
    return statistics.quantiles(framework(policy, act, max(iters, 2)), n=4, method="inclusive")


@torch.no_grad()
def compare_all(policy: Policy, width: int, layers: int, iters: int) -> Mapping[str, Measured]:
    """Measure all implementations at one size, in turn."""
    inputs = inference_inputs(policy, observation(policy.spec, batch=1))
    text_tokens = torch.zeros(1, TEXT_TOKENS, policy.spec.backbone.traits.text_width)
    text_tokens[:, :PROMPT_TOKENS].normal_()
    plain = Plain(policy, inputs.with_(text=Text(text_tokens)))
    repeats = torch.ones(1, PROMPT_TOKENS + 1)
    repeats[:, -1] = TEXT_TOKENS - PROMPT_TOKENS
    text = Text(text_tokens[:, : PROMPT_TOKENS + 1], repeats=repeats)
    inputs = policy.action_head.prepare(inputs.with_(text=text))
    runs: dict[str, Callable[[], Tensor]] = {
        "plain, no cache": lambda: plain.act(cached=False),
        "plain, joined cache": lambda: plain.act(cached=True),
        "wamkit, eager": lambda: policy.sample(with_fresh_caches(inputs), seed=0).action,
    }
    if compiler() is not None:
        fast = small(width, layers)
        fast.set_mode("compile")
        runs["wamkit, compile"] = lambda: fast.sample(with_fresh_caches(inputs), seed=0).action
    found = {name: run() for name, run in runs.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(iters):
        for name, run in runs.items():
            clock, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    first = found["plain, no cache"]
    return {
        name: Measured(
            1000 * statistics.median(clock for clock, _ in times[name]),
            1000 * min(cpu for _, cpu in times[name]),
            float((x - first).abs().max()),
        )
        for name, x in found.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Plain Fast-WAM against wamkit on a CPU.")
    parser.add_argument("width", nargs="?", type=int, help="of the video network, times 64")
    parser.add_argument("layers", nargs="?", type=int, default=8)
    parser.add_argument("--iters", type=int, default=7)
    parser.add_argument("--plot", type=Path, help="figure of the processor times, .svg or .png")
    chosen = parser.parse_args(arguments)
    about = machine(torch.device("cpu"))
    print(
        f"{about['name']}, {about['threads']} threads, load {about['load']}, torch "
        f"{about['torch']}, wamkit {about['wamkit']}, {about['date']}\n"
    )
    print("| width x layers | code | ms | CPU ms | wamkit's best is faster by | difference |")
    print("|---|---|---|---|---|---|")
    sizes = [(chosen.width, chosen.layers)]
    if chosen.width is None:
        sizes = [(64, 8), (128, 8), (256, 8), (512, 8)]
    drawn: dict[str, dict[str, float]] = {}
    shares: dict[str, list[float]] = {}
    for width, layers in sizes:
        policy = small(width, layers)
        ways = compare_all(policy, width, layers, chosen.iters)
        shares[f"{width} x {layers}"] = framework_share(policy, chosen.iters)
        best = min(way.cpu for name, way in ways.items() if name.startswith("wamkit"))
        drawn[f"ms of a chunk, {width} x {layers}"] = {n: way.cpu for n, way in ways.items()}
        for name, way in ways.items():
            print(
                f"| {width} x {layers} | {name} | {way.milliseconds:.0f} | {way.cpu:.0f} | "
                f"{way.cpu / best:.2f}x | {way.error:.0e} |"
            )
    print("\n| width x layers | framework | quartiles |")
    print("|---|---|---|")
    for size, (low, middle, high) in shares.items():
        print(f"| {size} | {middle:.1%} | {low:.1%} to {high:.1%} |")
    if chosen.plot is not None:
        with style():
            write(chosen.plot, bars(drawn))


if __name__ == "__main__":
    main()
