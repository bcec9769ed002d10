"""Numbers that are NaN or infinite: where they are, and in which tensor of which file.

Weights stay mapped to their files, and looking at a number reads its page. So what is looked at
when weights are loaded is what is small, what is converted anyway, and everything where all of it
is quickly read; the rest is searched when a chunk turns out not to be finite
(`wamkit.policy.blame`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WamkitError

WHOLE = 2**28
"""Bytes of weights up to which every number is looked at when they are loaded: 256 MiB."""
SMALL = 2**16
"""Bytes up to which a tensor is looked at whatever the others hold: norms and biases."""
ORIGINS = "_origins"
"""Attribute of a module that was loaded: name of a tensor -> its name and file there."""
AGAIN = "download or copy the file again; if it was converted, convert it in float32 or bfloat16"


def is_finite(tensor: Tensor) -> bool:
    """True if no number is NaN or infinite; one pass without a copy, and a device is waited for."""
    if not tensor.numel() or not tensor.is_floating_point() or tensor.is_meta:
        return True
    low, high = torch.aminmax(tensor.detach() if tensor.itemsize > 1 else tensor.float())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def fault(tensor: Tensor) -> str | None:
    """What is wrong with a tensor, such as "nan at [0, 3], 5 of 64 numbers"; None if nothing is."""
    if is_finite(tensor):
        return None
    flat = tensor.detach().reshape(-1)
    bad = ~torch.isfinite(flat if tensor.itemsize > 1 else flat.float())
    first = int(bad.nonzero()[0])
    place: list[int] = []
    rest = first
    for size in reversed(tensor.shape):
        rest, index = divmod(rest, size)
        place.insert(0, index)
    return f"{float(flat[first])} at {place}, {int(bad.sum())} of {flat.numel()} numbers"


def expect_weights(
    tensors: Iterable[tuple[str, Tensor]], where: Mapping[str, str], whole: bool
) -> None:
    """Raise WamkitError with every tensor that is not finite and `where` its name comes from.

    All tensors if `whole`, else the small ones.
    """
    found = []
    for name, tensor in tensors:
        looked = whole or tensor.numel() * tensor.itemsize <= SMALL
        if looked and (bad := fault(tensor)) is not None:
            found.append(f"{where.get(name, name)}: {bad}")
    if found:
        raise unusable(found)


def unusable(found: Sequence[str]) -> WamkitError:
    """The error for weights that are not finite, one line for each tensor."""
    more = [f"and {len(found) - 8} more"] if len(found) > 8 else []
    lines = "\n  ".join([*found[:8], *more])
    count = f"{len(found)} tensor{'s' * (len(found) != 1)} of weights"
    return WamkitError(f"{count} hold NaN or infinity, expected finite numbers\n  {lines}", AGAIN)


def bad_weights(modules: Mapping[str, Any]) -> list[str]:
    """Every parameter that is not finite, and every buffer that holds NaN, with its file."""
    found = []
    for kind, module in modules.items():
        if not isinstance(module, nn.Module):
            continue
        origins = dict(_origins(module))
        parameters = {name for name, _ in module.named_parameters()}
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            bad = fault(tensor) if _plain(tensor) else None
            if bad is not None and (name in parameters or bool(tensor.isnan().any())):
                origin = f" ({origins[name]})" if name in origins else ""
                found.append(f"{kind}.{name}{origin}: {bad}")
    return found


def largest_weight(modules: Mapping[str, Any]) -> tuple[str, float]:
    """Name and size of the largest weight, which is 0 where there is none."""
    found = ("", 0.0)
    for kind, module in modules.items():
        for name, tensor in module.named_parameters() if isinstance(module, nn.Module) else ():
            if _plain(tensor) and tensor.numel() and tensor.itemsize > 1:
                low, high = torch.aminmax(tensor.detach())
                value = max(float(high), -float(low))
                found = max(found, (f"{kind}.{name}", value), key=lambda pair: pair[1])
    return found


def _plain(tensor: Tensor) -> bool:
    """False for tensors of eight bits and the like, which are classes of their own."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.is_floating_point()


def _origins(module: nn.Module) -> Iterator[tuple[str, str]]:
    for prefix, inner in module.named_modules():
        for name, origin in getattr(inner, ORIGINS, {}).items():
            yield (f"{prefix}.{name}" if prefix else name), origin
