"""Weights of large linear layers in 8 bits: less to read, and faster products.

    kind              weight       input         where it runs
    float8            e4m3, rows   e4m3, rows    CUDA devices of compute capability 8.9 and above
    float8_weights    e4m3, rows   as it is      anywhere
    int8              int8, rows   int8, rows    anywhere
    int8_weights      int8, rows   as it is      anywhere

All are torchao's, but for `int8` on x86 processors, where torch's own kernel is faster, compiled or
not, with scales and errors as torchao's (`wamkit.acceleration.int8_linear`).

"rows": a scale of its own for every output of a weight, and for every token of an input. Rounding
happens once, on request (`Policy.quantize`), and is never saved.

Only linear layers inside the blocks of backbone and head are rounded, where nearly all products
are, and of those only large ones that read tokens: norms, what modulates them, embedders and the
ends of the network stay as they are. Library: github.com/pytorch/ao (BSD-3-Clause).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from ..errors import WamkitError, did_you_mean
from ..files.install import install_hint
from .compile_modules import blocks
from .int8_linear import fits, round_layers
from .torchao_messages import silence_torchao

Kind = Literal["none", "float8", "float8_weights", "int8", "int8_weights"]
KINDS: tuple[Kind, ...] = ("none", "float8", "float8_weights", "int8", "int8_weights")
MIN_ELEMENTS = 2**20
"""Elements of the smallest weight that is quantized: 1024 x 1024. Products with smaller ones gain
nothing on a GPU, where the kernels that round would take as long as the product."""

MODULATION = r"norm|mod"
"""Found in the names of layers that read a noise level and no tokens, in every family of models."""
DYNAMIC = {"float8": 16, "int8": 8}  # what rows and columns of a weight are multiples of
CAPABILITY = (8, 9)


@dataclass(frozen=True)
class QuantizationReport:
    """How many layers and elements `quantize` rounded."""

    layers: int
    elements: int  # in the weights of these layers
    left: int  # elements of all other weights of backbone and head


def check_kind(kind: str, device: torch.device, dtype: str) -> Kind:
    """Raise WamkitError unless a policy on `device`, in `dtype`, can be quantized so."""
    if kind not in KINDS:
        hint = did_you_mean(kind, list(KINDS), f"the kinds are {', '.join(KINDS)}")
        raise WamkitError(f"no quantization is called {kind!r}", hint)
    if kind == "none":
        return kind
    if find_spec("torchao") is None and not (kind == "int8" and fits(device)):
        raise WamkitError(
            "quantized weights need torchao, which is not installed", install_hint("quant")
        )
    if kind == "float8":
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
            found = str(device.type)
            if device.type == "cuda":
                found = "one of {}.{}".format(*torch.cuda.get_device_capability(device))
            raise WamkitError(
                "products in float8 need a CUDA device of compute capability 8.9 or above, and "
                f"the policy is on {found}",
                'choose "float8_weights", "int8" or "int8_weights"',
            )
        if dtype != "bfloat16":
            raise WamkitError(
                f"products in float8 give bfloat16, and the policy computes in {dtype}",
                'set dtype = "bfloat16" in the spec, or choose "int8"',
            )
    return kind  # type: ignore[return-value]


def quantize(
    parts: Iterable[object], kind: Kind, dtype: torch.dtype, min_elements: int = MIN_ELEMENTS
) -> QuantizationReport:
    """Round the weights of large linear layers in `dtype`, in place and for good.

    `parts` are a policy's backbone and action head; one that is no module is left as it is.

    Raises WamkitError if none has `min_elements` elements.
    """
    modules = [part for part in parts if isinstance(part, nn.Module)]
    chosen = list(quantizable_layers(modules, kind, dtype, min_elements))
    if not chosen:
        raise WamkitError(
            f"no linear layer in the blocks of this policy can be {kind}: none has "
            f"{min_elements:,} elements or more, in rows and columns that are multiples of "
            f"{DYNAMIC.get(kind, 1)}",
            'leave it at "none": a policy of this size gains nothing',
        )
    elements = sum(layer.weight.numel() for layer in chosen)
    whole = sum(p.numel() for module in modules for p in module.parameters())
    own = kind == "int8" and fits(chosen[0].weight.device)
    round_in_place(modules, chosen, kind, own=own)
    return QuantizationReport(len(chosen), elements, whole - elements)


def round_in_place(
    modules: Iterable[nn.Module], chosen: Sequence[nn.Module], kind: Kind, *, own: bool
) -> None:
    """Round the layers `chosen` below `modules`, by torchao.

    With `own` as in `wamkit.acceleration.int8_linear`.
    """
    if kind == "none":
        return
    if own:
        round_layers(modules, set(chosen))
        return
    apply, config = _config(kind)
    for layer in chosen:
        apply(layer, config)


def quantizable_layers(
    modules: Iterable[nn.Module], kind: Kind, dtype: torch.dtype, min_elements: int = MIN_ELEMENTS
) -> Iterator[nn.Linear]:
    """The layers that `quantize` rounds; what is kept in another dtype than `dtype` is kept."""
    multiple, seen = DYNAMIC.get(kind, 1), set()
    for block in (block for module in modules for block in blocks(module)):
        for name, layer in block.named_modules():
            if type(layer) is not nn.Linear or layer in seen:
                continue
            seen.add(layer)
            weight = layer.weight
            even = not any(size % multiple for size in weight.shape)
            large = weight.numel() >= min_elements and weight.dtype == dtype
            if even and large and not re.search(MODULATION, name):
                yield layer


def _config(kind: Kind) -> tuple[Any, Any]:
    """torchao's way to round one layer, and its settings."""
    silence_torchao()
    # Compiled code is kept for this process alone where a weight is no plain tensor: no news.
    warnings.filterwarnings("ignore", ".*_stable_hash_for_caching")
    ao: Any = import_module("torchao.quantization")
    rows = ao.PerRow()
    # Settings of the compiler are the caller's: torchao would change them for the whole process.
    config = {
        "float8": lambda: ao.Float8DynamicActivationFloat8WeightConfig(
            granularity=rows, set_inductor_config=False
        ),
        "float8_weights": lambda: ao.Float8WeightOnlyConfig(set_inductor_config=False),
        "int8": lambda: ao.Int8DynamicActivationInt8WeightConfig(
            granularity=rows, set_inductor_config=False
        ),
        "int8_weights": lambda: ao.Int8WeightOnlyConfig(
            granularity=rows, set_inductor_config=False
        ),
    }[kind]()
    return ao.quantize_, config
