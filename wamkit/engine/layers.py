"""Pieces that several plugins need: sinusoids, rotary positions, modulation, norms."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary


def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Python numbers as a tensor [n] on a device, brought there once; nobody writes to it.

    Made anew at every call, it would wait for a CUDA device each time, and could not be recorded.
    """
    return _brought(values, dtype, device, torch.get_default_dtype())


# As torch.compiler.assume_constant_result, which imports the compiler: its code holds the tensor.
constant._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache  # none is forgotten: what was recorded reads it where it lies
def _brought(
    values: tuple[float, ...], dtype: torch.dtype, device: torch.device, _default: torch.dtype
) -> (
    Tensor
):  # by the default dtype, too: `wamkit.testing.tolerance.float64` reads float32 as float64
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the host does not wait until it is there."""
    return x.to(device, non_blocking=device.type == "cuda")


def sinusoid(t: Tensor, width: int, *, period: float = 10_000.0, scale: float = 1.0) -> Tensor:
    """cos and sin of t at geometric frequencies, [..., width] float32, cosines first.

    Frequencies run from `scale` down to scale / period (Vaswani et al. 2017, in the order of
    diffusers' `Timesteps(flip_sin_to_cos=True, downscale_freq_shift=0, scale=scale)`, down to
    which product is rounded first).
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = scale * (t.float()[..., None] * torch.exp(-math.log(period) * steps / half))
    return torch.cat([angle.cos(), angle.sin()], -1)


def rotary_angles(positions: Tensor, size: int, *, theta: float = 10_000.0) -> Tensor:
    """Angles position / theta^(2i / size) of rotary positions, [..., size / 2] float64.

    Su et al. 2021, "RoFormer".
    """
    power = torch.arange(0, size, 2, dtype=torch.float64, device=positions.device) / size
    return positions.double()[..., None] / theta**power


def latent_times(places: Tensor, chunk: int, frames: tuple[int, int]) -> Tensor:
    """Places on the axis of actions [S] as times on that of latent frames, float32.

    The K actions of latent frame f stand at f + k / (K + 1), k = 1 .. K (LingBot-VA,
    `wan_va/utils/utils.py`); a chunk covers the imagined frames, after the observed ones. `frames`
    are how many are observed, and imagined; where nothing is imagined a chunk covers one frame.
    """
    observed, imagined = frames[0], max(frames[1], 1)
    per_frame = -(-chunk // imagined)
    number = torch.div(places, chunk, rounding_mode="floor")
    step = places - number * chunk
    frame = torch.div(step, per_frame, rounding_mode="floor")
    rest = step - frame * per_frame
    return (observed + number * imagined + frame + (rest + 1) / (per_frame + 1)).float()


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, H, S, E] with neighbors (2i, 2i+1) turned by angles of cos, sin [S, E / 2] float32.

    Where heads or samples differ, angles are [H, S, E / 2] or [B, 1, S, E / 2]. What comes out of
    `split_heads` stays as it lies in memory, token by token.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling() or pairs.storage_offset() % 2 or _odd(pairs.stride()):
        a, b = pairs.transpose(1, 2).unbind(-1)  # [B, S, H, E / 2]
        cos, sin = (y[:, None] if y.ndim == 2 else y.transpose(-3, -2) for y in (cos, sin))
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).transpose(1, 2)
    else:  # the same in one operation, which the compiler does not know
        turned = torch.view_as_real(torch.view_as_complex(pairs) * _unit(cos, sin))
    return turned.flatten(-2).to(x.dtype)


_units: MutableMapping[Tensor, tuple[Tensor, Tensor]] = WeakIdKeyDictionary()


def _unit(cos: Tensor, sin: Tensor) -> Tensor:
    """cos + i sin, made once for as long as the table of cosines is there."""
    if torch.is_grad_enabled():
        return torch.complex(cos, sin)
    found = _units.get(cos)
    if found is None or found[0] is not sin:
        found = _units[cos] = sin, torch.complex(cos, sin)
    return found[1]


def _odd(strides: Sequence[int]) -> bool:
    """Whether pairs of such strides are no complex numbers."""
    odd = strides[-1] - 1
    for stride in strides[:-1]:  # written out: this runs in every layer and step
        odd |= stride % 2
    return bool(odd)


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Layer norm without weights, then scaled and shifted, in float32; the dtype of x out."""
    normal = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return torch.addcmul(shift, normal, 1 + scale).to(x.dtype)


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """The mean [B, D] of tokens [B, S, D] in their dtype; `valid` [B, S] is as `Text.mask`.

    Zero where no token of a sample is real.
    """
    if valid is None:
        return x.mean(1)
    weight = valid.exp() if valid.is_floating_point() else valid.float()
    share = weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return (x * share[..., None].to(x.dtype)).sum(1)


ALIGNED = 8
"""Numbers between the rows of a mask that attention on CUDA takes as it is: others it copies at
every call (PyTorch, `aten/src/ATen/native/transformers/attention.cpp`, `preprocess_mask`)."""


def additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask [B, S], as `Text.mask`, as attention adds it to scores: 0 where it may look.

    Attention converts any other mask at every call. On CUDA its rows begin at multiples of
    ALIGNED numbers.
    """
    if mask is None:
        return None
    if mask.is_floating_point():
        weights = mask.to(dtype)
    else:
        weights = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
    length = mask.shape[-1]
    if not mask.is_cuda or length % ALIGNED == 0:
        return weights
    return F.pad(weights, (0, -length % ALIGNED))[:, :length]


def split_heads(x: Tensor, head_size: int) -> Tensor:
    """[B, S, H * E] to [B, H, S, E]."""
    return x.unflatten(-1, (-1, head_size)).transpose(1, 2)


class LayerNorm(nn.LayerNorm):
    """With weights and bias, computed in float32; the dtype of x out."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]; x and the weights may have any dtypes."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """With weights, computed in float32; the dtype of x out."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__(size, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]; x and the weights may have any dtypes."""
        weight = self.weight.float()
        return F.rms_norm(x.float(), self.normalized_shape, weight, self.eps).to(x.dtype)


class Embedder(nn.Module):
    """Two linear layers with a nonlinearity between, under diffusers' names."""

    def __init__(self, inputs: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.activation = activation
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., width]."""
        return self.linear_2(self.activation(self.linear_1(x)))


class GELU(nn.Module):
    """Linear and GELU, under diffusers' name `proj`."""

    def __init__(self, width: int, hidden: int, approximate: str) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., hidden]."""
        return F.gelu(self.proj(x), approximate=self.approximate)


class FeedForward(nn.Module):
    """Linear, GELU (tanh), linear, under diffusers' names `net.0.proj` and `net.2`."""

    def __init__(self, width: int, hidden: int, *, approximate: str = "tanh") -> None:
        super().__init__()
        first = GELU(width, hidden, approximate)
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(hidden, width)])

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width]."""
        return self.net[2](self.net[0](x))
