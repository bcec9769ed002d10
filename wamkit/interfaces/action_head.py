"""Three ways for an action head to join a backbone; each is one method, `join`.

ExpertHead   shared attention   a stream of tokens beside the video, block by block
ReaderHead   hidden states      it reads the video's layers; the video never attends to it
SlotHead     latent slots       vectors are written into extra latent frames
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config.visibility import LayerVisibility, union
from ..engine.attention import Segment, Stream
from ..engine.kv_cache import KVCache
from ..engine.passes import LevelTable, PassRunner
from .backbone import Backbone, Stack
from .streams import all_streams, embed_videos, velocities
from .types import MODALITIES, Frames, NoisyVectors, Scene, Text, TokenGroup, Velocity, base


class ActionHead(nn.Module, ABC):
    """Predicts the velocity of an action chunk, and of what else is to come, from a backbone."""

    @abstractmethod
    def join(
        self,
        runner: PassRunner,
        backbone: Backbone,
        scene: Scene,
        sees: LayerVisibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        """One pass of backbone and head over what is in `scene` and `cache`.

        If `keep` covers every role this is a prefill: only the KV cache is returned.
        """

    def initialize_from(self, backbone: Backbone) -> None:
        """Take over what the head wants of the backbone's weights; by default nothing."""

    def prepare(self, scene: Scene) -> Scene:
        """The scene as the head wants it, made once for a chunk or a sample, before any pass.

        For example with the state behind the prompt (`Text.append`).
        """
        return scene

    def to_latent(self, modality: str, x: Tensor) -> Tensor:
        """Vectors [B, N, A] in the form that noise is added to; by default themselves."""
        return x

    def from_latent(self, modality: str, x: Tensor) -> Tensor:
        """What `to_latent` made of vectors, as vectors [B, N, A] again."""
        return x


def is_prefill(scene: Scene, keep: Collection[str]) -> bool:
    """True if a pass is there for its keys alone."""
    return bool(keep) and scene.roles - {"text", "state"} <= set(keep)


def append_state(scene: Scene, encoder: nn.Module) -> Scene:
    """The scene with its state, if it has one, as one more text token."""
    if scene.state is None:
        return scene
    dtype = next(encoder.parameters()).dtype
    return scene.with_(text=scene.text.append(encoder(scene.state.to(dtype))[:, None]))


class ExpertHead(ActionHead):
    """Shared attention: the head is a stream of its own, block beside block.

    All methods are pure: the engine decides how often they run.
    """

    @abstractmethod
    def stack(self, backbone: Backbone) -> Stack:
        """Whose blocks the tokens pass: as many as the backbone has, None where they rest."""

    def token_groups(self, scene: Scene, known: Collection[str]) -> list[TokenGroup]:
        """The tokens of a pass, but for those of the roles `known`, which are cached."""
        return scene.groups(known)

    def token_times(self, groups: Sequence[TokenGroup]) -> Sequence[float]:
        """The time of each token on the backbone's axis of latent frames [S]."""
        return [time for group in groups for time in group.times]

    def embed_times(self, groups: Sequence[TokenGroup], device: torch.device) -> Tensor | None:
        """What is added to the tokens [S, D] because of their places; None for nothing."""
        return None

    def embed_levels(self, sigmas: Tensor) -> Tensor | None:
        """What the head's own encoders and decoders read of noise levels [R]: [R, ...], or None."""
        return None

    @abstractmethod
    def embed_tokens(self, group: TokenGroup, scene: Scene, level: Any) -> Tensor:
        """Tokens [B, n, D] of a group; `level` is rows [B or 1, n or 1, ...] of `embed_levels`."""

    @abstractmethod
    def decode_tokens(self, modality: str, x: Tensor, level: Any) -> Tensor:
        """Final tokens [B, n, D] of a modality to its velocity [B, n, A]."""

    def join(
        self,
        runner: PassRunner,
        backbone: Backbone,
        scene: Scene,
        sees: LayerVisibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        prefill = is_prefill(scene, keep)
        videos = embed_videos(runner, backbone, scene, cache)
        own = self._stream(runner, backbone, scene, cache.roles if cache is not None else ())
        streams = all_streams(videos)
        if own is not None:
            streams.append(own.stream)
        tokens, kept = runner.run(
            streams, sees, attend=backbone.attend, cache=cache, keep=keep, prefill=prefill
        )
        if prefill:
            return Velocity(cache=kept)
        found = {} if own is None else self._decoded(own, tokens[-1])
        return Velocity(**velocities(backbone, videos, tokens), **found, cache=kept)

    def _stream(
        self, runner: PassRunner, backbone: Backbone, scene: Scene, known: Collection[str]
    ) -> _Tokens | None:
        groups = self.token_groups(scene, known)
        if not groups:
            return None
        stack, device = self.stack(backbone), scene.text.tokens.device
        batch = scene.text.tokens.shape[0]
        parts = [(group.level, len(group.roles)) for group in groups]
        levels = LevelTable.of(parts, batch, device)
        rows = runner.level_rows(self, self.embed_levels, levels)
        lengths = [len(group.roles) for group in groups]
        each = [None] * len(groups) if rows is None else _split(rows, lengths)
        found = [
            self.embed_tokens(group, scene, row) for group, row in zip(groups, each, strict=True)
        ]
        x = found[0] if len(found) == 1 else torch.cat([y.expand(batch, -1, -1) for y in found], 1)
        layout = tuple((group.modality, group.roles, group.times) for group in groups), device

        def place() -> tuple[Tensor | None, Any]:
            times = torch.tensor(self.token_times(groups), dtype=torch.float64, device=device)
            off = torch.full_like(times, -1)  # beside the rows and columns of any image
            positions = torch.stack([times, off, off], -1)
            return self.embed_times(groups, device), stack.embed_positions(positions)

        added, rotary = runner.once((self, stack, "positions", layout), place)
        if added is not None:
            x = x + added.to(x.dtype)
        blocks = tuple(stack.blocks)
        text = scene.text
        pooled = text.extra[:, 0] if stack.reads_pooled and text.extra is not None else None
        modulation, index = runner.modulation(stack, blocks, "blocks", levels, pooled, text)
        cond, text_kv = None, None
        if not (isinstance(stack, Backbone) and stack.text_blocks is not None):
            cond, text_kv = runner.text(stack, blocks, text)
        segments = _segments(groups)
        stream = Stream(blocks, x, segments, index, modulation, rotary, text_kv, cond)
        return _Tokens(stream, groups, each)

    def _decoded(self, own: _Tokens, x: Tensor) -> dict[str, Tensor]:
        parts = x.split([len(group.roles) for group in own.groups], 1)
        found: dict[str, list[tuple[Tensor, Any]]] = {}
        for group, part, row in zip(own.groups, parts, own.levels, strict=True):
            if group.modality in MODALITIES:
                found.setdefault(group.modality, []).append((part, row))
        return {
            name: _row([self.decode_tokens(name, part, row) for part, row in pieces])
            for name, pieces in found.items()
        }


class _Tokens(NamedTuple):
    """A head's stream, and whose its tokens are."""

    stream: Stream
    groups: Sequence[TokenGroup]
    levels: Sequence[Any]  # of each group, rows of `embed_levels`


def _split(rows: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Rows [B or 1, S or 1, ...] for each group of tokens."""
    return [rows] * len(lengths) if rows.shape[1] == 1 else list(rows.split(list(lengths), 1))


def _row(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def _segments(groups: Sequence[TokenGroup]) -> tuple[Segment, ...]:
    """One segment for each run of a role, and one for each group that has a mask."""
    found = []
    keyed = ((id(g.mask), g.mask, role) for g in groups for role in g.roles)
    for _, run in groupby(keyed, key=lambda x: (x[0], x[2])):
        members = list(run)
        found.append(Segment(members[0][2], len(members), members[0][1]))
    return tuple(found)


class ReaderHead(ActionHead):
    """Hidden states: the head reads layers of the backbone, which never attends to it.

    All methods are pure: the engine decides how often they run.
    """

    layers: tuple[int, ...]  # whose outputs are read, counted from 0
    reads_video_level: bool = False
    """Whether `embed_levels` reads the noise level of the frames; without, it is given 0."""

    def token_groups(self, scene: Scene) -> list[TokenGroup]:
        """The vectors that are read for, and those that are read with them."""
        return scene.groups()

    def encode_hidden(self, hidden: Sequence[Tensor], mask: Tensor | None, text: Text) -> Any:
        """What `read` needs of hidden states and prompt; once for as long as these are cached.

        Args:
            hidden: States [B, S, D] that the vectors may see, one tensor for each of `layers`.
            mask: [B, S] as `Text.mask`.
            text: The prompt.
        """
        return tuple(hidden), mask

    def embed_levels(self, sigmas: Tensor, video: Tensor) -> Any:
        """What `read` needs of noise levels: [R, ...], or None.

        Args:
            sigmas: Levels of vectors [R] float32.
            video: The highest noise level of the frames that are read [R] float32.
        """
        return None

    def embed_layout(self, groups: Sequence[TokenGroup], device: torch.device) -> Any:
        """What `read` needs of the places of tokens, and of nothing else."""
        return None

    @abstractmethod
    def read(
        self,
        scene: Scene,
        groups: Sequence[TokenGroup],
        memory: Any,
        levels: Any,
        layout: Any,
        call: Callable[..., Any],
    ) -> dict[str, Tensor]:
        """Velocities [B, N, A] by modality.

        Args:
            scene: What is in the pass.
            groups: Those of `token_groups`.
            memory: What `encode_hidden` made.
            levels: Rows [B or 1, S or 1, ...] of `embed_levels`, for the tokens of the groups.
            layout: What `embed_layout` made.
            call: `call(function, *args)` runs a pure function of modules and tensors, compiled
                where the policy is.
        """

    def join(
        self,
        runner: PassRunner,
        backbone: Backbone,
        scene: Scene,
        sees: LayerVisibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        """One pass; vectors that see the same roles are read together.

        Vectors see each other only within a chunk, since nothing is kept of them.
        """
        prefill = is_prefill(scene, keep)
        videos, known = embed_videos(runner, backbone, scene, cache), cache
        kept = KVCache([{} for _ in backbone.blocks])
        tokens: list[Tensor] = []
        if videos:
            tokens, passed = runner.run(
                all_streams(videos),
                sees,
                attend=backbone.attend,
                cache=cache,
                keep=keep,
                hidden=self.layers,
                prefill=prefill,
            )
            passed.levels = _frame_levels(scene)
            kept = passed.without({r for x in passed.hidden for r in x if r not in keep})
            known = passed if cache is None else cache | passed
        if prefill:
            return Velocity(cache=kept)
        views = _views(scene, union(sees))
        if views and known is None:
            raise ValueError("a reader needs a video or a cache to read from")
        found: dict[str, list[Tensor]] = {}
        for seen, view, own in views:
            assert known is not None
            read = self._read(runner, view, seen, known, cached=not videos)
            for part in own:
                found.setdefault(part, []).append(read[part])
        whole = {part: _row(pieces) for part, pieces in found.items()}
        return Velocity(**velocities(backbone, videos, tokens), **whole, cache=kept)

    def _read(
        self,
        runner: PassRunner,
        scene: Scene,
        seen: Collection[str],
        known: KVCache,
        *,
        cached: bool,
    ) -> dict[str, Tensor]:
        roles = tuple(role for role in known.hidden[self.layers[0]] if role in seen)

        def make() -> Any:
            hidden = [known.states(layer, roles) for layer in self.layers]
            return self.encode_hidden(hidden, _mask(roles, known, scene), scene.text)

        key = self, "memory", roles, id(scene.text)
        memory = known.derive(key, lambda: (make(), scene.text))[0] if cached else make()
        groups, text = self.token_groups(scene), scene.text
        batch, device = text.tokens.shape[0], text.tokens.device
        levels = LevelTable.of([(g.level, len(g.roles)) for g in groups], batch, device)
        level = known.level(roles) if self.reads_video_level else 0.0
        rows = self._level_rows(runner, levels, level, batch)
        layout = tuple((g.modality, g.roles, g.times) for g in groups), device
        places = runner.once((self, "layout", layout), lambda: self.embed_layout(groups, device))
        return self.read(scene, groups, memory, rows, places, runner.call)

    def _level_rows(
        self, runner: PassRunner, levels: LevelTable, video: float | Tensor, batch: int
    ) -> Any:
        """What `embed_levels` makes of the levels of tokens and frames, for each token."""
        if isinstance(video, float):
            of = video
            return runner.level_rows(
                self, lambda s: self.embed_levels(s, torch.full_like(s, of)), levels, of
            )
        sigmas, index, key = levels
        count = len(sigmas)
        if key is None:  # levels of samples in turn
            frames = video.repeat_interleave(count // batch)
        else:
            sigmas, frames = sigmas.repeat_interleave(batch), video.repeat(count)
            index = index * batch + torch.arange(batch, device=index.device)[:, None]
        table = LevelTable(sigmas, index, None)
        return runner.level_rows(self, lambda s: self.embed_levels(s, frames), table)


def _frame_levels(scene: Scene) -> dict[str, float | Tensor]:
    """role -> the highest noise level of its frames, [B] where samples differ."""
    found: dict[str, float | Tensor] = {}
    for clip in (scene.video, scene.future):
        for role in dict.fromkeys(clip.roles if clip is not None else ()):
            assert clip is not None
            levels = clip.only(role).levels
            if isinstance(levels, Tensor):
                found[role] = levels.amax(1)
            else:
                found[role] = max(level.sigma for level in levels)
    return found


def _views(
    scene: Scene, sees: Mapping[str, Collection[str]]
) -> list[tuple[frozenset[str], Scene, list[str]]]:
    """What is to be read for the vectors of a scene: one view for those that see the same roles.

    The roles that are seen, the scene with the vectors of the same chunk that are among them, and
    the modalities whose velocities this view is there for.
    """
    vectors = {part: v for part in MODALITIES[1:] if (v := getattr(scene, part)) is not None}
    roles = {part: v.roles or (part,) * v.x.shape[1] for part, v in vectors.items()}
    views: dict[tuple[frozenset[str], str], list[str]] = {}
    for part, names in roles.items():
        for role in dict.fromkeys(names):
            key = frozenset(sees[role]), role.removeprefix(base(role))
            views.setdefault(key, []).append(part)
    found = []
    for (seen, chunk), own in views.items():
        visible = {
            part: _steps(v, roles[part], chunk) if part in own or part + chunk in seen else None
            for part, v in vectors.items()
        }
        found.append((seen, scene.with_(**visible), own))
    return found


def _steps(vectors: NoisyVectors, roles: Sequence[str], chunk: str) -> NoisyVectors | None:
    """The steps of one chunk, if there are any; they follow each other."""
    at = [i for i, role in enumerate(roles) if role.removeprefix(base(role)) == chunk]
    if not at or len(at) == len(roles):
        return vectors if at else None
    span = slice(at[0], at[-1] + 1)
    level = vectors.level
    if isinstance(level, Tensor) and level.ndim == 2:
        level = level[:, span]
    return NoisyVectors(vectors.x[:, span], level, vectors.roles[span], vectors.places()[span])


def _mask(roles: Sequence[str], known: KVCache, scene: Scene) -> Tensor | None:
    """Which of the hidden states [B, S, D] of `roles` are real: only text can be padding."""
    mask = scene.text.whole.mask
    if "text" not in roles or mask is None:
        return None
    real = mask.new_zeros if mask.is_floating_point() else mask.new_ones
    lengths = [next(x[role].shape[1] for x in known.hidden if x) for role in roles]
    parts = [
        mask if role == "text" else real(mask.shape[0], length)
        for role, length in zip(roles, lengths, strict=True)
    ]
    return torch.cat(parts, 1)


class SlotHead(ActionHead):
    """Latent slots: vectors are written into extra latent frames of the video itself."""

    @abstractmethod
    def slots(self, scene: Scene, known: Collection[str]) -> dict[str, Frames]:
        """The vectors of a scene (`Scene.groups`) as latent frames, the state included.

        Those whose roles are `known` are left out. In size the frames are like the scene's own.
        Frames under other names than those of modalities are only looked at.
        """

    @abstractmethod
    def decode_slot(self, modality: str, v: Tensor, vectors: NoisyVectors) -> Tensor:
        """Velocity of the frames that `slots` made [B, C, T, h, w], as that of the vectors."""

    def frame_times(self, times: tuple[float, ...]) -> tuple[float, ...]:
        """The times of a clip's own frames, with room between them for slots."""
        return times

    def join(
        self,
        runner: PassRunner,
        backbone: Backbone,
        scene: Scene,
        sees: LayerVisibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        prefill = is_prefill(scene, keep)
        scene = scene.with_(
            **{
                name: replace(frames, times=self.frame_times(frames.times))
                for name in ("video", "future")
                if (frames := getattr(scene, name)) is not None
            }
        )
        slots = self.slots(scene, cache.roles if cache is not None else ())
        clips = [*([scene.video] if scene.video is not None else []), *slots.values()]
        if clips:
            scene = scene.with_(video=Frames.row(clips))
        videos = embed_videos(runner, backbone, scene, cache)
        tokens, kept = runner.run(
            all_streams(videos),
            sees,
            attend=backbone.attend,
            cache=cache,
            keep=keep,
            prefill=prefill,
        )
        if prefill:
            return Velocity(cache=kept)
        found = velocities(backbone, videos, tokens)
        if not clips:
            return Velocity(**found, cache=kept)
        pieces = found.pop("video").split([len(clip.roles) for clip in clips], 2)
        vectors = {
            part: self.decode_slot(part, v, scene.noisy(part))
            for part, v in zip(slots, pieces[len(clips) - len(slots) :], strict=True)
            if part in MODALITIES
        }
        if len(clips) > len(slots):
            found["video"] = pieces[0]
        return Velocity(**found, **vectors, cache=kept)
