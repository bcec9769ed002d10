"""Error and speedup of quantized weights: a policy's outputs and times before and after."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..acceleration.quantize import MIN_ELEMENTS, QuantizationReport
from ..policy.observation import random_batch, random_observation
from ..policy.policy import Policy, generator
from ..policy.preprocessing import inference_inputs, training_inputs
from .machine import seconds
from .measure import Report, measure


@dataclass(frozen=True)
class QuantizationEffect:
    """A quantized policy against itself before: same images, same seeds, same mode."""

    kind: str
    layers: int  # that were rounded
    elements: int  # in their weights
    left: int  # elements of the other weights of backbone and head
    chunk_error: float  # |after - before| / |before|, of the normalized actions of a chunk
    velocity_error: float  # the same of all velocities of one pass, at levels as in training
    times_as_fast: float  # median chunk before over median chunk after

    def json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def summary(self) -> str:
        """Summarize the result in a sentence."""
        share = self.elements / (self.elements + self.left)
        return (
            f"{self.kind}: {100 * share:.0f} % of the weights of backbone and head "
            f"({self.layers} layers); {self.times_as_fast:.2f}x as fast as without; relative "
            f"error {100 * self.chunk_error:.2g} % of a chunk, {100 * self.velocity_error:.2g} % "
            "of a velocity"
        )


def measure_quantized(
    policy: Policy,
    kind: str,
    mode: str,
    batch: int,
    iters: int,
    name: str,
    min_elements: int = MIN_ELEMENTS,
) -> tuple[Report, QuantizationEffect | None]:
    """Measure `policy` as it is, quantize it, and measure it again; the second report is whole.

    Raises WamkitError if it cannot be quantized so, or cannot run in `mode`.
    """
    before = Baseline(policy, mode=mode, batch=batch, iters=iters)
    done = policy.quantize(kind, min_elements)
    report = measure(policy, mode=mode, batch=batch, iters=iters, name=name)
    return report, None if done is None else before.compare(policy, done, report)


class Baseline:
    """A policy's answers and times before it is quantized."""

    @torch.no_grad()
    def __init__(
        self, policy: Policy, *, mode: str, batch: int, iters: int, warmup: int = 2
    ) -> None:
        """Raises WamkitError if the policy cannot run in `mode`."""
        self._batch = batch
        policy.set_mode(mode)
        self.chunk, self.velocity = self._chunk(policy), self._velocity(policy)
        seen = random_observation(policy.spec, batch=batch, frames=policy.spec.video.num_observed)

        def act() -> None:
            policy.act(seen, seed=0)

        times = [seconds(act, policy.device) for _ in range(warmup + iters)]
        self.median_ms = 1000 * statistics.median(times[warmup:])

    @torch.no_grad()
    def compare(
        self, policy: Policy, done: QuantizationReport, report: Report
    ) -> QuantizationEffect:
        """The same policy quantized; `report` measured it with the same mode and batch."""
        return QuantizationEffect(
            policy.quantized,
            done.layers,
            done.elements,
            done.left,
            relative_error(self._chunk(policy), self.chunk),
            relative_error(self._velocity(policy), self.velocity),
            self.median_ms / report.chunk.median_ms,
        )

    def _chunk(self, policy: Policy) -> Tensor:
        spec = policy.spec
        seen = random_observation(spec, batch=self._batch, frames=spec.video.num_observed)
        found = policy.sample(inference_inputs(policy, seen), seed=0)
        return found.action.float().cpu()

    def _velocity(self, policy: Policy) -> Tensor:
        """All velocities [elements] of one pass over training samples with noise."""
        inputs = training_inputs(policy, random_batch(policy.spec, size=self._batch))
        noisy, _ = policy.paradigm.add_noise(inputs, policy.schedules, generator(0))
        found = policy.model(noisy)
        parts = (found.video, found.future, found.action, found.next_state, found.value)
        return torch.cat([part.float().flatten().cpu() for part in parts if part is not None])


def relative_error(x: Tensor, reference: Tensor) -> float:
    """|x - reference| / |reference|."""
    return float((x - reference).norm() / reference.norm())
