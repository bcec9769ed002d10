"""Find NaN and infinite values in weights, with the tensor and file that holds them.

Weights stay mapped to their files, and checking a value reads its page from disk. Loading
therefore checks small tensors, tensors that are converted anyway, and all tensors if the files are
small. `wamkit.policy.blame` searches the rest when an action chunk is not finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WamkitError

WHOLE = 2**28
"""Bytes of weights up to which every value is checked at loading: 256 MiB."""
SMALL = 2**16
"""Bytes up to which a tensor is always checked: norms and biases."""
ORIGINS = "_origins"
"""Attribute of a loaded module: tensor name -> its name and file in the checkpoint."""
AGAIN = "download or copy the file again; if it was converted, convert it in float32 or bfloat16"


def is_finite(tensor: Tensor) -> bool:
    """True if no value is NaN or infinite; makes no copy, synchronizes with the device."""
    if not tensor.numel() or not tensor.is_floating_point() or tensor.is_meta:
        return True
    low, high = torch.aminmax(tensor.detach() if tensor.itemsize > 1 else tensor.float())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def fault(tensor: Tensor) -> str | None:
    """Describe NaN and infinity, such as "nan at [0, 3], 5 of 64 values"; None if all is finite."""
    if is_finite(tensor):
        return None
    flat = tensor.detach().reshape(-1)
    bad = ~torch.isfinite(flat if tensor.itemsize > 1 else flat.float())
    first = int(bad.nonzero()[0])
    position: list[int] = []
    rest = first
    for size in reversed(tensor.shape):
        rest, index = divmod(rest, size)
        position.insert(0, index)
    return f"{float(flat[first])} at {position}, {int(bad.sum())} of {flat.numel()} values"


def expect_weights(
    tensors: Iterable[tuple[str, Tensor]], where: Mapping[str, str], whole: bool
) -> None:
    """Raise WamkitError listing every tensor that is not finite, named by `where`.

    Checks all tensors if `whole`, else the small ones.
    """
    found = []
    for name, tensor in tensors:
        checked = whole or tensor.numel() * tensor.itemsize <= SMALL
        if checked and (bad := fault(tensor)) is not None:
            found.append(f"{where.get(name, name)}: {bad}")
    if found:
        raise non_finite_error(found)


def non_finite_error(found: Sequence[str]) -> WamkitError:
    """The error for weights that are not finite, one line for each tensor."""
    more = [f"and {len(found) - 8} more"] if len(found) > 8 else []
    lines = "\n  ".join([*found[:8], *more])
    count = f"{len(found)} tensor{'s' * (len(found) != 1)} of weights"
    return WamkitError(f"{count} hold NaN or infinity, expected finite values\n  {lines}", AGAIN)


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
    """Name and absolute value of the largest weight; ("", 0.0) without weights."""
    found = ("", 0.0)
    for kind, module in modules.items():
        for name, tensor in module.named_parameters() if isinstance(module, nn.Module) else ():
            if _plain(tensor) and tensor.numel() and tensor.itemsize > 1:
                low, high = torch.aminmax(tensor.detach())
                value = max(float(high), -float(low))
                found = max(found, (f"{kind}.{name}", value), key=lambda pair: pair[1])
    return found


def _plain(tensor: Tensor) -> bool:
    """True for plain float tensors; False for subclasses, such as quantized weights."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.is_floating_point()


def _origins(module: nn.Module) -> Iterator[tuple[str, str]]:
    for prefix, inner in module.named_modules():
        for name, origin in getattr(inner, ORIGINS, {}).items():
            yield (f"{prefix}.{name}" if prefix else name), origin
