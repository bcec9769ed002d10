"""A VAE in the dtype its configuration names: in one place, for whichever plugin builds it.

Nothing here imports torch until a VAE is built.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any


def in_its_dtype(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`build` of a `VAEConfig`, and what it returns cast to `dtype`.

    What the VAE keeps in float32 (`keep_float32`) stays so. In bfloat16 the kernels of
    two-dimensional convolutions lie with channels last, as the fast ones of a GPU want them: what
    they are given takes that layout from them.
    """

    @wraps(build)
    def built(config: Any) -> Any:
        import torch
        from torch import nn

        from .weights import cast

        vae = build(config)
        if not isinstance(vae, nn.Module):
            return vae
        cast(vae, getattr(torch, config.dtype))
        if config.dtype == "bfloat16":
            for layer in vae.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.weight.data = layer.weight.data.contiguous(
                        memory_format=torch.channels_last
                    )
        return vae

    return built
