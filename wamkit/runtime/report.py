"""What a run of a robot was like: rate, latency, and how chunks followed each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class RunReport:
    """Counts and times of one run."""

    steps: int = 0
    """Actions that were executed."""
    starved_steps: int = 0
    """Steps without an action, in which the robot stood still."""
    requests: int = 0
    chunks: int = 0
    """Replies that were merged."""
    stale_chunks: int = 0
    """Replies that came when all their moments had passed."""
    late_chunks: int = 0
    """Replies that came later than expected when they were asked for."""
    failed_requests: int = 0
    prefixes: int = 0
    """Requests that said what is executed until their reply is there."""
    overruns: int = 0
    """Steps that were left out, because one before took too long."""
    delays: list[int] = field(default_factory=list)
    """Actions that were executed between each request and its reply."""
    largest_jump: float = 0.0
    """The largest change of the next action by a new chunk, over all dimensions."""
    seams: dict[str, float] = field(default_factory=dict)
    """Mean jump and jerk where one chunk follows another and within chunks, of what was executed
    (`wamkit.policy.seams.Smoothness`)."""
    latency_ms: dict[str, float] = field(default_factory=dict)
    jitter_ms: dict[str, float] = field(default_factory=dict)
    ended_by: str = "steps"
    """`steps`, `seconds`, `end` (it was asked to), or the name of a signal."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, such as for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        latency, jitter = self.latency_ms, self.jitter_ms
        delay = f"{max(self.delays)} at most" if self.delays else "none"
        lines = [
            f"{self.steps} actions, {self.starved_steps} steps without one, "
            f"{self.overruns} steps left out",
            f"{self.chunks} chunks of {self.requests} requests ({self.failed_requests} failed, "
            f"{self.stale_chunks} too late), {self.prefixes} with a prefix",
            f"latency p50 {latency.get('p50', 0):.0f}, p95 {latency.get('p95', 0):.0f}, "
            f"max {latency.get('max', 0):.0f} ms; delay in steps: {delay}",
            f"jitter p50 {jitter.get('p50', 0):.1f}, p95 {jitter.get('p95', 0):.1f}, "
            f"max {jitter.get('max', 0):.1f} ms; largest jump {self.largest_jump:.3g}",
            f"{self.seams.get('seams', 0)} seams of chunks: "
            f"jump {self.seams.get('jump', 0):.3g} "
            f"(within chunks {self.seams.get('jump_within', 0):.3g}), "
            f"jerk {self.seams.get('jerk', 0):.3g} ({self.seams.get('jerk_within', 0):.3g})",
        ]
        return "\n".join(lines)
