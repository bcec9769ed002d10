"""Passes lowered to another dtype, and layers that compute in float32 all the same."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


class ExactLinear(nn.Linear):
    """A linear layer that torch's autocast leaves alone."""

    def forward(self, x: Tensor) -> Tensor:
        """As that of a linear layer; under autocast in the dtype of the weight."""
        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


def exact(model: nn.Module) -> nn.Module:
    """`model`, with the linear layers that its `keep_float32` names left alone by autocast.

    `wamkit.checkpoints.safetensors.cast` gives them weights in float32, which autocast would round
    together with their inputs for every product; norms and sums it leaves alone.
    """
    kept = tuple(getattr(model, "keep_float32", ()))
    for name, layer in model.named_modules():
        if type(layer) is nn.Linear and any(re.search(p, f"{name}.weight") for p in kept):
            layer.__class__ = ExactLinear
    return model


def lowered(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Within, a pass runs under torch's autocast in `dtype`; as it is where that is float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype, cache_enabled=False)
