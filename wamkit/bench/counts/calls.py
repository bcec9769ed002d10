"""The passes that a paradigm makes of the network for one chunk, and how often, by steps.

A paradigm acts with a network that answers zeros and only notes what it was asked. How often each
pass is made is a formula of the steps of the schedules, solved for from several of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ...config.noise_schedule import ScheduleConfig
from ...config.parts import Stage
from ...config.programs import program_of
from ...config.spec import PolicySpec
from ...engine.kv_cache import KV, KVCache
from ...engine.levels import Level
from ...engine.noise_schedule import NoiseSchedule, schedules_of
from ...interfaces.action_head import is_prefill
from ...interfaces.types import ModelInputs, ModelOutput, Text
from ...policy.preprocessing import build_clips, build_inputs
from .solving import Design

PASSES = (
    *("1", "v", "a", "s", "w", "min(v,a)", "min(v+1,a)", "min(v,a+1)"),
    *("max(v,s)", "max(v,a,s,w)"),
)
"""Formulas of the steps of video, action, next state and value; passes are a sum of these."""
STEPS = (
    *((2, 2, 2, 2), (4, 2, 2, 4), (2, 4, 4, 2), (6, 2, 4, 2), (2, 6, 2, 4), (4, 4, 6, 2)),
    *((8, 4, 2, 6), (4, 8, 6, 6), (10, 6, 6, 8), (6, 10, 12, 6), (8, 6, 4, 14), (6, 8, 8, 6)),
    *((12, 12, 8, 8), (20, 4, 24, 6), (4, 20, 6, 24), (16, 50, 8, 4), (8, 8, 8, 8), (6, 6, 10, 4)),
)


@dataclass(frozen=True)
class Call:
    """One kind of pass."""

    frames: tuple[str, ...]  # roles of the frames in it
    vectors: tuple[tuple[str, str], ...]  # modality and role
    state: str  # role of the state in it; empty if there is none
    cached: tuple[str, ...]  # roles that are looked up
    prefill: bool
    batch: int


Levels = dict[str, Level]
"""Modality -> its noise level in one pass, of those that are denoised."""


class _Answering:
    """A network of zeros."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.levels: list[Levels] = []

    def __call__(
        self, inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        frames = [f for f in (inputs.video, inputs.future) if f is not None]
        vectors = []
        for part in ("action", "next_state", "value"):
            if (noisy := getattr(inputs, part)) is not None:
                vectors += [(part, role) for role in dict.fromkeys(noisy.roles or (part,))]
        self.calls.append(
            Call(
                tuple(dict.fromkeys(role for f in frames for role in f.roles)),
                tuple(vectors),
                _state_role(inputs),
                () if cache is None else tuple(sorted(cache.roles)),
                is_prefill(inputs, keep),
                inputs.text.tokens.shape[0],
            )
        )
        self.levels.append(_levels(inputs))
        batch = inputs.text.tokens.shape[0]
        empty = torch.zeros(batch, 1, 1, 1)
        left = KVCache([{role: KV(empty, empty) for role in keep}], [])
        if self.calls[-1].prefill:
            return ModelOutput(cache=left)
        found = {
            part: torch.zeros_like(noisy.x)
            for part in ("action", "next_state", "value")
            if (noisy := getattr(inputs, part)) is not None
        }
        for name in ("video", "future"):
            if (clip := getattr(inputs, name)) is not None:
                found[name] = torch.zeros_like(clip.z)
        return ModelOutput(**found, cache=left)


def _levels(inputs: ModelInputs) -> Levels:
    """Noise levels of what is denoised in a pass: of entries of a run, and not of one alone."""
    found: Levels = {}
    for frames in (inputs.video, inputs.future):
        for role, level in zip(frames.roles, frames.levels, strict=True) if frames else ():
            if role in frames.targets and isinstance(level, Level):  # type: ignore[union-attr]
                found["video"] = level
    for part in ("action", "next_state", "value"):
        if (noisy := getattr(inputs, part)) is not None:
            level = noisy.level if isinstance(noisy.level, Level) else noisy.level[-1]
            if isinstance(level, Level):
                found[part] = level
    return {part: level for part, level in found.items() if len(level.table) > 1}


def _state_role(inputs: ModelInputs) -> str:
    """Role of the state, of the episode or of the block that is made; empty if there is none."""
    if inputs.states is not None:
        (role,) = inputs.states.roles
        return role
    return "" if inputs.state is None else "state"


def passes_of(spec: PolicySpec, act_options: Mapping[str, Any]) -> list[tuple[Call, Levels]]:
    """The passes of one chunk in order, and the noise levels in each."""
    network, traits = _Answering(), spec.backbone.traits
    observed, imagined = spec.latent_frames
    observed += spec.leading_frames
    numbers = {part: torch.zeros(1, 1, spec.sizes.token_dim(part)) for part in spec.predicts}
    numbers["action"] = torch.zeros(1, 2, spec.actions.size)
    again = observed if imagined and spec.paradigm.targets_see_downscaled else 0
    z, future = (torch.zeros(1, 1, count, 1, 1) for count in (observed, again + imagined))
    clips = build_clips(spec, z, future, None, 1.0)
    inputs = build_inputs(
        Text(torch.zeros(1, 1, 1), follows=traits.text_follows),
        clips,
        numbers,
        torch.zeros(1, spec.state.size) if spec.state.size else None,
        1.0,
    )
    with torch.no_grad():
        rng = torch.Generator().manual_seed(0)
        spec.paradigm.build().act(network, inputs, schedules_of(spec), rng, **act_options)
    return list(zip(network.calls, network.levels, strict=True))


@cache
def _design() -> Design:
    return Design([_row(*steps) for steps in STEPS])


def _row(v: int, a: int, s: int, w: int) -> list[int]:
    few = [min(v, a), min(v + 1, a), min(v, a + 1)]
    return [1, v, a, s, w, *few, max(v, s), max(v, a, s, w)]


def stages(spec: PolicySpec, act_options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What one chunk runs, in order, each stage with its passes as coefficients of PASSES.

    Where they are no such formula, they are a table: "v,a" -> passes, of the steps tried.
    """
    tried: list[list[tuple[Call, Levels]]] = []
    schedules: list[Mapping[str, NoiseSchedule]] = []
    program: list[Stage] = []
    for steps in STEPS:
        changed = _with_steps(spec, *steps)
        tried.append(passes_of(changed, act_options))
        schedules.append(schedules_of(changed))
        known = {stage.does for stage in program}
        program += [s for s in program_of(changed) if s.passes and s.does not in known]
    order: list[Call] = []
    for found in tried:
        calls = list(dict.fromkeys(call for call, _ in found))
        for call in calls:
            if call not in order:
                at = [order.index(c) for c in calls if c in order]
                order.insert(_after(calls, call, order), call) if at else order.append(call)
    does = _purposes(program, order)
    made = []
    for call in order:
        passes = [[levels for c, levels in found if c == call] for found in tried]
        counts = [len(levels) for levels in passes]
        solved = _design().solve(counts)
        made.append(
            {
                "does": does[call],
                "frames": list(call.frames),
                "vectors": [list(pair) for pair in call.vectors],
                "state": call.state,
                "cached": list(call.cached),
                "prefill": call.prefill,
                "batch": call.batch,
                "passes": None if solved is None else [int(x) for x in solved],
                **({"table": _table(counts)} if solved is None else {}),
                "runs": _runs(passes, schedules),
            }
        )
    return made


def _runs(
    passes: Sequence[Sequence[Levels]], schedules: Sequence[Mapping[str, NoiseSchedule]]
) -> dict[str, Any]:
    """Where the noise levels of a call come from: modality -> the run that they are entries of.

    That is the modality whose schedule it follows, the steps of the run where these are not those
    of the schedule (else 0), and whether it goes on where passes before left it. A modality is left
    out where its levels do not go down step by step from there to the end.
    """
    found: dict[str, Any] = {}
    for part in sorted({part for levels in passes for each in levels for part in each}):
        rows = zip(passes, schedules, strict=True)
        known = [_run(part, levels, its) for levels, its in rows if levels]
        same = [run for run in known[0][0] if all(run in runs for runs, _ in known)]
        if same:
            of, steps = same[0]
            found[part] = {"of": of, "steps": steps, "goes_on": any(later for _, later in known)}
    return found


def _run(
    part: str, passes: Sequence[Levels], schedules: Mapping[str, NoiseSchedule]
) -> tuple[list[tuple[str, int]], bool]:
    """Runs that the levels may be entries of, as a schedule and steps, and whether they go on."""
    levels = [each.get(part) for each in passes]
    if levels[0] is None:
        return [], False
    table, start = levels[0].table, levels[0].index
    last, names = len(table) - 1, dict.fromkeys((part, *schedules))
    if levels != [Level(table, min(start + i, last)) for i in range(len(levels))]:
        return [], False
    runs = {name: schedules[name].config for name in names}
    whole = [(name, 0) for name, run in runs.items() if table[:-1] == _levels_of(run)[:last]]
    other = [(name, last) for name, run in runs.items() if table == _levels_of(run, last)]
    return whole + other, start > 0


@cache
def _levels_of(config: ScheduleConfig, steps: int | None = None) -> tuple[float, ...]:
    return NoiseSchedule(config).run(steps)


def _after(calls: Sequence[Call], call: Call, order: Sequence[Call]) -> int:
    """Where a call belongs among those known: behind the one that comes before it."""
    before = [c for c in calls[: calls.index(call)] if c in order]
    return order.index(before[-1]) + 1 if before else 0


def _table(counts: Sequence[int]) -> dict[str, int]:
    return {",".join(map(str, at)): n for at, n in zip(STEPS, counts, strict=True)}


def _with_steps(spec: PolicySpec, v: int, a: int, s: int, w: int) -> PolicySpec:
    """The spec with so many steps, and schedules whose levels tell them apart."""
    schedules, action = spec.schedules, spec.schedules.action
    update = {
        "video": schedules.video.model_copy(update={"steps": v, "shift": 2.0}),
        "action": action.model_copy(update={"steps": a, "shift": 3.0}),
        "next_state": action.model_copy(update={"steps": s, "shift": 5.0}),
        "value": action.model_copy(update={"steps": w, "shift": 7.0}),
    }
    return spec.model_copy(update={"schedules": schedules.model_copy(update=update)})


def _purposes(program: Sequence[Stage], order: Sequence[Call]) -> dict[Call, str]:
    """What each call is for, in the words of the program, without remarks in brackets."""
    found: dict[Call, str] = {}
    left = list(program)
    for call in order:
        roles = {_plain(r) for r in (*call.frames, *(role for _, role in call.vectors))}
        for stage in left:
            theirs = {_plain(r) for r in stage.roles} - {"text", "state"}
            if theirs == roles:
                found[call] = re.sub(r" \([^()]*\)$", "", stage.does)
                left.remove(stage)
                break
        else:
            found[call] = "pass " + " and ".join(sorted(roles))
    return found


def _plain(role: str) -> str:
    """A role without what tells blocks and copies apart."""
    name = role.rstrip("'").partition(".")[0]
    return {"seen": "target", "did": "action"}.get(name, name)
