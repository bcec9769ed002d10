"""Throughput: samples and tokens per second, and utilization of the devices' peak FLOPS."""

from __future__ import annotations

from functools import cached_property

from ..config.spec import PolicySpec
from .config import TrainConfig
from .devices import peak_for
from .processes import Processes


class Throughput:
    """Throughput of a number of updates in a number of seconds."""

    def __init__(
        self, spec: PolicySpec, config: TrainConfig, processes: Processes, *, encodes: bool
    ) -> None:
        """`encodes`: whether the VAE runs too, and its latents are not stored beforehand."""
        self.spec, self.config, self.processes, self.encodes = spec, config, processes, encodes

    def of(self, steps: int, seconds: float) -> dict[str, float]:
        """`samples_per_second`, `tokens_per_second`, and `utilization` if the peak is known."""
        samples = steps * self.config.batch_size / max(seconds, 1e-9)
        tokens = sum(self.spec.tokens().values()) * self.spec.paradigm.chunks_per_sample
        pace = {"samples_per_second": samples, "tokens_per_second": samples * tokens}
        if self._peak is not None:
            pace["utilization"] = samples * self._operations / self._peak / self.processes.world
        return pace

    @cached_property
    def _peak(self) -> float | None:
        """Operations a second of each device at most, if that is known."""
        return peak_for(self.config, self.processes.device)

    @cached_property
    def _operations(self) -> int:
        """Operations of a sample, forward and backward; recomputation counts once."""
        from .plan import work

        config = self.config
        return work(self.spec, config.parts, encodes=self.encodes, lora=config.lora).operations
