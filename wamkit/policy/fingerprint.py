"""A fingerprint of a policy: what decides its actions, whatever folder it lies in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .policy import Policy

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprint(policy: Policy) -> str:
    """A digest of the spec, the statistics, and every weight and buffer of a policy.

    A tensor counts with its name, its shape and two sums of its bits, which are computed where it
    lies: the same on every device.
    """
    digest = hashlib.sha256(json.dumps(policy.spec.dump(), sort_keys=True, default=str).encode())
    tables = {name: asdict(table) for name, table in policy.statistics.items()}
    digest.update(json.dumps(tables, sort_keys=True).encode())
    digest.update(policy.quantized.encode())
    for name, tensor in policy.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.numel():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} {_sums(tensor)}".encode())
    return digest.hexdigest()[:32]


def _sums(tensor: Tensor) -> tuple[int, int]:
    """The sum of the bits of all values as integers, and one in which their order counts."""
    bits = tensor.detach().contiguous().flatten()
    bits = bits.view(torch.uint8 if bits.is_complex() else _BITS[bits.element_size()])
    total = squares = 0
    for part in bits.split(2**24):
        values = part.long()
        total += int(values.sum())
        order = torch.arange(1, len(values) + 1, device=values.device) % 65_521
        squares += int((values * order).sum())
    return total, squares
