"""From the expert's final tokens to velocities: three decoders.

linear      x --> linear
adaln       x --norm--> * (1 + scale) + shift --> linear   table + level; begins with zeros
modulated   x --norm--> * (1 + scale) + shift --> linear   projected from the level; no biases
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import ada_norm, one_plus_scale


class AdaptiveDecoder(nn.Module):
    """Norm, scale and shift by the noise level, and a linear layer that begins with zeros.

    Wan's final layer; Efficient-WAM (arXiv 2606.10040, `models/action_expert.py`) has it for
    actions.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)
        self.proj_out = nn.Linear(width, size)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """x [B, n, D] and embedded levels [B or 1, n or 1, D] float32 to [B, n, A]."""
        table = self.scale_shift_table.float()
        return self.proj_out(ada_norm(x, table[:, :1] + level, 1 + table[:, 1:] + level))


class ModulatedDecoder(nn.Module):
    """FLUX.2's final layer, which ImageWAM (arXiv 2606.19531) has for actions."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.level_proj = nn.Linear(width, 2 * width, bias=False)
        self.proj_out = nn.Linear(width, size, bias=False)

    def modulation(self, level: Tensor) -> Tensor:
        """Vectors of noise levels [R, D] to shift and 1 + scale [R, 2, D] float32."""
        rows = self.level_proj(F.silu(level).to(self.level_proj.weight.dtype)).float()
        return one_plus_scale(rows.unflatten(-1, (2, -1)))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [B, n, D] and rows [B or 1, n or 1, 2, D] float32 to [B, n, A]."""
        shift, scale = modulation.unbind(2)
        return self.proj_out(ada_norm(x, shift, scale))  # type: ignore[no-any-return]


DECODERS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear,
    "adaln": AdaptiveDecoder,
    "modulated": ModulatedDecoder,
}
