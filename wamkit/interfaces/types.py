"""The nouns of the engine: frozen dataclasses of tensors, with their shapes written down.

Letters: B batch, T latent frames, C latent channels, h w latent height and width, S tokens,
D width, H heads, K key heads, E head dim, N actions in a chunk, A action dim, P state dim,
L text tokens, R noise levels of a run, G groups of neighboring tokens that share a level.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..config.visibility import LayerVisibility
from ..engine.attention import Segment as Segment
from ..engine.kv_cache import KVCache as KVCache
from ..engine.levels import CLEAN as CLEAN
from ..engine.levels import Level as Level
from ..engine.levels import Levels as Levels
from ..engine.levels import PrefixLevels as PrefixLevels
from ..engine.levels import expand_levels as expand_levels
from ..engine.levels import join_levels as join_levels
from ..engine.levels import level_of, sigma_tensor
from ..engine.levels import slice_levels as slice_levels
from ..engine.text import Text as Text
from .prefix import Prefix as Prefix
from .vectors import NoisyVectors as NoisyVectors
from .vectors import StateTokens as StateTokens
from .vectors import TokenGroup as TokenGroup
from .vectors import counted as counted


def base(role: str) -> str:
    """Base name of a role: `target` for `target.3` and for the copy `target'`."""
    return role.rstrip("'").partition(".")[0]


@dataclass(frozen=True)
class Frames:
    """Latent frames, each with a role, a time and a noise level of its own."""

    z: Tensor  # [B, C, T, h, w]
    roles: tuple[str, ...]  # T names: "context", "target", ...
    times: tuple[float, ...]  # T times on the axis of latent frames
    levels: Levels  # of each frame: T entries of runs, or a tensor [B, T] float32 in [0, 1]
    cond_latents: Tensor | None = None  # [B, G, T, h, w] channels for backbones that want them;
    # behind those of these frames, the inputs of an episode may hold those of its later blocks
    views: tuple[int | None, ...] = ()  # T camera views (None: of none), where each has a clip

    def __post_init__(self) -> None:
        b, count = self.z.shape[0], len(self.roles)
        if self.z.ndim != 5 or self.z.shape[2] != count:
            raise ValueError(
                f"z must be [B, C, {count}, h, w] for {count} roles, found {tuple(self.z.shape)}"
            )
        if isinstance(self.times, Tensor):
            object.__setattr__(self, "times", tuple(self.times.tolist()))
        if len(self.times) != count:
            raise ValueError(f"found {len(self.times)} times for {count} roles")
        if self.views and len(self.views) != count:
            raise ValueError(f"found {len(self.views)} views for {count} roles")
        if isinstance(self.levels, Tensor):
            if tuple(self.levels.shape) != (b, count):
                raise ValueError(f"levels must be [{b}, {count}], found {tuple(self.levels.shape)}")
        elif len(self.levels) != count:
            raise ValueError(f"found {len(self.levels)} levels for {count} roles")

    @property
    def sigma(self) -> Tensor:
        """The noise level of every frame [B, T] float32; 0 is data, 1 is noise."""
        return sigma_tensor(self.levels, self.z.shape[0], self.z.device)

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The roles whose frames are to be denoised: `target`, `target.3`; no copies."""
        names = dict.fromkeys(self.roles)
        return tuple(r for r in names if base(r) == "target" and not r.endswith("'"))

    @cached_property
    def is_given(self) -> tuple[bool, ...]:
        """Of each frame, whether it conditions the others: it is known, and not to be denoised."""
        return tuple(base(role) in ("context", "seen", "state") for role in self.roles)

    @cached_property
    def is_reference(self) -> tuple[bool, ...]:
        """Of each frame, whether it is an image that was observed before the others."""
        return tuple(base(role) == "context" for role in self.roles)

    @cached_property
    def is_vector(self) -> tuple[bool, ...]:
        """Of each frame, whether it holds the values of a vector, and no image."""
        images = ("context", "seen", "target")
        return tuple(base(role) not in images for role in self.roles)

    def segments(self, tokens_per_frame: int) -> tuple[Segment, ...]:
        """One segment for each run of frames of the same role and view."""
        views = self.views or (None,) * len(self.roles)
        return tuple(
            Segment(role, len(list(run)) * tokens_per_frame, view=view)
            for (role, view), run in groupby(zip(self.roles, views, strict=True))
        )

    def where(self, *roles: str) -> list[int]:
        """Indices of the frames that have one of `roles`."""
        return [i for i, role in enumerate(self.roles) if role in roles]

    def span(self, *roles: str) -> slice | list[int]:
        """Indices of the frames that have one of `roles`, as a slice where they are a single run.

        A slice is a view; a list would be made into a tensor on the device at every use.
        """
        places = self.where(*roles)
        if places and places[-1] - places[0] + 1 == len(places):
            return slice(places[0], places[-1] + 1)
        return places

    def only(self, *roles: str) -> Frames:
        """Just the frames that have one of `roles`."""
        keep, where = self.span(*roles), self.where(*roles)
        cond = None if self.cond_latents is None else self.cond_latents[:, :, keep]
        levels = self.levels
        return Frames(
            self.z[:, :, keep],
            tuple(self.roles[i] for i in where),
            tuple(self.times[i] for i in where),
            levels[:, keep] if isinstance(levels, Tensor) else tuple(levels[i] for i in where),
            cond,
            tuple(self.views[i] for i in where) if self.views else (),
        )

    def level_of(self, role: str) -> Levels:
        """The level of the first frame of a role: one entry of a run, or [B, 1]."""
        levels, i = self.levels, self.roles.index(role)
        return levels[:, i : i + 1] if isinstance(levels, Tensor) else (levels[i],)

    def at(self, sigma: Tensor | float | Level, *roles: str) -> Frames:
        """The frames of `roles` set to a noise level.

        `sigma` is a number, a level of a run, [B], or [B, frames of these roles].
        """
        if not isinstance(sigma, Tensor) and not isinstance(self.levels, Tensor):
            new = level_of(sigma)
            levels: Levels = tuple(
                new if role in roles else old
                for role, old in zip(self.roles, self.levels, strict=True)
            )
            return replace(self, levels=levels)
        value = sigma
        if isinstance(value, Tensor) and value.ndim == 1:
            value = value[:, None]
        everywhere = all(role in roles for role in self.roles)
        if everywhere and isinstance(value, Tensor):
            return replace(self, levels=value.expand(self.z.shape[0], len(self.roles)))
        if everywhere and not isinstance(value, Tensor):
            return replace(self, levels=(level_of(value),) * len(self.roles))
        levels = self.sigma.clone()
        where = self.span(*roles)
        if isinstance(value, Tensor):
            levels[:, where] = value
        else:
            levels[:, where] = level_of(value).sigma
        return replace(self, levels=levels)

    def put(self, z: Tensor, *roles: str) -> Frames:
        """The frames of `roles` replaced by z [B, C, frames of the role, h, w]."""
        if all(role in roles for role in self.roles):
            return replace(self, z=z)
        new = self.z.clone()
        new[:, :, self.span(*roles)] = z
        return replace(self, z=new)

    def named(self, **names: str) -> Frames:
        """The same frames under other roles: `named(target="target'")`."""
        return replace(self, roles=tuple(names.get(role, role) for role in self.roles))

    def then(self, other: Frames) -> Frames:
        """These frames, then `other`'s, in one clip."""
        return Frames.row([self, other])

    @staticmethod
    def row(clips: Sequence[Frames]) -> Frames:
        """Clips one after the other, in one."""
        first = clips[0]
        conds = [clip.cond_latents for clip in clips if clip.cond_latents is not None]
        return Frames(
            torch.cat([clip.z.to(first.z.dtype) for clip in clips], 2),
            tuple(role for clip in clips for role in clip.roles),
            tuple(time for clip in clips for time in clip.times),
            join_levels([clip.levels for clip in clips], first.z.shape[0], first.z.device),
            torch.cat(conds, 2) if len(conds) == len(clips) else None,
            tuple(view for clip in clips for view in clip.views or (None,) * len(clip.roles))
            if any(clip.views for clip in clips)
            else (),
        )

    def pick(self, index: Tensor) -> Frames:
        """The samples `index` [B'], in that order; a sample may come more than once."""
        return self.map_tensors(lambda x: x[index])

    def map_tensors(self, rows: Callable[[Tensor], Tensor]) -> Frames:
        """The same frames of other samples, which `rows` takes from every tensor that has them."""
        levels = rows(self.levels) if isinstance(self.levels, Tensor) else self.levels
        cond = None if self.cond_latents is None else rows(self.cond_latents)
        return Frames(rows(self.z), self.roles, self.times, levels, cond, self.views)


MODALITIES = ("video", "action", "next_state", "value")
"""Modalities that can be denoised: frames for the first, `NoisyVectors` for the others."""


@dataclass(frozen=True)
class EpisodeHistory:
    """The earlier chunks of the same episode, for every chunk but its first."""

    memory: Any  # `ParadigmOutput.memory` of the last chunk
    video: Tensor | None = None  # [B, C, T, h, w] observed since then, if any
    action: Tensor | None = None  # [B, N, A] executed since then, as `ModelInputs.action`


@dataclass(frozen=True)
class ModelInputs:
    """The inputs of one forward pass. A modality that is absent is None."""

    text: Text
    video: Frames | None = None
    action: NoisyVectors | None = None
    state: Tensor | None = None  # [B, P], normalized; [B, n, P] of n blocks before they are noised
    future: Frames | None = None  # frames on a grid of their own, such as coarser targets
    next_state: NoisyVectors | None = None  # [B, 1, P] the state when the chunk is done
    value: NoisyVectors | None = None  # [B, 1, 1] how well it goes from there, in [-1, 1]
    past: EpisodeHistory | None = None  # what happened since the last chunk of the same episode
    sees: LayerVisibility | None = None  # of a training sample, where it is not the paradigm's
    states: StateTokens | None = None  # in place of `state`, where every block has one of its own
    prefix: Prefix | None = None  # of the actions, if the chunk continues another one

    def with_(self, **changes: Any) -> ModelInputs:
        """A copy with some parts replaced."""
        other = object.__new__(ModelInputs)  # `replace` takes three times as long, in every step
        other.__dict__.update(self.__dict__, **changes)
        return other if len(other.__dict__) == len(self.__dict__) else replace(self, **changes)

    @property
    def roles(self) -> frozenset[str]:
        """The roles that are present, including state and text."""
        found = {"text"} if self.state is None else {"text", "state"}
        found.update(() if self.states is None else self.states.roles)
        for frames in (self.video, self.future):
            found.update(frames.roles if frames is not None else ())
        for part in MODALITIES[1:]:
            if (noisy := getattr(self, part)) is not None:
                found.update(noisy.roles or (part,))
        return frozenset(found)

    @property
    def parts(self) -> tuple[str, ...]:
        """Those of MODALITIES that are present; of the video, only if it has target frames."""
        clip = self.clip
        found = {"video"} if clip is not None and clip.targets else set()
        return tuple(p for p in MODALITIES if p in found or (p != "video" and getattr(self, p)))

    @property
    def clip(self) -> Frames | None:
        """The frames among which the targets are."""
        return self.video if self.future is None else self.future

    def noisy(self, part: str) -> NoisyVectors:
        """The noisy vectors of modality `part`. Raises ValueError if there are none."""
        found = getattr(self, part)
        if found is None:
            raise ValueError(f"the inputs have no {part}")
        return found  # type: ignore[no-any-return]

    def take(self, part: str) -> Tensor:
        """Denoised values of a modality: frames [B, C, T, h, w], or vectors [B, N, A]."""
        if part != "video":
            return self.noisy(part).x
        if self.clip is None:
            raise ValueError("the inputs have no video")
        return self.clip.z[:, :, self.clip.span(*self.clip.targets)]

    def put(self, part: str, x: Tensor, sigma: Tensor | float | Level) -> ModelInputs:
        """These inputs with `x`, as `take` gives it, at noise level `sigma`: a number, or [B].

        Where it is an entry of a run, its modulation is looked up.
        """
        if part == "video":
            assert self.clip is not None
            moved = self.clip.at(sigma, *self.clip.targets).put(x, *self.clip.targets)
            return self.with_(**{"video" if self.future is None else "future": moved})
        noisy = self.noisy(part)
        level = sigma if isinstance(sigma, Tensor) else level_of(sigma)
        return self.with_(**{part: NoisyVectors(x, level, noisy.roles, noisy.times)})

    def without(self, *parts: str) -> ModelInputs:
        """These inputs without those of MODALITIES; of the video only the target frames go."""
        changes: dict[str, Any] = {part: None for part in parts if part != "video"}
        if "video" in parts and (clip := self.clip) is not None:
            rest = tuple(role for role in dict.fromkeys(clip.roles) if role not in clip.targets)
            kept = clip.only(*rest) if rest else None
            changes["video" if self.future is None else "future"] = kept
        return self.with_(**changes)

    def pick(self, index: Tensor) -> ModelInputs:
        """The samples `index` [B'], in that order; a sample may come more than once."""
        return ModelInputs(
            self.text.pick(index),
            None if self.video is None else self.video.pick(index),
            state=None if self.state is None else self.state[index],
            future=None if self.future is None else self.future.pick(index),
            states=None if self.states is None else self.states.map_tensors(lambda x: x[index]),
            prefix=None if self.prefix is None else self.prefix.map_tensors(lambda x: x[index]),
            **{
                part: noisy.map_tensors(lambda x: x[index])
                for part in MODALITIES[1:]
                if (noisy := getattr(self, part)) is not None
            },
        )

    def groups(self, known: Collection[str] = ()) -> list[TokenGroup]:
        """State, action, next state and value as far as they are here and not `known` already.

        The state has no noise, and stands one place before the first action.
        """
        found = []
        if self.state is not None and "state" not in known:
            found.append(TokenGroup("state", self.state[:, None], CLEAN, ("state",), (-1.0,)))
        if self.states is not None:
            found.append(self.states.group(self.action))
        for part in MODALITIES[1:]:
            noisy: NoisyVectors | None = getattr(self, part)
            if noisy is not None:
                level = noisy.sigma if isinstance(noisy.level, Tensor) else noisy.level
                roles = noisy.roles or (part,) * noisy.x.shape[1]
                found.append(TokenGroup(part, noisy.x, level, roles, noisy.places()))
        return found


@dataclass(frozen=True)
class ModelOutput:
    """Predicted velocity d x / d sigma of each noisy modality, and the KV cache of the pass."""

    video: Tensor | None = None  # [B, C, T, h, w], for all frames of `ModelInputs.video`
    action: Tensor | None = None  # [B, N, A]
    cache: KVCache | None = None
    future: Tensor | None = None  # [B, C, T, h, w], for all frames of `ModelInputs.future`
    next_state: Tensor | None = None  # [B, 1, P]
    value: Tensor | None = None  # [B, 1, 1]

    def take(self, part: str, inputs: ModelInputs) -> Tensor:
        """The velocity of what `inputs.take(part)` gives. Raises ValueError if there is none."""
        name = part if part != "video" or inputs.future is None else "future"
        velocity = getattr(self, name)
        if velocity is None:
            raise ValueError(f"nothing was predicted for the {part}")
        if part != "video":
            return velocity  # type: ignore[no-any-return]
        assert inputs.clip is not None
        return velocity[:, :, inputs.clip.span(*inputs.clip.targets)]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class DenoisingTarget:
    """The regression target of one noisy modality, and the loss weight of each of its elements."""

    velocity: Tensor  # [B, C, F, h, w] of the predicted frames, or [B, N, A] of the predicted steps
    weight: Tensor  # [B], or [B, F], or [B, N]
    places: tuple[int, ...] = ()  # F or N positions in the modality; () for all of them
    frames: tuple[int, ...] = ()  # F frames of the sample that these are, if not those of `places`


DenoisingTargets = Mapping[str, DenoisingTarget]
"""modality -> its target; the positions of "video" count the frames of `ModelInputs.clip`."""


@dataclass(frozen=True)
class ParadigmOutput:
    """The result of a paradigm for one chunk."""

    action: Tensor  # [B, N, A], normalized
    video: Frames | None = None  # predicted frames, if any
    value: Tensor | None = None  # [B] in [-1, 1], if it was predicted
    notes: Mapping[str, Tensor] = field(default_factory=dict)  # [B] each, for reports
    memory: Any = None  # handed to the next chunk of the same episode as `EpisodeHistory.memory`
