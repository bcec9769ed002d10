"""A system on its device, run every way: whole chunks, its network alone, and written plainly."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from baseline import Plain, expand_repeats, with_fresh_caches
from torch import Tensor

from wamkit.bench import Roofline, Row, measure
from wamkit.bench.hooks import Call, StageRecorder
from wamkit.bench.machine import seconds
from wamkit.policy.policy import generator
from wamkit.policy.preprocessing import inference_inputs
from wamkit.policy.run_mode import captures
from wamkit.testing.fixtures import observation
from wamkit.testing.uncached import uncached

from .goals import BASELINE, Measured, Stage
from .kernels import Profile, profiled
from .systems import apart, build, largest

PLAIN = {"plain, no cache": False, BASELINE: True}
PLAIN_SYSTEM = "fastwam"
"""The system whose published code `baseline.Plain` is, and whose graph is timed in two parts."""

Work = tuple[int, int]
"""Operations, and bytes read and written."""


class Subject:
    """A system with random weights, what it gives in eager mode, and the work of its passes."""

    @torch.no_grad()
    def __init__(self, name: str, device: str, top: Roofline, *, tiny: bool) -> None:
        """Times are compared with floors under the roof `top`."""
        self.name, self.top, self.tiny = name, top, tiny
        self.policy = build(name, device, tiny=tiny)
        spec, self.device = self.policy.spec, self.policy.device
        context = spec.video.num_observed
        self.seen = [observation(spec, batch=1, frames=context, seed=seed) for seed in (0, 1)]
        self.inputs = inference_inputs(self.policy, self.seen[0])
        self.expected = [self._chunk(place) for place in range(len(self.seen))]
        stages = StageRecorder(self.device, counts=True)
        with stages.record(self.policy):
            self._chunk(0)
        self.prefill, self.steps = (_work(stages.calls, kind) for kind in ("prefill", "step"))
        self.network: Work = self.prefill[0] + self.steps[0], self.prefill[1] + self.steps[1]

    def _chunk(self, place: int) -> Tensor:
        """The actions for one of the observations, each with a seed of its own."""
        return self.policy.act(self.seen[place], seed=place).values

    def sample(self) -> Tensor:
        """The network's part of a chunk, from latents to normalized actions."""
        return self.policy.sample(with_fresh_caches(self.inputs), seed=0).action

    @torch.no_grad()
    def way(self, mode: str) -> Measured:
        """Measure in a mode. Raises WamkitError if the system cannot run in it."""
        iters = 3 if self.tiny else 5 if mode == "eager" else 10
        report = measure(self.policy, mode=mode, iters=iters, name=self.name)
        if mode == "eager":
            difference, of = self._uncached(), "the full pass"
        else:  # the second one first: what is replayed must take what it is given
            found = [apart(self._chunk(place), self.expected[place]) for place in (1, 0)]
            difference, of = max(found, key=largest), "eager"
        took = self._median(self.sample, iters)
        if captures(mode):
            prefill, steps = self._split(mode, took, iters)
        else:
            prefill, steps = (
                self._stage(report.rows, kind, work)
                for kind, work in (("prefill", self.prefill), ("step", self.steps))
            )
        whole = report.chunk
        return Measured(
            self.name,
            mode,
            Stage(took, self._floor(self.network)),
            difference,
            of,
            prefill,
            steps,
            Stage(whole.median_ms, self._floor((whole.operations, whole.bytes))),
            report,
        )

    def _stage(self, rows: Sequence[Row], kind: str, work: Work) -> Stage | None:
        """All calls of the stages of a kind, one after the other."""
        found = [row.calls * row.median_ms for row in rows if row.stage.startswith(kind)]
        return Stage(sum(found), self._floor(work)) if found else None

    def _split(self, mode: str, took: float, iters: int) -> tuple[Stage | None, Stage | None]:
        """Prefill and steps of a recorded chunk that takes `took` ms, by recording fewer steps.

        Leaves the policy in eager mode.
        """
        flows = self.policy.schedules
        whole = flows["action"]
        steps, fewer = whole.config.steps, whole.config.steps // 2
        if self.name != PLAIN_SYSTEM or not fewer:
            return None, None
        try:
            config = whole.config.model_copy(update={"steps": fewer})
            flows["action"] = replace(whole, config=config)
            self.policy.set_mode(mode)  # forgets what was recorded
            half = self._median(self.sample, iters)
        finally:
            flows["action"] = whole
            self.policy.set_mode("eager")
        each = (took - half) / (steps - fewer)
        return (
            Stage(took - steps * each, self._floor(self.prefill)),
            Stage(steps * each, self._floor(self.steps)),
        )

    def plain(self) -> Iterator[Measured]:
        """The system's ways written plainly, if it has any; with the same weights and words."""
        if self.name != PLAIN_SYSTEM:
            return
        self.policy.set_mode("eager")
        expected = self.sample()
        plain = Plain(self.policy, self.inputs.with_(text=expand_repeats(self.inputs.text)))
        for way, cached in PLAIN.items():
            act = partial(plain.act, cached=cached)
            difference = apart(act(), expected)
            network = Stage(self._median(act, 3 if self.tiny else 5), self._floor(self.network))
            yield Measured(self.name, way, network, difference, "eager")

    def profile(self, mode: str, *, whole: bool) -> Profile:
        """The kernels of one chunk in a mode, or of its network alone."""
        if self.policy.mode != mode:
            self.policy.set_mode(mode)
        run: Callable[[], Any] = (lambda: self._chunk(0)) if whole else self.sample
        return profiled(run, self.device, self._median(run, 5))

    @torch.no_grad()
    def _uncached(self) -> float:
        """How far actions with caches are from those without any."""
        policy, inputs = self.policy, with_fresh_caches(self.inputs)
        slow = policy.paradigm.act(
            uncached(policy.model_with_cfg(inputs)), inputs, policy.schedules, generator(0)
        )
        return apart(self.sample(), slow.action)

    def _median(self, run: Callable[[], Any], iters: int) -> float:
        """Milliseconds of a run, after two to warm up."""
        times = [1000 * seconds(run, self.device) for _ in range(iters + 2)]
        return statistics.median(times[2:])

    def _floor(self, work: Work) -> float:
        """Milliseconds that work takes at least."""
        return 1000 * self.top.floor(*work)


def _work(calls: list[Call], kind: str) -> Work:
    """All calls of a kind together."""
    found = [call for call in calls if call.stage.startswith(kind)]
    return sum(call.operations for call in found), sum(call.bytes for call in found)
