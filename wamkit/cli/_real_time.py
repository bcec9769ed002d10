"""`wamkit eval --real-time`: delays as they are typed, and the runner whose chunks come late."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import WamkitError, did_you_mean

if TYPE_CHECKING:
    from ..config.parts import Conflict
    from ..config.spec import PolicySpec
    from ..policy.policy import Policy
    from ..simulate.real_time import RealTimeRunner

DELAY = re.compile(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?(?:,(\d+(?:\.\d+)?)/(\d+))?")
HINT = "write milliseconds: 120, or 80-150, or with one in 20 of 500 ms: 120,500/20"
LONGEST = 60_000
"""Milliseconds of a delay at most."""
AUTO = "auto"


@dataclass(frozen=True)
class RealTimeOptions:
    """How late chunks come, and what is executed meanwhile."""

    low: float
    high: float
    spike: float
    every: int
    merge: str
    prefix: str

    def described(self, prefix: str | None) -> dict[str, Any]:
        """The delays for a result; `prefix`: the mode that was chosen, None for none."""
        return {
            "delay_ms": [self.low, self.high],
            "spike_ms": self.spike,
            "spike_every": self.every,
            "chunk_merge": self.merge,
            "prefix": prefix,
        }

    def prefix_mode(self, spec: PolicySpec) -> str | None:
        """Mode of a prefix: the typed one, or what the policy takes; None for none.

        Raises WamkitError if it takes none of the typed mode.
        """
        from ..config.prefix import MODES, act_refusal
        from ..runtime.latency import delay_steps

        if self.prefix == "none" or (self.prefix == AUTO and self.merge != "replace"):
            return None
        if spec.paradigm.build().stateful and self.prefix in (AUTO, *MODES):
            return None  # `conflicts` refuses a mode that was typed
        steps = max(1, delay_steps(max(self.high, self.spike) / 1000, spec.actions.control_hz))
        if self.prefix == AUTO:
            found = (mode for mode in MODES if act_refusal(spec, mode, steps) is None)
            return next(found, None)
        if self.prefix not in MODES:
            hint = did_you_mean(self.prefix, list(MODES), f"known are {', '.join(MODES)} and none")
            raise WamkitError(f"no mode of a prefix is called {self.prefix!r}", hint)
        if (refusal := act_refusal(spec, self.prefix, steps)) is not None:
            raise WamkitError(*refusal)
        return self.prefix

    def conflicts(self, spec: PolicySpec, execute_steps: int) -> Iterator[Conflict]:
        """Yield why chunks cannot come late as typed: delays or merging do not fit the policy.

        Of usual delays d <= s <= H - d must hold, in actions. Spikes may be longer: meanwhile the
        robot stands still, which is counted.
        """
        from ..config.parts import Conflict
        from ..config.prefix import timing_fault, timing_hint, whole_chunks_conflict
        from ..runtime.latency import delay_steps

        if spec.paradigm.build().stateful:
            typed = {"--chunk-merge": self.merge != "replace"}
            typed["--prefix-mode"] = self.prefix not in (AUTO, "none")
            for option in (name for name, given in typed.items() if given):
                yield whole_chunks_conflict(spec, option)
            return
        size, hz = spec.actions.chunk_size, spec.actions.control_hz
        delay = delay_steps(self.high / 1000, hz)
        why = timing_fault(delay, execute_steps, size)
        if why is None or execute_steps > size:
            return
        fits = f"--delay-ms {int(1000 * (size // 2) / hz)} or less"
        yield Conflict(
            between=("--delay-ms", "--execute-steps", "actions.chunk_size"),
            why=f"{self.high:g} ms are {delay} steps at {hz:g} Hz: {why}",
            hint=timing_hint(delay, size, fits),
        )

    def spike_note(self, spec: PolicySpec, execute_steps: int) -> str | None:
        """What a spike does that is longer than the plan; None if there is none."""
        from ..runtime.latency import delay_steps

        left = spec.actions.chunk_size - execute_steps
        spike = delay_steps(self.spike / 1000, spec.actions.control_hz) if self.every else 0
        if spike <= left:
            return None
        return (
            f"a spike of {self.spike:g} ms is {spike} steps, and {left} are planned when a chunk "
            "is asked for: the robot stands still for the rest of them, which is counted"
        )

    def runner(
        self,
        policy: Policy,
        views: Mapping[str, str],
        execute_steps: int,
        act_options: Mapping[str, Any],
        *,
        imagine: bool,
    ) -> RealTimeRunner:
        """A runner with delays that each episode draws from its own seed."""
        from ..runtime.latency import SimulatedDelay
        from ..simulate.real_time import RealTimeRunner

        def delay(seed: int) -> SimulatedDelay:
            ends = self.low / 1000, self.high / 1000
            return SimulatedDelay(ends, spike=self.spike / 1000, every=self.every, seed=seed)

        return RealTimeRunner(
            policy,
            views,
            execute_steps,
            act_options,
            delay,
            merge=self.merge,
            prefix=self.prefix_mode(policy.spec),
            imagine=imagine,
        )


def real_time_rows(late: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of a result's `real_time`, for a table."""
    prefix = f"prefix {late['prefix']}" if late["prefix"] else "no prefix"
    steps, seams = late["delay_steps"], late["seams"]
    return [
        (
            "delay",
            f"{steps['mean']:.1f} actions, {steps['max']} at most; {late['chunk_merge']}, {prefix}",
        ),
        (
            "meanwhile",
            f"{late['idle_steps']} of {late['steps']} steps without an action; largest jump "
            f"{late['largest_jump']:.3g}",
        ),
        (
            f"{seams['seams']} seams of chunks",
            f"jump {seams['jump']:.3g} (within chunks {seams['jump_within']:.3g}), "
            f"jerk {seams['jerk']:.3g} ({seams['jerk_within']:.3g})",
        ),
    ]


def parse_real_time(
    real_time: bool, delay_ms: str | None, merge: str, prefix: str
) -> RealTimeOptions | None:
    """The options as they were typed; None where the world waits for the policy.

    Raises WamkitError for a delay that is none, or a prefix of chunks that are merged.
    """
    if not real_time:
        return None
    if delay_ms is None:
        raise WamkitError("--real-time without a delay", "add --delay-ms 120")
    found = DELAY.fullmatch(delay_ms)
    if found is None:
        raise WamkitError(f"--delay-ms {delay_ms!r} is no delay", HINT)
    if prefix not in (AUTO, "none") and merge != "replace":
        raise WamkitError(
            f"--prefix-mode {prefix}, and --chunk-merge {merge}: a chunk with a prefix continues "
            "the one before by itself",
            "leave --chunk-merge out, or choose --prefix-mode none",
        )
    low = float(found[1])
    high, spike, every = float(found[2] or low), float(found[3] or 0), int(found[4] or 0)
    if low > high or max(high, spike) > LONGEST:
        raise WamkitError(f"--delay-ms {delay_ms!r} is no delay up to {LONGEST} ms", HINT)
    if found[4] and not every:
        raise WamkitError(f"--delay-ms {delay_ms!r}: one in 0 replies is none", HINT)
    return RealTimeOptions(low, high, spike, every, merge, prefix)
