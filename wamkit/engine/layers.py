"""Pieces that several plugins share: embeddings, rotary positions, adaptive norms, patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..acceleration.fused_linear import fused_linear as fused_linear
from .attention import QKV as QKV
from .attention import attend_text as attend_text
from .attention import attention as attention
from .conditioning import TextCond as TextCond
from .conditioning import TextKV as TextKV
from .device import constant as constant
from .device import to_device as to_device
from .kv_cache import KV as KV
from .text import additive_mask as additive_mask


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


def latent_times(places: Sequence[float], chunk: int, frames: tuple[int, int]) -> tuple[float, ...]:
    """Places on the axis of actions as times on that of latent frames.

    The K actions of latent frame f stand at f + k / (K + 1), k = 1 .. K (LingBot-VA,
    `wan_va/utils/utils.py`); a chunk covers the imagined frames, after the observed ones. `frames`
    are how many are observed, and imagined; where nothing is imagined a chunk covers one frame.
    """
    observed, imagined = frames[0], max(frames[1], 1)
    per_frame = -(-chunk // imagined)
    found = []
    for place in places:
        number, step = divmod(place, chunk)
        frame, rest = divmod(step, per_frame)
        found.append(observed + number * imagined + frame + (rest + 1) / (per_frame + 1))
    return tuple(found)


class RotaryEmbedding(NamedTuple):
    """Rotary positions of tokens, float32."""

    cos: Tensor  # [S, E / 2]; [H, S, E / 2] where heads differ, [B, 1, S, E / 2] where samples do
    sin: Tensor  # the same
    cis: Tensor | None = None  # the same as complex numbers, for eager rotation of pairs


def rotary_embedding(angles: Tensor, *, pairs: bool = True) -> RotaryEmbedding:
    """Angles [..., E / 2] float64 as what `rotate_pairs` (`pairs`) or `rotate_halves` reads."""
    cos, sin = angles.cos().float(), angles.sin().float()
    return RotaryEmbedding(cos, sin, torch.complex(cos, sin) if pairs else None)


def axial_rotary(
    positions: Tensor, sizes: Sequence[int], *, theta: float = 10_000.0, pairs: bool = True
) -> RotaryEmbedding:
    """Rotary positions where each axis turns its own part of a head.

    Args:
        positions: [..., S, axes] float64; axes that are missing are 0.
        sizes: Elements of a head that turn with each axis, E in all.
        theta: The base of the frequencies.
        pairs: As `rotary_embedding`.
    """
    missing = len(sizes) - positions.shape[-1]
    if missing > 0:
        positions = F.pad(positions, (0, missing))
    axes = zip(positions.unbind(-1), sizes, strict=True)
    return rotary_embedding(
        torch.cat([rotary_angles(p, n, theta=theta) for p, n in axes], -1), pairs=pairs
    )


def rotate_pairs(x: Tensor, rotary: RotaryEmbedding) -> Tensor:
    """x [B, H, S, E] with neighbors (2i, 2i + 1) turned.

    What comes out of `split_heads` stays as it lies in memory, token by token.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    cis = rotary.cis
    if torch.compiler.is_compiling() or cis is None or not _is_complex(pairs):
        a, b = pairs.transpose(1, 2).unbind(-1)  # [B, S, H, E / 2]
        cos, sin = (
            y[:, None] if y.ndim == 2 else y.transpose(-3, -2) for y in (rotary.cos, rotary.sin)
        )
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).transpose(1, 2)
    else:  # the same in one operation, which the compiler does not know
        turned = torch.view_as_real(torch.view_as_complex(pairs) * cis)
    return turned.flatten(-2).to(x.dtype)


def rotate_halves(x: Tensor, rotary: RotaryEmbedding) -> Tensor:
    """x [B, H, S, E] with elements i and i + E / 2 turned."""
    a, b = x.float().chunk(2, -1)
    cos, sin = rotary.cos, rotary.sin
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def _is_complex(pairs: Tensor) -> bool:
    """Whether pairs of such strides are complex numbers."""
    odd = pairs.storage_offset() % 2 | pairs.stride(-1) - 1
    for stride in pairs.stride()[:-1]:  # written out: this runs in every layer and step
        odd |= stride % 2
    return not odd


def one_plus_scale(rows: Tensor, start: int = 1, every: int = 3) -> Tensor:
    """Modulation [R, M, D] of (shift, scale, gate), ..., with 1 added to its scales.

    Not in place: FSDP puts hooks on what a block returns, and torch 2.14 crashes at those on a view
    that was written to.
    """
    scales = range(start, rows.shape[1], every)
    ones = tuple([float(i in scales) for i in range(rows.shape[1])])
    return rows + constant(ones, rows.dtype, rows.device)[:, None]


def _broadcasts(x: Tensor, rows: Tensor) -> bool:
    """Whether rows [B or 1, G, D] broadcast over tokens [B, S, D]: one for all, or one each."""
    return rows.shape[1] in (1, x.shape[1])


def _by_group(x: Tensor, rows: Tensor) -> Tensor:
    """Tokens [B, S, D] as those of each group of rows [B or 1, G, D]: [B, G, S / G, D]."""
    return x.unflatten(1, (rows.shape[1], -1))


def ada_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Adaptive layer norm: without weights, times `scale`, plus `shift`, in float32.

    Args:
        x: Tokens [B, S, D].
        shift: [B or 1, G, D] float32, a row for each of G groups of S / G tokens.
        scale: The same, with 1 added already (`one_plus_scale`).
        eps: Of the norm.
    """
    return _scale_shift(x, F.layer_norm(x.float(), x.shape[-1:], eps=eps), shift, scale)


def ada_rms_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """As `ada_norm`, with a norm that divides by the root of the mean square."""
    return _scale_shift(x, F.rms_norm(x.float(), x.shape[-1:], eps=eps), shift, scale)


def _scale_shift(x: Tensor, y: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """y * scale + shift in the dtype of x, of which y is a norm."""
    if _broadcasts(x, shift):
        return torch.addcmul(shift, y, scale).to(x.dtype)
    y, groups = _by_group(y, shift), shift.unsqueeze(2)
    return torch.addcmul(groups, y, scale.unsqueeze(2)).flatten(1, 2).to(x.dtype)


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """x [B, S, D] times rows [B or 1, G, D] of groups, in the dtype of the product."""
    if _broadcasts(x, scale):
        return x * scale
    return (_by_group(x, scale) * scale.unsqueeze(2)).flatten(1, 2)


def gated_add(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x + gate * y in float32, gate [B or 1, G, D]; the dtype of x out."""
    if _broadcasts(x, gate):
        return (x.float() + gate * y).to(x.dtype)
    total = _by_group(x.float(), gate) + gate.unsqueeze(2) * _by_group(y, gate)
    return total.flatten(1, 2).to(x.dtype)


def patches(z: Tensor, size: Sequence[int], *, channels_last: bool = False) -> Tensor:
    """Latents [B, C, T, h, w] as patches [B, S, C * elements], frame by frame, row by row.

    In a patch channels come first, or last.
    """
    for axis, n in zip((2, 4, 6), size, strict=True):
        z = z.unflatten(axis, (-1, n))
    order = (0, 2, 4, 6, 3, 5, 7, 1) if channels_last else (0, 2, 4, 6, 1, 3, 5, 7)
    return z.permute(order).flatten(4).flatten(1, 3)


def unpatched(
    y: Tensor, grid: Sequence[int], size: Sequence[int], *, channels_last: bool = True
) -> Tensor:
    """The reverse of `patches`: [B, S, C * elements] to [B, C, T, h, w].

    Args:
        y: Patches.
        grid: Frames, token rows, token columns.
        size: Rows and columns of a patch.
        channels_last: Whether channels come last in a patch, or first.
    """
    y = y.unflatten(1, tuple(grid))  # [B, T, rows, columns, ...]
    if channels_last:
        y = y.unflatten(-1, (*size, -1)).permute(0, 6, 1, 2, 4, 3, 5)
    else:
        y = y.unflatten(-1, (-1, *size)).permute(0, 4, 1, 2, 5, 3, 6)
    return y.flatten(5, 6).flatten(3, 4)


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """The mean [B, D] of tokens [B, S, D] in their dtype; `valid` [B, S] is as `Text.mask`.

    Zero where no token of a sample is real.
    """
    if valid is None:
        return x.mean(1)
    weight = valid.exp() if valid.is_floating_point() else valid.float()
    share = weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return (x * share[..., None].to(x.dtype)).sum(1)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """[B, S, H * E] to [B, H, S, E]."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


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

    def __init__(
        self,
        inputs: int,
        width: int,
        activation: nn.Module,
        outputs: int | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width, bias=bias)
        self.activation = activation
        self.linear_2 = nn.Linear(width, width if outputs is None else outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs], `width` by default."""
        return self.linear_2(self.activation(self.linear_1(x)))


GELU_SLOPE = math.sqrt(8 / math.pi)
GELU_CUBE = 0.044715 * GELU_SLOPE


class GELU(nn.Module):
    """Linear and GELU, under diffusers' name `proj`."""

    def __init__(self, width: int, hidden: int, approximate: str, *, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden, bias=bias)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., hidden]."""
        x = self.proj(x)
        compiled = torch.compiler.is_compiling() and not torch.is_grad_enabled()
        if compiled and self.approximate == "tanh":  # as sigmoid, since compiled exp is faster
            y = x if x.dtype == torch.float64 else x.float()
            return (y * torch.sigmoid(y * (GELU_SLOPE + GELU_CUBE * y * y))).to(x.dtype)
        return F.gelu(x, approximate=self.approximate)


class FeedForward(nn.Module):
    """Linear, GELU, linear, under diffusers' names `net.0.proj` and `net.2`."""

    def __init__(
        self, width: int, hidden: int, *, approximate: str = "tanh", bias: bool = True
    ) -> None:
        super().__init__()
        first, last = GELU(width, hidden, approximate, bias=bias), nn.Linear(hidden, width, bias)
        self.net = nn.ModuleList([first, nn.Identity(), last])

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width]."""
        return self.net[2](self.net[0](x))
