"""Arithmetic of real-time chunking: weights of a prefix, its guidance, and rules of timing.

H is the length of a chunk, s how many of its actions are executed before the next one begins, and
d the delay: how many of those are executed while the next chunk is computed. s = 1 - t turns the
papers' time into a noise level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import e, exp
from typing import TYPE_CHECKING, Any

from .parts import Conflict

if TYPE_CHECKING:
    from .spec import PolicySpec

MODES = ("trained", "guided", "freeze")
"""What holds a chunk to its prefix: clean tokens, a correction of the velocity, or nothing but
overwriting it while sampling."""
SCHEDULES = ("exponential", "linear", "ones", "zeros")
"""How the hold of a guided prefix fades over the actions behind the delay."""
JACOBIANS = ("identity", "exact")
"""Of a correction: none, or the vector-Jacobian product through the network."""

MAX_GUIDANCE = 5.0
"""The published beta (arXiv 2506.07339)."""
FEWEST_STEPS = 3
"""Fewer steps leave a correction no time to settle: guided prefixes are refused."""


def soft_mask(size: int, delay: int, end: int, schedule: str = "exponential") -> list[float]:
    """How strongly each of `size` actions is held to the prefix: W of the paper.

    1 before `delay`, 0 from `end` on; between, c falls linearly from 1 to 0 in end - delay + 1
    steps.

    Args:
        size: Actions in a chunk (H).
        delay: Actions that are executed while the chunk is computed (d).
        end: Actions that the prefix gives, d <= end <= H.
        schedule: "linear": c. "exponential": c (e^c - 1) / (e - 1). "ones": 1. "zeros": 0.
    """

    def between(i: int) -> float:
        c = min(1.0, max(0.0, (delay - 1 - i) / (end - delay + 1) + 1))
        found = {"linear": c, "exponential": c * (exp(c) - 1) / (e - 1), "ones": 1.0, "zeros": 0.0}
        return found[schedule]

    return [1.0 if i < delay else between(i) if i < end else 0.0 for i in range(size)]


def guidance_weight(sigma: Any, most: float) -> Any:
    """w of a correction at noise level `sigma`, a number or a tensor: min(beta, 1/(s (1-s)) - 2).

    2 in the middle, and beta near noise and near data. In the paper's t = 1 - s it is
    (1-t)/t (t^2 + (1-t)^2) / (1-t)^2.
    """
    if isinstance(sigma, float | int):
        spread = sigma * (1 - sigma)
        return most if spread <= 0 else min(most, 1 / spread - 2)
    spread = (sigma * (1 - sigma)).clamp(min=1e-6)
    return (1 / spread - 2).clamp(max=most)


def max_guidance(
    steps: Sequence[tuple[float, float]], share: float = 1.0, most: float = MAX_GUIDANCE
) -> float:
    """The largest beta with which no step moves the chunk by more than `share` of its error.

    A step of length h moves it by w h. Where steps are equal, h is 1 / n, and beta n; in a schedule
    that is shifted or has levels of its own, one step can be far longer. Above 2 the error grows.

    Args:
        steps: Noise level at which each velocity is found, and how far it is followed (h).
        share: 1 takes away all of the error in one step.
        most: A bound besides, that of the paper if left open.
    """
    return min((share / h for s, h in steps if guidance_weight(s, most) * h > share), default=most)


def act_refusal(spec: PolicySpec, mode: str, delay: int) -> tuple[str, str] | None:
    """Why a policy cannot begin a chunk with a prefix in `mode`, and the cure; None if it can."""
    if (why := mode_refusal(spec, mode)) is not None:
        return why
    learned = spec.actions.max_delay
    if mode == "trained" and delay > learned:
        what = f"it learned delays up to {learned} steps" if learned else "it learned no prefix"
        return (
            f"a trained prefix of {delay} actions, and {what}",
            f'choose mode "guided", or train it with actions.max_delay = {delay}'
            + (f", or compute faster than {learned} steps" if learned else ""),
        )
    return None


def mode_refusal(spec: PolicySpec, mode: str) -> tuple[str, str] | None:
    """Why the parts of a spec have no prefix in `mode`, whatever was learned, and the cure."""
    head, steps = spec.action_head, spec.schedules.action.steps
    if head.is_regression:
        return (
            f"{head.name} predicts a chunk from features alone: it reads no action, and a prefix "
            "would change none behind it",
            "choose an action head that denoises actions (`wamkit list action_head`)",
        )
    if mode == "trained" and not head.token_per_action:
        return (
            f"{head.name} writes several actions into one latent frame, which has one noise level",
            'choose mode "guided", or an action head with a token for each action, such as mot',
        )
    if (why := spec.paradigm.prefix_refusal(mode)) is not None:
        return (
            f"{spec.paradigm.name} takes no prefix in mode {mode}: {why}",
            "choose another mode, or another paradigm (`wamkit list paradigm`)",
        )
    if mode == "guided" and steps < FEWEST_STEPS:
        return (
            f"a guided prefix in {steps} steps: a correction needs at least {FEWEST_STEPS} to "
            "settle",
            f"set schedules.action.steps = {FEWEST_STEPS} or more, or train the policy with "
            'actions.max_delay and choose mode "trained", which acts in one step too',
        )
    return None


def prefix_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """Yield why the delays that a policy is to learn do not fit its parts."""
    most, size = spec.actions.max_delay, spec.actions.chunk_size
    if not most:
        return
    if 2 * most > size:
        yield Conflict(
            between=("actions.max_delay", "actions.chunk_size"),
            why=f"delays up to {most} steps in chunks of {size}: as many must be executed before "
            "the next chunk, and as many be left for its delay",
            hint=f"set actions.max_delay = {size // 2}, or actions.chunk_size = {2 * most}",
        )
    if (why := mode_refusal(spec, "trained")) is not None:
        what, hint = why
        yield Conflict(
            between=("actions.max_delay", "action_head" if "head" in hint else "paradigm"),
            why=what,
            hint=f"set actions.max_delay = 0, or {hint}",
        )


def run_conflicts(
    spec: PolicySpec, delay: int, executed: int | None = None, mode: str | None = None
) -> Iterator[Conflict]:
    """Yield every reason why a policy cannot be run with chunks that come late.

    Args:
        spec: Of the policy.
        delay: Actions that are executed while a chunk is computed (d).
        executed: Actions from one request to the next (s); half a chunk if left open.
        mode: Of a prefix; None for none.
    """
    size = spec.actions.chunk_size
    if spec.paradigm.build().stateful:
        if mode is not None:
            yield whole_chunks_conflict(spec, "--prefix-mode")
        return
    executed = max(1, size // 2) if executed is None else executed
    if (why := timing_fault(delay, executed, size)) is not None:
        hint = timing_hint(delay, size, f"--delay {size // 2} or less")
        yield Conflict(
            between=("--delay", "--execute-steps", "actions.chunk_size"), why=why, hint=hint
        )
    if mode is not None and (refusal := act_refusal(spec, mode, max(1, delay))) is not None:
        yield Conflict(between=("--prefix-mode", "--delay"), why=refusal[0], hint=refusal[1])


def whole_chunks_conflict(spec: PolicySpec, option: str) -> Conflict:
    """Why an option that merges or continues chunks does not go with a memory of the episode."""
    return Conflict(
        between=(option, "paradigm.name"),
        why=f"{spec.paradigm.name} remembers its episode, and its chunks are executed "
        "whole, one after the other: there is nothing to merge or to continue",
        hint=f"leave {option} out; the robot stands still for each delay",
    )


def timing_hint(delay: int, size: int, shorter: str) -> str:
    """What cures a `timing_fault`; `shorter` says which delay would fit half of the chunk."""
    if 2 * delay <= size:
        return f"--execute-steps {max(1, delay)}" + f" to {size - delay}" * (2 * delay < size)
    hint = f"train longer chunks: actions.chunk_size = {2 * delay} or more"
    most = size // 2
    return f"{shorter}, with --execute-steps {most}; or {hint}" if most else hint


def timing_fault(delay: int, executed: int, size: int) -> str | None:
    """Why delay, executed steps and chunk do not go together; None where d <= s <= H - d."""
    if delay > executed:
        return (
            f"a delay of {delay} steps is longer than the {executed} steps that are executed of a "
            "chunk: the next one would come too late"
        )
    if executed > size - delay:
        return (
            f"{executed} executed steps leave {size - executed} of a chunk of {size}, and the "
            f"delay of {delay} steps needs as many"
        )
    return None
