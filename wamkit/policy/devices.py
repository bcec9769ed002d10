"""Validate devices by name before anything is built."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import nn

from ..errors import WamkitError

HERE = "cpu"
"""The device that every machine has."""


def expect_device(name: str | torch.device, *, has_values: bool = True) -> torch.device:
    """The device of that name, if this machine can compute on it.

    `meta`, whose tensors have shapes and no values, is accepted if `has_values` is false. Raises
    WamkitError if there is no such device.
    """
    try:
        place = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        raise _none(f"there is no device {str(name)!r}") from None
    if place.type == "meta":
        if has_values:
            raise _none("on the device 'meta' nothing is computed")
        return place
    if place.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise _none("this machine has no CUDA device")
        if (place.index or 0) >= count:
            raise _none(f"there is no device {str(place)!r}: this machine has {count} with CUDA")
        return place
    try:
        torch.ones(1, device=place).add(1)
    except Exception as error:  # each kind of device has errors of its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _none(f"this machine cannot compute on {str(place)!r}: {lines[0][:200]}") from None
    return place


class DeviceModule(nn.Module):
    """A module whose `to` raises WamkitError for a missing device."""

    def to(self, *args: Any, **options: Any) -> Self:
        """As torch has it. Raises WamkitError if this machine has no such device."""
        for place in (*args[:1], options.get("device")):
            if isinstance(place, str | torch.device):
                expect_device(place, has_values=False)
        return super().to(*args, **options)


def _none(what: str) -> WamkitError:
    found = [HERE]
    if torch.cuda.is_available():
        found += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return WamkitError(what, f"choose {' or '.join(found)}, such as --device {found[-1]}")
