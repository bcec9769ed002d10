"""Peaks of known devices, for plans and for the share of the peak that a run reaches.

Operations a second are dense, without sparsity: bfloat16 on tensor cores with float32 sums, and
float32 with TF32 off as PyTorch has it. Memory is the advertised size of the card, in units of 10^9
bytes. Sources: NVIDIA's data sheets of H100 (SXM: 989.4 and 67 TFLOP/s, 80 GB; PCIe: 756 and 51,
80 GB; NVL: 835.5 and 60, 94 GB), H200 SXM (989.4 and 67, 141 GB), GH200 (the same, 96 GB), A100
(312 and 19.5; 80 GB), B200 of the HGX data sheet (2,250 and 75 to 80, 180 GB), L40S (362 and 91.6,
48 GB), L4 (121 and 30.3, 24 GB) and A10 (125 and 31.2, 24 GB); the GA102, Ada and RTX Blackwell
whitepapers for the RTX 3090 (71 and 35.6, 24 GB), 4090 (165.2 and 82.6, 24 GB) and 5090 (209.5 and
104.8, 32 GB). From the same sheets are the bandwidth of memory and int8 operations a second, also
without sparsity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import TrainConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Peak:
    """Peak throughput and memory of a device."""

    name: str
    """Substrings of its CUDA device name."""
    bfloat16: float  # operations a second
    float32: float
    memory: float  # bytes
    bandwidth: float  # bytes a second, of its memory
    int8: float  # operations a second


PEAKS = {
    "h100": Peak("H100", 989.4e12, 67e12, 80e9, 3.35e12, 1979e12),
    "h100-pcie": Peak("H100 PCIe", 756e12, 51e12, 80e9, 2.0e12, 1513e12),
    "h100-nvl": Peak("H100 NVL", 835.5e12, 60e12, 94e9, 3.9e12, 1671e12),
    "h200": Peak("H200", 989.4e12, 67e12, 141e9, 4.8e12, 1979e12),
    "gh200": Peak("GH200", 989.4e12, 67e12, 96e9, 4.0e12, 1979e12),
    "a100": Peak("A100", 312e12, 19.5e12, 80e9, 2.039e12, 624e12),
    "b200": Peak("B200", 2250e12, 75e12, 180e9, 7.7e12, 4500e12),
    "l40s": Peak("L40S", 362e12, 91.6e12, 48e9, 864e9, 733e12),
    "l4": Peak("L4", 121e12, 30.3e12, 24e9, 300e9, 242e12),
    "a10": Peak("A10", 125e12, 31.2e12, 24e9, 600e9, 250e12),
    "rtx3090": Peak("RTX 3090", 71e12, 35.6e12, 24e9, 936e9, 284e12),
    "rtx4090": Peak("RTX 4090", 165.2e12, 82.6e12, 24e9, 1008e9, 660.6e12),
    "rtx5090": Peak("RTX 5090", 209.5e12, 104.8e12, 32e9, 1792e9, 838e12),
}
LESS = ("MIG", "Laptop", "Max-Q", "RTX 4090 D", "RTX 5090 D", "RTX 3090 Ti")
"""Substrings of device names that match the table only by accident."""


def find_device(name: str) -> Peak | None:
    """Find a CUDA device name in the table, by the longest match; None without one."""
    if any(re.search(rf"\b{word}\b", name) for word in LESS):
        return None
    found = [peak for peak in PEAKS.values() if re.search(rf"\b{peak.name}\b", name)]
    return max(found, key=lambda peak: len(peak.name), default=None)


def peak_for(config: TrainConfig, device: torch.device) -> float | None:
    """Operations a second at most: as set, of the table, or measured; else None."""
    if config.peak_flops is not None:
        return config.peak_flops
    import torch

    if device.type == "cuda":
        peak = find_device(torch.cuda.get_device_name(device))
        if peak is not None:
            return peak.bfloat16 if config.precision == "bfloat16" else peak.float32
    if not config.measure_peak:
        return None
    from ..bench.machine import measure_roofline
    from ..policy.policy import DTYPES

    return measure_roofline(device, DTYPES[config.precision]).operations_per_second
