"""The nouns of the engine: frozen dataclasses of tensors, with their shapes written down.

Letters: B batch, T latent frames, C latent channels, h w latent height and width, S tokens,
D width, H heads, K key heads, E head size, N actions in a chunk, A numbers in an action,
P numbers in a state, L words.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..acceleration.memo import Given, Rung, Rungs
from ..acceleration.memo import Memo as Memo
from ..engine.attention import Segment as Segment
from ..engine.kv_cache import KVCache
from .text import Text as Text


def base(role: str) -> str:
    """What a role is: `target` for `target.3` and for the copy `target'`."""
    return role.rstrip("'").partition(".")[0]


@dataclass(frozen=True)
class Frames:
    """Latent frames, each with a role, a place in time and a noise level of its own."""

    z: Tensor  # [B, C, T, h, w]
    roles: tuple[str, ...]  # T names: "context", "target", ...
    times: Tensor  # [T] place on the latent time axis
    sigma: Tensor  # [B, T] float32 in [0, 1]; 0 is data, 1 is noise
    guide: Tensor | None = None  # [B, G, T, h, w] extra channels, for backbones that want them
    rungs: Rungs | None = None  # where all levels are known at the start of a chunk
    memo: Memo = field(default_factory=Memo, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.z.ndim != 5 or self.z.shape[2] != len(self.roles):
            raise ValueError(
                f"z must be [B, C, {len(self.roles)}, h, w] for {len(self.roles)} roles, "
                f"found {tuple(self.z.shape)}"
            )
        if tuple(self.sigma.shape) != (self.z.shape[0], len(self.roles)):
            raise ValueError(
                f"sigma must be [{self.z.shape[0]}, {len(self.roles)}], "
                f"found {tuple(self.sigma.shape)}"
            )

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The roles whose frames are to be denoised: `target`, `target.3`; no copies."""
        names = dict.fromkeys(self.roles)
        return tuple(r for r in names if base(r) == "target" and not r.endswith("'"))

    def segments(self, tokens_per_frame: int) -> tuple[Segment, ...]:
        """One segment for each run of frames of the same role."""
        return tuple(Segment(r, len(list(g)) * tokens_per_frame) for r, g in groupby(self.roles))

    def where(self, *roles: str) -> list[int]:
        """Places of the frames that have one of `roles`."""
        return [i for i, role in enumerate(self.roles) if role in roles]

    def span(self, *roles: str) -> slice | list[int]:
        """Places of the frames that have one of `roles`, as a slice where they are a single run.

        A slice is a view; a list would be made into a tensor on the device at every use.
        """
        places = self.where(*roles)
        if places and places[-1] - places[0] + 1 == len(places):
            return slice(places[0], places[-1] + 1)
        return places

    def only(self, *roles: str) -> Frames:
        """Just the frames that have one of `roles`."""
        keep, sigma = self.span(*roles), self.sigma[:, self.span(*roles)]
        rungs = self.ladder
        if rungs is not None:
            rungs = rungs.kept([role in roles for role in self.roles], sigma)
        return Frames(
            self.z[:, :, keep],
            tuple(role for role in self.roles if role in roles),
            self.times[keep],
            sigma,
            None if self.guide is None else self.guide[:, :, keep],
            rungs,
        )

    @property
    def ladder(self) -> Rungs | None:
        """What is known of the levels of all frames, as long as they have them.

        No part of it is for frames of different roles.
        """
        return None if self.rungs is None else self.rungs.of(self.sigma)

    def rung_of(self, role: str) -> Rung | None:
        """Which of the levels of a run the frames of a role have, if they share one."""
        found: list[Rung | Given] = []
        if (ladder := self.ladder) is not None and role in self.roles:
            keep = [name == role for name in self.roles]
            found = [level for level, _ in ladder.kept(keep, self.sigma).columns()]
        return found[0] if len(found) == 1 and isinstance(found[0], Rung) else None

    def at(self, sigma: Tensor | float | Rung, *roles: str) -> Frames:
        """The frames of `roles` set to a noise level: a number, [B], or [B, frames of the role]."""
        rung, level = (sigma, sigma.sigma) if isinstance(sigma, Rung) else (None, sigma)
        if isinstance(level, float | int):
            rung = Rung.fixed(level, self.sigma.new_full(self.sigma.shape[:1], level))
        elif level.ndim == 1:
            level = level[:, None]
        if isinstance(level, Tensor) and all(role in roles for role in self.roles):
            levels = level.expand_as(self.sigma)
        else:
            levels = self.sigma.clone()
            where = self.span(*roles)
            if isinstance(level, Tensor) or not isinstance(where, slice):
                levels[:, where] = level
            else:  # a number goes with the kernel
                levels[:, where].fill_(level)
        rungs = None if rung is None else self._with(rung, roles, levels)
        return self._moved(sigma=levels, rungs=rungs)

    def _with(self, rung: Rung, roles: Collection[str], sigma: Tensor) -> Rungs:
        """What is known of the levels `sigma` once the frames of `roles` have this one."""
        known = self._known.changed(lambda old, at: rung if self.roles[at] in roles else old)
        return replace(known, sigma=sigma)

    @property
    def _known(self) -> Rungs:
        """`ladder`, or levels of which nothing is known but that they are those of these frames."""
        return self.ladder or Rungs.given(self.sigma, [n for _, n, _ in self.segments(1)])

    def put(self, z: Tensor, *roles: str) -> Frames:
        """The frames of `roles` replaced by z [B, C, frames of the role, h, w]."""
        if all(role in roles for role in self.roles):
            return self._moved(z=z)
        new = self.z.clone()
        new[:, :, self.span(*roles)] = z
        return self._moved(z=new)

    def named(self, **names: str) -> Frames:
        """The same frames under other roles: `named(target="target'")`."""
        return replace(self, roles=tuple(names.get(role, role) for role in self.roles))

    def then(self, other: Frames) -> Frames:
        """These frames, then `other`'s, in one clip."""
        return Frames.row([self, other])

    @staticmethod
    def row(clips: Sequence[Frames], memo: Memo | None = None) -> Frames:
        """Clips one after the other, in one.

        What is computed from the places of the whole is kept in `memo`, if one is given, for as
        long as every clip has the same `times`.
        """
        first, memo = clips[0], memo or Memo()
        sigma, rungs = torch.cat([clip.sigma for clip in clips], 1), None
        if any(clip.ladder is not None for clip in clips):
            rungs = Rungs(tuple(part for clip in clips for part in clip._known.parts), sigma)
        for i, clip in enumerate(clips):
            memo = memo.once(("row", len(clips), i), Memo, of=clip.times)
        names = tuple(role for clip in clips for role in clip.roles)
        whole = Frames(
            torch.cat([clip.z.to(first.z.dtype) for clip in clips], 2),
            memo.once(("roles", names), lambda: names),
            memo.once("times", lambda: torch.cat([clip.times.to(first.times) for clip in clips])),
            sigma,
            torch.cat([clip.guide for clip in clips if clip.guide is not None], 2)
            if all(clip.guide is not None for clip in clips)
            else None,
            rungs,
        )
        object.__setattr__(whole, "memo", memo)
        return whole

    def placed(self, times: Tensor) -> Frames:
        """The same frames elsewhere in time; what is kept is kept for as long as `times` is."""
        moved = replace(self, times=times)
        object.__setattr__(moved, "memo", self.memo.once("placed", Memo, of=times))
        return moved

    def pick(self, index: Tensor) -> Frames:
        """The samples `index` [B'], in that order; a sample may come more than once."""
        return self.mapped(lambda x: x[index])

    def mapped(self, rows: Callable[[Tensor], Tensor]) -> Frames:
        """The same frames of other samples, which `rows` takes from every tensor that has them."""
        sigma, ladder = rows(self.sigma), self.ladder
        guide = None if self.guide is None else rows(self.guide)
        rungs = None if ladder is None else ladder.mapped(rows, sigma)
        return Frames(rows(self.z), self.roles, self.times, sigma, guide, rungs)

    def _moved(self, **changes: Any) -> Frames:
        """The same frames at another point of their denoising; what depends on places stays."""
        moved = replace(self, **changes)
        object.__setattr__(moved, "memo", self.memo)
        return moved


@dataclass(frozen=True)
class Noisy:
    """Numbers at a noise level: an action chunk, a state to come, a value."""

    x: Tensor  # [B, N, A], normalized
    sigma: Tensor  # [B], or [B, N] where every step has its own; float32 in [0, 1]
    roles: tuple[str, ...] = ()  # N names; () if all have the name of the part they are
    times: Tensor | None = None  # [N] places on the axis of actions; None for 0 .. N - 1
    rung: Rung | None = None  # where sigma is a level of a run

    @property
    def ladder(self) -> Rung | None:
        """Which of the levels of a run all steps have, as long as they have it."""
        return None if self.rung is None else self.rung.of(self.sigma)

    @property
    def levels(self) -> Tensor:
        """The noise level of every step [B, N], or [B, 1] if they share one."""
        return self.sigma if self.sigma.ndim == 2 else self.sigma[:, None]

    def places(self) -> Tensor:
        """Where every step stands on the axis of actions [N] float32."""
        if self.times is not None:
            return self.times
        return torch.arange(self.x.shape[1], device=self.x.device, dtype=torch.float32)

    def mapped(self, rows: Callable[[Tensor], Tensor]) -> Noisy:
        """The same of other samples, which `rows` takes from x and sigma."""
        sigma, ladder = rows(self.sigma), self.ladder
        rung = None if ladder is None else ladder.holding(sigma)
        return Noisy(rows(self.x), sigma, self.roles, self.times, rung)

    def towards(self, data: Tensor) -> Tensor:
        """The velocity [B, N, A] that puts x on the straight way from noise to `data`."""
        return (self.x - data.float()) / self.levels[..., None].clamp(min=1e-6)


PARTS = ("video", "action", "next_state", "value")
"""What can be denoised. A scene has frames for the first, and `Noisy` numbers for the others."""


def levels_of(pieces: Sequence[Piece]) -> Tensor:
    """Noise levels of the tokens of some pieces in a row [B, S], or [B, 1] if they share one."""
    if len(pieces) == 1:
        return pieces[0].sigma
    return torch.cat([p.sigma.expand(-1, p.x.shape[1]) for p in pieces], 1)


class Piece(NamedTuple):
    """Numbers of a scene that become tokens, as an action head finds them."""

    part: str  # "state", "action", "next_state" or "value"
    x: Tensor  # [B, N, A]
    sigma: Tensor  # [B, N], or [B, 1] if all its steps share a level
    roles: tuple[str, ...]  # N
    times: Tensor  # [N] places on the axis of actions
    rung: Rung | None = None  # where all its steps share a level of a run

    def segments(self) -> tuple[Segment, ...]:
        """One segment for each run of a role, a token for each step."""
        return tuple(Segment(role, len(list(run))) for role, run in groupby(self.roles))


@dataclass(frozen=True)
class Past:
    """What a chunk that is not the first of its episode knows of those before."""

    memory: Any  # `Outcome.memory` of the last chunk
    video: Tensor | None = None  # [B, C, T, h, w] what was observed since, if anything
    action: Tensor | None = None  # [B, N, A] what was done meanwhile, in the form of the scene's


@dataclass(frozen=True)
class Scene:
    """Everything one pass may look at. A part that is absent is None."""

    text: Text
    video: Frames | None = None
    action: Noisy | None = None
    state: Tensor | None = None  # [B, P], normalized
    future: Frames | None = None  # frames on a grid of their own, such as coarser targets
    next_state: Noisy | None = None  # [B, 1, P] the state when the chunk is done
    value: Noisy | None = None  # [B, 1, 1] how well it goes from there, in [-1, 1]
    past: Past | None = None  # what happened since the last chunk of the same episode

    def with_(self, **changes: Any) -> Scene:
        """A copy with some parts replaced."""
        other = object.__new__(Scene)  # `replace` takes three times as long, in every step
        other.__dict__.update(self.__dict__, **changes)
        return other if len(other.__dict__) == len(self.__dict__) else replace(self, **changes)

    @property
    def roles(self) -> frozenset[str]:
        """The roles that are present, the state's and the words' included."""
        found = {"text"} if self.state is None else {"text", "state"}
        for frames in (self.video, self.future):
            found.update(frames.roles if frames is not None else ())
        for part in PARTS[1:]:
            if (noisy := getattr(self, part)) is not None:
                found.update(noisy.roles or (part,))
        return frozenset(found)

    @property
    def parts(self) -> tuple[str, ...]:
        """Those of PARTS that are present; of the video, only if it has target frames."""
        clip = self.clip
        found = {"video"} if clip is not None and clip.targets else set()
        return tuple(p for p in PARTS if p in found or (p != "video" and getattr(self, p)))

    @property
    def clip(self) -> Frames | None:
        """The frames among which the targets are."""
        return self.video if self.future is None else self.future

    def noisy(self, part: str) -> Noisy:
        """The numbers of `part`. Raises ValueError if there are none."""
        found = getattr(self, part)
        if found is None:
            raise ValueError(f"there is no {part} in the scene")
        return found  # type: ignore[no-any-return]

    def take(self, part: str) -> Tensor:
        """What is denoised of a part: frames [B, C, T, h, w], or numbers [B, N, A]."""
        if part != "video":
            return self.noisy(part).x
        if self.clip is None:
            raise ValueError("there is no video in the scene")
        return self.clip.z[:, :, self.clip.span(*self.clip.targets)]

    def put(self, part: str, x: Tensor, sigma: Tensor | float | Rung) -> Scene:
        """This scene with `x`, as `take` gives it, at noise level `sigma`: a number, or [B].

        Where it is `Run.rung`, heads know which level of a run it is, and look it up.
        """
        if part == "video":
            assert self.clip is not None
            moved = self.clip.at(sigma, *self.clip.targets).put(x, *self.clip.targets)
            return self.with_(**{"video" if self.future is None else "future": moved})
        noisy = self.noisy(part)
        if isinstance(sigma, float | int):
            sigma = Rung.fixed(sigma, torch.full_like(noisy.sigma, sigma))
        rung, level = (sigma, sigma.sigma) if isinstance(sigma, Rung) else (None, sigma)
        return self.with_(**{part: Noisy(x, level, noisy.roles, noisy.times, rung)})

    def without(self, *parts: str) -> Scene:
        """This scene without those of PARTS; of the video only the target frames go."""
        changes: dict[str, Any] = {part: None for part in parts if part != "video"}
        if "video" in parts and (clip := self.clip) is not None:
            rest = tuple(role for role in dict.fromkeys(clip.roles) if role not in clip.targets)
            kept = clip.only(*rest) if rest else None
            changes["video" if self.future is None else "future"] = kept
        return self.with_(**changes)

    def pick(self, index: Tensor) -> Scene:
        """The samples `index` [B'], in that order; a sample may come more than once."""
        return Scene(
            self.text.pick(index),
            None if self.video is None else self.video.pick(index),
            state=None if self.state is None else self.state[index],
            future=None if self.future is None else self.future.pick(index),
            **{
                part: noisy.mapped(lambda x: x[index])
                for part in PARTS[1:]
                if (noisy := getattr(self, part)) is not None
            },
        )

    def pieces(self, known: Collection[str] = ()) -> list[Piece]:
        """State, action, next state and value as far as they are here and not `known` already.

        The state has no noise, and stands one place before the first action.
        """
        found, once, state = [], self.text.memo.once, self.state
        if state is not None and "state" not in known:
            found.append(once("state", lambda: _still(state), of=state))
        for part in PARTS[1:]:
            noisy: Noisy | None = getattr(self, part)
            if noisy is not None:
                count, times = noisy.x.shape[1], noisy.times
                if times is None:
                    times = once(("places", count), noisy.places)
                roles = noisy.roles or (part,) * count
                found.append(Piece(part, noisy.x, noisy.levels, roles, times, noisy.ladder))
        return found


def _still(state: Tensor) -> Piece:
    """The state [B, P] as numbers."""
    level = torch.zeros(len(state), 1, device=state.device)
    rung, time = Rung.fixed(0.0, level), torch.full((1,), -1.0, device=state.device)
    return Piece("state", state[:, None], level, ("state",), time, rung)


@dataclass(frozen=True)
class Velocity:
    """Predicted d x / d sigma of each noisy part of a scene, and what was kept of the pass."""

    video: Tensor | None = None  # [B, C, T, h, w], for all frames of the scene's video
    action: Tensor | None = None  # [B, N, A]
    cache: KVCache | None = None
    future: Tensor | None = None  # [B, C, T, h, w], for all frames of the scene's future
    next_state: Tensor | None = None  # [B, 1, P]
    value: Tensor | None = None  # [B, 1, 1]

    def take(self, part: str, scene: Scene) -> Tensor:
        """The velocity of what `scene.take(part)` gives. Raises ValueError if there is none."""
        name = part if part != "video" or scene.future is None else "future"
        velocity = getattr(self, name)
        if velocity is None:
            raise ValueError(f"nothing was predicted for the {part}")
        if part != "video":
            return velocity  # type: ignore[no-any-return]
        assert scene.clip is not None
        return velocity[:, :, scene.clip.span(*scene.clip.targets)]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Goal:
    """What one part of a noisy scene should be denoised towards, and how much each piece counts."""

    velocity: Tensor  # [B, C, F, h, w] of the predicted frames, or [B, N, A] of the predicted steps
    weight: Tensor  # [B], or [B, F], or [B, N]
    places: tuple[int, ...] = ()  # F or N places in the scene's part; () for all numbers


Target = Mapping[str, Goal]
"""part -> what to learn of it; "video" counts places among the frames of `Scene.clip`."""


@dataclass(frozen=True)
class Outcome:
    """What a paradigm made of a scene."""

    action: Tensor  # [B, N, A], normalized
    video: Frames | None = None  # what was imagined on the way, if anything
    value: Tensor | None = None  # [B] in [-1, 1], if it was predicted
    notes: Mapping[str, Tensor] = field(default_factory=dict)  # [B] each, for reports
    memory: Any = None  # what the next chunk of the same episode is to be told; None for nothing
