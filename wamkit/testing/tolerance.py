"""Tolerances between two computations of the same values, on any processor.

Products and sums are rounded in another order by another processor, kernel, batch size or number
of threads. A difference is therefore measured against the largest number that is expected, never
against a fixed one, and what matters is compared in float64, where a formula that is wrong stands
out from rounding by many orders:

    with float64():
        wanted = theirs(to_float64(reference), *to_float64(inputs))
        same_values(ours(to_float64(model), *to_float64(inputs)), wanted)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["ROUNDING", "float64", "other_values", "same_values", "to_float64"]

T = TypeVar("T")

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Error allowed in each dtype, relative to the largest number: ten times what networks show."""


def same_values(
    found: Any, expected: Any, error: float | None = None, *, scale: float | None = None
) -> None:
    """Assert equal values, to within `error` times the largest absolute expected value.

    Tensors, arrays and floats, alone or in lists and dictionaries. Shapes and dtypes of tensors
    are the same. Without `error`: `ROUNDING` of the dtype; integers are equal. Give `scale`
    where values are small because large ones cancel: the size of those.
    """
    pairs = list(_pairs(found, expected, ""))
    assert pairs, "nothing to compare"
    faults = [fault for pair in pairs if (fault := _fault(*pair, error, scale))]
    assert not faults, "\n".join(faults)


def other_values(found: Any, expected: Any, least: float = 1e-3) -> None:
    """Not the same: some number is off by more than `least` times the largest one expected."""
    pairs = list(_pairs(found, expected, ""))
    apart = [_distance(a, b)[0] / (_scale(b) or 1.0) for a, b, _ in pairs]
    assert max(apart) > least, (
        f"differs by {max(apart):.1e} of the largest number, expected more than {least:.0e}"
    )


def _pairs(found: Any, expected: Any, name: str) -> Iterator[tuple[Tensor, Tensor, str]]:
    """The tensors on both sides that belong together, and their names."""
    if isinstance(expected, Mapping):
        assert set(found) == set(expected), f"{name or 'names'}: {set(found) ^ set(expected)}"
        for key in expected:
            yield from _pairs(found[key], expected[key], f"{name}[{key!r}]")
    elif isinstance(expected, Sequence) and any(not np.isscalar(x) for x in expected):
        assert len(found) == len(expected), f"{name}: {len(found)} of {len(expected)}"
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            yield from _pairs(a, b, f"{name}[{i}]")
    else:
        a, b = _tensor(found, expected), _tensor(expected, found)
        assert a.shape == b.shape, f"{name}: shape {list(a.shape)}, expected {list(b.shape)}"
        assert a.dtype == b.dtype, f"{name}: {a.dtype}, expected {b.dtype}"
        yield a, b, name


def _tensor(x: Any, other: Any) -> Tensor:
    """Convert to a tensor on the CPU; Python numbers get the dtype of the other operand."""
    if isinstance(x, Tensor | np.ndarray | np.generic):
        return torch.as_tensor(x).detach().cpu()
    wide = torch.as_tensor(x, dtype=torch.float64)
    if isinstance(other, Tensor | np.ndarray | np.generic):
        return wide.to(torch.as_tensor(other).dtype)
    return wide


def _fault(
    found: Tensor, expected: Tensor, name: str, error: float | None, scale: float | None
) -> str:
    """Describe the difference of a tensor; empty if there is none."""
    if not expected.numel():
        return ""
    if error is None:
        error = ROUNDING.get(expected.dtype, 0.0)
    size = _scale(expected) if scale is None else scale
    distance, place = _distance(found, expected)
    if distance <= error * size:
        return ""
    at = [int(i) for i in np.unravel_index(place, tuple(expected.shape))]
    a, b = found[tuple(at)].item(), expected[tuple(at)].item()
    apart = f"{distance / size:.2e} of" if size else f"{distance:.2e} at"
    return (
        f"{name + ' ' if name else ''}at {at} of {list(expected.shape)}: found {a:.9g}, expected "
        f"{b:.9g}; they differ by {apart} the scale {size:.4g}, allowed {error:.0e} "
        f"({str(expected.dtype).removeprefix('torch.')})"
    )


def _scale(x: Tensor) -> float:
    """The largest size of any finite number."""
    wide = x.double()
    return float(wide[wide.isfinite()].abs().max()) if bool(wide.isfinite().any()) else 0.0


def _distance(found: Tensor, expected: Tensor) -> tuple[float, int]:
    """The largest difference, and the place of it among all; infinite where one is not finite."""
    a, b = found.double(), expected.double()
    apart = torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(torch.inf, torch.inf).flatten()
    place = int(apart.argmax())
    return float(apart[place]), place


_BYTES = {torch.frombuffer, torch.from_file, Tensor.view}
"""Functions that reinterpret bytes: a dtype there must not change."""


class _Doubling(TorchFunctionMode):
    """Replaces float32 by float64 in calls of torch."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _BYTES:
            return func(*args, **(kwargs or {}))
        if func is Tensor.float:
            func = Tensor.double
        named = {key: _wide(x) for key, x in (kwargs or {}).items()}
        return func(*(_wide(x) for x in args), **named)


def _wide(x: Any) -> Any:
    return torch.float64 if x is torch.float32 else x


@contextmanager
def float64() -> Iterator[None]:
    """Make torch compute in float64 within the block, where float32 is written or default.

    `.float()`, `dtype=torch.float32` and new tensors are float64, so that networks which take
    some steps in float32 whatever their weights are compute all of it in float64. Tensors that
    are there already are left as they are: see `to_float64`. Also a decorator, of tests too.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Doubling():
            yield
    finally:
        torch.set_default_dtype(before)


def to_float64(x: T) -> T:
    """A copy in float64: of a module, of a tensor, or of what holds tensors; the rest as it is."""
    found: Any = x
    if isinstance(x, nn.Module):
        found = copy.deepcopy(x).double()
    elif isinstance(x, Tensor):
        found = x.double() if x.dtype == torch.float32 else x
    elif is_dataclass(x) and not isinstance(x, type):
        values = {f.name: getattr(x, f.name) for f in fields(x) if f.init}
        found = replace(x, **{name: to_float64(value) for name, value in values.items()})
    elif isinstance(x, Mapping):
        found = {key: to_float64(value) for key, value in x.items()}
    elif type(x) in (list, tuple):
        each: Any = x
        found = type(each)(to_float64(value) for value in each)
    return found  # type: ignore[no-any-return]
