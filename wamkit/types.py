"""The nouns of the engine: frozen dataclasses of tensors, with their shapes written down.

Letters: B batch, T latent frames, C latent channels, h w latent height and width, S tokens,
D width, H heads, K key heads, E head size, N actions in a chunk, A numbers in an action,
P numbers in a state, L words.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


class Memo:
    """What stays the same over the steps of one chunk, computed once.

    Values are kept only while gradients are off: in training every pass computes its own. A copy
    made by `dataclasses.replace` starts with an empty memo.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[Any, Any]] = {}

    def once(self, key: Hashable, make: Callable[[], Value], *, of: object = None) -> Value:
        """`make()` the first time, the same value afterwards, for as long as `of` is the same."""
        if torch.is_grad_enabled():
            return make()
        kept = self._kept.get(key)
        if kept is None or kept[0] is not of:
            kept = self._kept[key] = (of, make())
        return kept[1]  # type: ignore[no-any-return]


class Segment(NamedTuple):
    """A named run of tokens in a stream, for example all tokens of the target frames."""

    role: str
    length: int
    valid: Tensor | None = None  # [B, length], as `Text.mask`; None if every token counts alike


@dataclass(frozen=True)
class Text:
    """An instruction as embeddings, and the image tokens that some backbones want beside it."""

    tokens: Tensor  # [B, L, width]
    valid: Tensor | None = None  # [B, L] bool, True where attention may look; None for everywhere
    image: Tensor | None = None  # [B, L', image width]
    copies: Tensor | None = None  # [B, L] how many equal tokens each stands for; None for one each
    memo: Memo = field(default_factory=Memo, init=False, repr=False, compare=False)

    @cached_property
    def mask(self) -> Tensor | None:
        """What attention is to hide or to weigh: None, bool [B, L], or float32 to add to scores.

        A key that stands for n equal ones counts as n of them when log n is added to its score:
        sum over n of exp(s) is exp(s + log n).
        """
        if self.copies is None:
            return self.valid
        weight = self.copies.float().log()
        return weight if self.valid is None else weight.masked_fill(~self.valid, float("-inf"))

    def append(self, token: Tensor) -> Text:
        """This text with more tokens [B, L', width] at the end, all of them real."""
        tokens = torch.cat([self.tokens, token.to(self.tokens.dtype)], 1)
        valid, copies = (
            None if x is None else torch.cat([x, x.new_ones(token.shape[:2])], 1)
            for x in (self.valid, self.copies)
        )
        return Text(tokens, valid, self.image, copies)


@dataclass(frozen=True)
class Frames:
    """Latent frames, each with a role, a place in time and a noise level of its own."""

    z: Tensor  # [B, C, T, h, w]
    roles: tuple[str, ...]  # T names: "context", "target", ...
    times: Tensor  # [T] place on the latent time axis
    sigma: Tensor  # [B, T] float32 in [0, 1]; 0 is data, 1 is noise
    guide: Tensor | None = (
        None  # [B, G, T, h, w] extra input channels, for backbones that want them
    )
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
        keep = self.span(*roles)
        return Frames(
            self.z[:, :, keep],
            tuple(role for role in self.roles if role in roles),
            self.times[keep],
            self.sigma[:, keep],
            None if self.guide is None else self.guide[:, :, keep],
        )

    def at(self, sigma: Tensor | float, *roles: str) -> Frames:
        """The frames of `roles` set to a noise level: a number, [B], or [B, frames of the role]."""
        levels = self.sigma.clone()
        if isinstance(sigma, Tensor) and sigma.ndim == 1:
            sigma = sigma[:, None]
        levels[:, self.span(*roles)] = sigma
        return self._moved(sigma=levels)

    def put(self, z: Tensor, *roles: str) -> Frames:
        """The frames of `roles` replaced by z [B, C, frames of the role, h, w]."""
        if all(role in roles for role in self.roles):
            return self._moved(z=z)
        new = self.z.clone()
        new[:, :, self.span(*roles)] = z
        return self._moved(z=new)

    def _moved(self, **changes: Any) -> Frames:
        """The same frames at another point of their denoising; what depends on places stays."""
        moved = replace(self, **changes)
        object.__setattr__(moved, "memo", self.memo)
        return moved


@dataclass(frozen=True)
class Noisy:
    """An action chunk at a noise level."""

    x: Tensor  # [B, N, A], normalized
    sigma: Tensor  # [B] float32 in [0, 1]


@dataclass(frozen=True)
class Scene:
    """Everything one pass may look at. A part that is absent is None."""

    text: Text
    video: Frames | None = None
    action: Noisy | None = None
    state: Tensor | None = None  # [B, P], normalized

    def with_(self, **changes: Any) -> Scene:
        """A copy with some parts replaced."""
        return replace(self, **changes)

    @property
    def roles(self) -> frozenset[str]:
        """The roles that are present."""
        video = self.video.roles if self.video else ()
        return frozenset({"text", *video, *(("action",) if self.action else ())})


class KV(NamedTuple):
    """Keys and values of some tokens, normalized and positioned."""

    k: Tensor  # [B, K, S, E]
    v: Tensor  # [B, K, S, E]
    valid: Tensor | None = None  # [B, S], as `Text.mask`

    @staticmethod
    def join(parts: Sequence[KV]) -> KV:
        """All keys in a row."""
        if len(parts) == 1:
            return parts[0]
        k, v = torch.cat([p.k for p in parts], 2), torch.cat([p.v for p in parts], 2)
        if all(p.valid is None for p in parts):
            return KV(k, v)
        masks = [_valid(p) for p in parts]
        if any(mask.is_floating_point() for mask in masks):
            masks = [m if m.is_floating_point() else m.float().log() for m in masks]
        return KV(k, v, torch.cat(masks, 1))


def _valid(kv: KV) -> Tensor:
    if kv.valid is not None:
        return kv.valid
    return torch.ones(kv.k.shape[0], kv.k.shape[2], dtype=torch.bool, device=kv.k.device)


class KVCache:
    """What a pass leaves behind: keys and values by layer and role, and hidden states.

    A pass that looks at cached roles beside its own writes its own keys behind the cached ones, in
    a buffer that is made at the first step and rewritten in place at the others: the step loop
    allocates nothing and copies no cached key.
    """

    def __init__(
        self,
        layers: Sequence[dict[str, KV]],
        hidden: Sequence[dict[str, Tensor]] = (),
    ) -> None:
        self.layers = tuple(layers)  # for each layer, role -> KV
        self.hidden = tuple(hidden)  # for each layer, role -> [B, S, D]; empty where none was asked
        self._room: dict[tuple[int, tuple[str, ...], int], KV] = {}

    @property
    def roles(self) -> frozenset[str]:
        """The roles that are kept."""
        return frozenset(role for layer in self.layers for role in layer)

    def __or__(self, newer: KVCache) -> KVCache:
        """Both; a role that both hold is taken from `newer`."""
        layers = [{**a, **b} for a, b in zip(self.layers, newer.layers, strict=True)]
        hidden = (
            [{**a, **b} for a, b in zip(self.hidden, newer.hidden, strict=True)]
            if self.hidden and newer.hidden
            else (newer.hidden or self.hidden)
        )
        return KVCache(layers, hidden)

    def followed_by(self, layer: int, roles: tuple[str, ...], fresh: KV) -> KV:
        """The cached keys of `roles`, then `fresh`."""
        kept = [self.layers[layer][role] for role in roles]
        if torch.is_grad_enabled():
            return KV.join([*kept, fresh])
        key = (layer, roles, fresh.k.shape[2])
        room = self._room.get(key)
        if room is None:
            room = self._room[key] = KV.join([*kept, fresh])
            return room
        start = room.k.shape[2] - fresh.k.shape[2]
        room.k[:, :, start:].copy_(fresh.k)
        room.v[:, :, start:].copy_(fresh.v)
        if room.valid is not None and fresh.valid is not None:
            room.valid[:, start:].copy_(fresh.valid)
        return room


@dataclass(frozen=True)
class Velocity:
    """Predicted d x / d sigma of each noisy part of a scene, and what was kept of the pass."""

    video: Tensor | None = None  # [B, C, T, h, w], for the frames of the scene
    action: Tensor | None = None  # [B, N, A]
    cache: KVCache | None = None


@dataclass(frozen=True)
class Target:
    """What a noisy scene should be denoised towards, and how much each piece counts."""

    action: Tensor | None = None  # [B, N, A] velocity
    action_weight: Tensor | None = None  # [B]
    video: Tensor | None = None  # [B, C, F, h, w] velocity of the predicted frames
    video_weight: Tensor | None = None  # [B, F]
    frames: tuple[int, ...] = ()  # F places of the predicted frames in the scene's video
