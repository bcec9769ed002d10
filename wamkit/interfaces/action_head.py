"""Three ways for an action head to join a backbone; each is one method, `join`.

ExpertHead   shared attention   a stream of tokens beside the video, block by block
ReaderHead   hidden states      it reads the video's layers, and is never heard
SlotHead     latent slots       its numbers are written into extra latent frames
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..config.visibility import Visibility
from ..engine.attention import Stream, run
from ..engine.kv_cache import KVCache
from .backbone import VideoBackbone, stream_of
from .types import PARTS, Frames, Noisy, Scene, Velocity, base


class ActionHead(nn.Module, ABC):
    """Predicts the velocity of an action chunk, and of what else is to come, from a backbone."""

    @abstractmethod
    def join(
        self,
        backbone: VideoBackbone,
        scene: Scene,
        sees: Visibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        """One pass of backbone and head over what is in `scene` and `cache`.

        A pass that is asked to keep every role it has predicts nothing.
        """

    def initialize_from(self, backbone: VideoBackbone) -> None:
        """Take over what the head wants of the backbone's weights; by default nothing."""

    def prepare(self, scene: Scene) -> Scene:
        """The scene as this head wants it seen, for example with the state beside the text."""
        return scene

    def lift(self, part: str, x: Tensor) -> Tensor:
        """Numbers [B, N, A] of a part in the form that noise is added to; by default themselves."""
        return x

    def lower(self, part: str, x: Tensor) -> Tensor:
        """What `lift` made of numbers, as numbers [B, N, A] again."""
        return x


def is_prefill(scene: Scene, keep: Collection[str]) -> bool:
    """True if a pass is there for its keys alone."""
    return bool(keep) and scene.roles - {"text", "state"} <= set(keep)


def state_as_word(scene: Scene, encoder: nn.Linear) -> Scene:
    """The scene with its state, if it has one, as one more word at the width of the text."""
    state = scene.state
    if state is None:
        return scene
    text = scene.text.memo.once(
        (id(encoder), "state"),
        lambda: scene.text.append(encoder(state.to(encoder.weight.dtype))[:, None]),
        of=state,
    )
    return scene.with_(text=text)


def entrance(
    backbone: VideoBackbone, scene: Scene, cache: KVCache | None = None
) -> dict[str, Stream]:
    """The frames of a scene at the entrance of the backbone's stack, under "video" and "future"."""
    streams: dict[str, Stream] = {}
    text = scene.text
    if text.follows and scene.future is not None:  # the targets may be where the words are not
        text = text.with_beside(scene.future)
    for name in ("video", "future"):
        frames = getattr(scene, name)
        if frames is not None:
            words = not streams  # one set of words is enough where they are in the stream
            streams[name] = stream_of(backbone, frames, text, cache, words=words)
    return streams


def way_out(backbone: VideoBackbone, streams: Mapping[str, Stream]) -> dict[str, Tensor]:
    """The velocities of all frames that went in, if the backbone has any to tell."""
    if not backbone.traits.imagines:
        return {}
    return {name: backbone.unembed(stream.x, stream.cond) for name, stream in streams.items()}


class ExpertHead(ActionHead):
    """Shared attention: the head is a stream of its own, block beside block."""

    @abstractmethod
    def stream(
        self, backbone: VideoBackbone, scene: Scene, known: Collection[str]
    ) -> Stream | None:
        """Tokens for the numbers of a scene (`Scene.pieces`) but for those of the roles `known`.

        As many blocks as the backbone has, None where the head rests. None if there is nothing.
        """

    @abstractmethod
    def unembed(self, stream: Stream) -> dict[str, Tensor]:
        """The final tokens' velocities [B, N, A], by part, for the parts that are denoised."""

    def join(
        self,
        backbone: VideoBackbone,
        scene: Scene,
        sees: Visibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        scene, prefill = self.prepare(scene), is_prefill(scene, keep)
        videos = entrance(backbone, scene, cache)
        own = self.stream(backbone, scene, cache.roles if cache is not None else ())
        streams = [*videos.values(), *([own] if own is not None else [])]
        kept = run(streams, sees, attend=backbone.attend, cache=cache, keep=keep, prefill=prefill)
        if prefill:
            return Velocity(cache=kept)
        numbers = {} if own is None else self.unembed(own)
        return Velocity(**way_out(backbone, videos), **numbers, cache=kept)


class ReaderHead(ActionHead):
    """Hidden states: the head reads layers of the backbone, which never hears of it."""

    layers: tuple[int, ...]  # whose outputs are read, counted from 0

    @abstractmethod
    def read(
        self, scene: Scene, hidden: Sequence[Tensor], valid: Tensor | None, level: Tensor
    ) -> dict[str, Tensor]:
        """Velocities [B, N, A] by part, from hidden states [B, S, D], one a layer.

        The hidden states are those that the numbers of the scene may see; `valid` [B, S] is as
        `Text.mask`, `level` [B] float32 the highest noise level of their frames. Without gradients
        hidden states that are cached are the same tensors at every call.
        """

    def join(
        self,
        backbone: VideoBackbone,
        scene: Scene,
        sees: Visibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        """One pass; numbers that see the same roles are read together.

        Numbers see each other only within a chunk, since nothing is kept of them.
        """
        scene, prefill = self.prepare(scene), is_prefill(scene, keep)
        videos, known = entrance(backbone, scene, cache), cache
        kept = KVCache([{} for _ in backbone.blocks])
        if videos:
            passed = run(
                list(videos.values()),
                sees,
                attend=backbone.attend,
                cache=cache,
                keep=keep,
                hidden=self.layers,
                prefill=prefill,
            )
            passed.levels = _levels(scene)
            kept = passed.without({r for x in passed.hidden for r in x if r not in keep})
            known = passed if cache is None else cache | passed
        if prefill:
            return Velocity(cache=kept)
        views = _views(scene, sees)
        if views and known is None:
            raise ValueError("a reader needs a video or a cache to read from")
        numbers: dict[str, list[Tensor]] = {}
        for seen, view, own in views:
            assert known is not None
            roles = tuple(role for role in known.hidden[self.layers[0]] if role in seen)
            hidden = [known.states(layer, roles) for layer in self.layers]
            found = self.read(
                view, hidden, _valid(roles, known, hidden[0], view), known.level(roles)
            )
            for part in own:
                numbers.setdefault(part, []).append(found[part])
        whole = {part: v[0] if len(v) == 1 else torch.cat(v, 1) for part, v in numbers.items()}
        return Velocity(**way_out(backbone, videos), **whole, cache=kept)


def _levels(scene: Scene) -> dict[str, Tensor]:
    """role -> the highest noise level [B] of its frames."""
    clips = [clip for clip in (scene.video, scene.future) if clip is not None]
    return {
        role: clip.sigma[:, clip.span(role)].amax(1) for clip in clips for role in set(clip.roles)
    }


def _views(scene: Scene, sees: Visibility) -> list[tuple[frozenset[str], Scene, list[str]]]:
    """What is to be read for the numbers of a scene: one view for those that see the same roles.

    The roles that are seen, the scene with the numbers of the same chunk that are among them, and
    the parts whose velocities this view is there for.
    """
    numbers = {part: noisy for part in PARTS[1:] if (noisy := getattr(scene, part)) is not None}
    roles = {part: noisy.roles or (part,) * noisy.x.shape[1] for part, noisy in numbers.items()}
    views: dict[tuple[frozenset[str], str], list[str]] = {}
    for part, names in roles.items():
        for role in dict.fromkeys(names):
            key = frozenset(sees[role]), role.removeprefix(base(role))
            views.setdefault(key, []).append(part)
    found = []
    for (seen, chunk), own in views.items():
        shown = {
            part: _steps(noisy, roles[part], chunk) if part in own or part + chunk in seen else None
            for part, noisy in numbers.items()
        }
        found.append((seen, scene.with_(**shown), own))
    return found


def _steps(noisy: Noisy, roles: Sequence[str], chunk: str) -> Noisy | None:
    """The steps of one chunk, if there are any; they follow each other."""
    places = [i for i, role in enumerate(roles) if role.removeprefix(base(role)) == chunk]
    if not places or len(places) == len(roles):
        return noisy if places else None
    span = slice(places[0], places[-1] + 1)
    sigma = noisy.sigma if noisy.sigma.ndim == 1 else noisy.sigma[:, span]
    times = noisy.places()[span]
    return Noisy(noisy.x[:, span], sigma, noisy.roles[span], times, noisy.rung)


def _valid(roles: Sequence[str], known: KVCache, hidden: Tensor, scene: Scene) -> Tensor | None:
    """Which of the hidden states [B, S, D] of `roles` are real: only words can be padding."""
    mask = scene.text.mask
    if "text" not in roles or mask is None:
        return None
    lengths = [next(x[role].shape[1] for x in known.hidden if x) for role in roles]

    def make() -> Tensor:
        real = mask.new_zeros if mask.is_floating_point() else mask.new_ones
        parts = [
            mask if role == "text" else real(mask.shape[0], length)
            for role, length in zip(roles, lengths, strict=True)
        ]
        return torch.cat(parts, 1)

    return scene.text.memo.once(("shown", tuple(roles)), make, of=hidden)


class SlotHead(ActionHead):
    """Latent slots: numbers are written into extra latent frames of the video itself."""

    @abstractmethod
    def slots(self, scene: Scene, known: Collection[str]) -> dict[str, Frames]:
        """The numbers of a scene (`Scene.pieces`) as latent frames, by part, the state included.

        Parts whose roles are `known` are left out. In size the frames are like the scene's own.
        Frames under other names than those of parts are only looked at.
        """

    @abstractmethod
    def unslot(self, part: str, v: Tensor, noisy: Noisy) -> Tensor:
        """Velocity of the frames that `slots` made [B, C, T, h, w], as that of the numbers."""

    def join(
        self,
        backbone: VideoBackbone,
        scene: Scene,
        sees: Visibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        scene, prefill = self.prepare(scene), is_prefill(scene, keep)
        slots = self.slots(scene, cache.roles if cache is not None else ())
        clips = [*([scene.video] if scene.video is not None else []), *slots.values()]
        if clips:
            scene = scene.with_(video=Frames.row(clips, scene.text.memo))
        streams = entrance(backbone, scene, cache)
        kept = run(
            list(streams.values()),
            sees,
            attend=backbone.attend,
            cache=cache,
            keep=keep,
            prefill=prefill,
        )
        if prefill:
            return Velocity(cache=kept)
        found = way_out(backbone, streams)
        if not clips:
            return Velocity(**found, cache=kept)
        pieces = found.pop("video").split([len(clip.roles) for clip in clips], 2)
        numbers = {
            part: self.unslot(part, v, scene.noisy(part))
            for part, v in zip(slots, pieces[len(clips) - len(slots) :], strict=True)
            if part in PARTS
        }
        if len(clips) > len(slots):
            found["video"] = pieces[0]
        return Velocity(**found, **numbers, cache=kept)
