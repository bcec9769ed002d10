"""Three ways for an action head to join a backbone; each is one method, `join`.

ExpertHead   shared attention   a stream of tokens beside the video, block by block
ReaderHead   hidden states      it reads the video's layers, and is never heard
SlotHead     latent slots       its numbers are written into extra latent frames
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from ..attention import Stream, run
from ..cache import KVCache
from ..types import Frames, Noisy, Scene, Velocity
from ..visibility import Visibility
from .backbone import VideoBackbone, stream_of


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


def entrance(
    backbone: VideoBackbone, scene: Scene, cache: KVCache | None = None
) -> dict[str, Stream]:
    """The frames of a scene at the entrance of the backbone's stack, under "video" and "future"."""
    streams: dict[str, Stream] = {}
    for name in ("video", "future"):
        frames = getattr(scene, name)
        if frames is not None:
            words = not streams  # one set of words is enough where they are in the stream
            streams[name] = stream_of(backbone, frames, scene.text, cache, words=words)
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
        self, scene: Scene, hidden: Sequence[Tensor], valid: Tensor | None
    ) -> dict[str, Tensor]:
        """Velocities [B, N, A] by part, from hidden states [B, S, D], one a layer.

        The hidden states are those that the actions may see; `valid` [B, S] is as `Text.mask`.
        """

    def join(
        self,
        backbone: VideoBackbone,
        scene: Scene,
        sees: Visibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        scene, prefill = self.prepare(scene), is_prefill(scene, keep)
        videos, known = entrance(backbone, scene, cache), cache
        if videos:
            known = run(
                list(videos.values()),
                sees,
                attend=backbone.attend,
                cache=cache,
                keep=keep,
                hidden=self.layers,
                prefill=prefill,
            )
            kept = known
            if cache is not None:
                known = cache | known
        else:
            kept = KVCache([{} for _ in backbone.blocks])
        if prefill:
            return Velocity(cache=kept)
        if not any(getattr(scene, part) is not None for part in ("action", "next_state", "value")):
            return Velocity(**way_out(backbone, videos), cache=kept)
        if known is None:
            raise ValueError("a reader needs a video or a cache to read from")
        visible = [role for role in known.hidden[self.layers[0]] if role in sees["action"]]
        hidden = [torch.cat([known.hidden[i][role] for role in visible], 1) for i in self.layers]
        valid = _valid(known, self.layers[0], visible, scene)
        return Velocity(**way_out(backbone, videos), **self.read(scene, hidden, valid), cache=kept)


def _valid(known: KVCache, layer: int, roles: Sequence[str], scene: Scene) -> Tensor | None:
    """Which of the hidden states are real: only words can be padding."""
    mask = scene.text.mask
    if "text" not in roles or mask is None:
        return None
    shown = [known.hidden[layer][role].shape[:2] for role in roles]
    one = torch.zeros if mask.is_floating_point() else torch.ones
    return torch.cat(
        [
            mask if role == "text" else one(shape, dtype=mask.dtype, device=mask.device)
            for role, shape in zip(roles, shown, strict=True)
        ],
        1,
    )


class SlotHead(ActionHead):
    """Latent slots: numbers are written into extra latent frames of the video itself."""

    @abstractmethod
    def slots(self, scene: Scene, known: Collection[str]) -> dict[str, Frames]:
        """The numbers of a scene (`Scene.pieces`) as latent frames, by part, the state included.

        Parts whose roles are `known` are left out. In size the frames are like the scene's own.
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
            scene = scene.with_(video=reduce(Frames.then, clips))
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
        pieces = found.pop("video").split([len(clip.roles) for clip in clips], 2)
        numbers = {
            part: self.unslot(part, v, scene.noisy(part))
            for part, v in zip(slots, pieces[len(clips) - len(slots) :], strict=True)
            if part != "state"
        }
        if len(clips) > len(slots):
            found["video"] = pieces[0]
        return Velocity(**found, **numbers, cache=kept)
