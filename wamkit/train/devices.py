"""Peaks of known devices, for plans and for the share of the peak that a run reaches.

Operations a second are dense, without sparsity: bfloat16 on tensor cores, and float32 with TF32 off
as PyTorch has it. Memory is what the card is sold with, in units of 10^9 bytes. Sources: NVIDIA's
data sheets of H100 SXM (989.4 and 67 TFLOP/s, 80 GB), H200 SXM (the same, 141 GB), A100 80 GB SXM
(312 and 19.5), B200 of the HGX data sheet (2,250 and 75 to 80, 180 GB), and the Ada whitepaper for
the RTX 4090 (165.2 bfloat16 with float32 sums and 82.6, 24 GB).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Peak:
    """What a device can do at most."""

    name: str
    bfloat16: float  # operations a second
    float32: float
    memory: float  # bytes


PEAKS = {
    "h100": Peak("H100", 989.4e12, 67e12, 80e9),
    "h200": Peak("H200", 989.4e12, 67e12, 141e9),
    "a100": Peak("A100", 312e12, 19.5e12, 80e9),
    "b200": Peak("B200", 2250e12, 75e12, 180e9),
    "rtx4090": Peak("RTX 4090", 165.2e12, 82.6e12, 24e9),
}


def peak_of(device: torch.device, precision: str) -> float | None:
    """Operations a second of a device at most, or None if it is not in the table."""
    if device.type != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name(device)
    for peak in PEAKS.values():
        if peak.name in name:
            return peak.bfloat16 if precision == "bfloat16" else peak.float32
    return None
