"""Seeds of random draws, and the generators that they begin."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..config.seeds import expect_seed
from ..engine.noise_schedule import PerSampleGenerator

Seed = int | Sequence[int] | None
"""Seed of random draws: one for a batch, or one for each sample; None for a random one."""


def generator(seed: Seed) -> torch.Generator:
    """A generator on the CPU, so that a seed means the same on every device.

    Of several seeds, one that draws for each sample of a batch by its own.
    """
    if isinstance(seed, Sequence):
        return PerSampleGenerator([generator(one) for one in seed])
    rng = torch.Generator()
    _ = rng.seed() if seed is None else rng.manual_seed(expect_seed(seed))
    return rng
