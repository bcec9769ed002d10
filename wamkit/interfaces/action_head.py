"""Three ways for an action head to join a backbone; each is one method, `join`.

ExpertHead   shared attention   a stream of its own beside the video, block by block
ReaderHead   hidden states      it reads the video's layers, and is never heard
SlotHead     latent slots       its numbers are written into extra latent frames
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import Block, Stream, run
from ..types import Frames, KVCache, Noisy, Scene, Segment, Velocity
from ..visibility import Visibility
from .backbone import VideoBackbone, stream_of


class ActionHead(nn.Module, ABC):
    """Predicts the velocity of an action chunk from a backbone."""

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

        A pass over the video alone that is asked to keep something predicts nothing.
        """

    def initialize_from(self, backbone: VideoBackbone) -> None:
        """Take over what the head wants of the backbone's weights; by default nothing."""

    def prepare(self, scene: Scene) -> Scene:
        """The scene as this head wants it seen, for example with the state beside the text."""
        return scene


class ExpertHead(ActionHead):
    """Shared attention: the head is a stream of its own, block beside block."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[Block | None]:
        """As many as the backbone's; None where the head rests."""

    @abstractmethod
    def embed(self, action: Noisy, scene: Scene) -> tuple[Tensor, tuple[Segment, ...], Any]:
        """Actions [B, N, A] to tokens [B, S, D], their segments, and the conditioning."""

    @abstractmethod
    def unembed(self, x: Tensor, cond: Any) -> Tensor:
        """Final tokens [B, S, D] to velocity [B, N, A]."""

    def join(
        self,
        backbone: VideoBackbone,
        scene: Scene,
        sees: Visibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        scene = self.prepare(scene)
        streams: list[Stream] = []
        video = action = None
        if scene.video is not None:
            video = stream_of(backbone, scene.video, scene.text, cache)
            streams.append(video)
        if scene.action is not None:
            x, segments, cond = self.embed(scene.action, scene)
            action = Stream(self.blocks, x, segments, cond)
            streams.append(action)
        prefill = action is None and bool(keep)
        predicts = backbone.traits.imagines and not prefill
        kept = run(streams, sees, attend=backbone.attend, cache=cache, keep=keep, prefill=prefill)
        return Velocity(
            backbone.unembed(video.x, video.cond) if video and predicts else None,
            self.unembed(action.x, action.cond) if action else None,
            kept,
        )


class ReaderHead(ActionHead):
    """Hidden states: the head reads layers of the backbone, which never hears of it."""

    layers: tuple[int, ...]  # whose outputs are read, counted from 0

    @abstractmethod
    def read(self, action: Noisy, hidden: Sequence[Tensor], scene: Scene) -> Tensor:
        """Actions [B, N, A] and hidden states [B, S, D], one a layer, to velocity [B, N, A]."""

    def join(
        self,
        backbone: VideoBackbone,
        scene: Scene,
        sees: Visibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        scene = self.prepare(scene)
        velocity, known = None, cache
        if scene.video is not None:
            stream = stream_of(backbone, scene.video, scene.text, cache)
            prefill = scene.action is None and bool(keep)
            known = run(
                [stream],
                sees,
                attend=backbone.attend,
                cache=cache,
                keep=keep,
                hidden=self.layers,
                prefill=prefill,
            )
            if cache is not None:
                known = cache | known
            if backbone.traits.imagines and not prefill:
                velocity = backbone.unembed(stream.x, stream.cond)
        if scene.action is None:
            return Velocity(velocity, None, known)
        if known is None:
            raise ValueError("a reader needs a video or a cache to read from")
        first = known.hidden[self.layers[0]]
        visible = [role for role in first if role in sees["action"]]
        hidden = [torch.cat([known.hidden[i][role] for role in visible], 1) for i in self.layers]
        return Velocity(velocity, self.read(scene.action, hidden, scene), known)


class SlotHead(ActionHead):
    """Latent slots: actions are written into extra latent frames of the video itself."""

    slots: int  # latent frames one chunk takes
    time: float  # where on the latent time axis they begin

    @abstractmethod
    def write(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Actions [B, N, A] to latent frames [B, C, slots, h, w]; `grid` is C, h, w."""

    @abstractmethod
    def read(self, z: Tensor) -> Tensor:
        """Latent frames [B, C, slots, h, w] to actions [B, N, A]."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int, int]:
        """C, h, w of a latent frame, for a pass in which there is no other frame."""

    def join(
        self,
        backbone: VideoBackbone,
        scene: Scene,
        sees: Visibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        scene = self.prepare(scene)
        video = scene.video
        if scene.action is not None:
            video = self._with_slots(video, scene.action)
        if video is None:
            raise ValueError("there is neither a video nor an action in the scene")
        stream = stream_of(backbone, video, scene.text, cache)
        prefill = scene.action is None and bool(keep)
        kept = run([stream], sees, attend=backbone.attend, cache=cache, keep=keep, prefill=prefill)
        if prefill:
            return Velocity(None, None, kept)
        v = backbone.unembed(stream.x, stream.cond)
        at = video.where("action")
        rest = [i for i in range(len(video.roles)) if i not in at]
        return Velocity(
            v[:, :, rest] if rest else None, self.read(v[:, :, at]) if at else None, kept
        )

    def _with_slots(self, video: Frames | None, action: Noisy) -> Frames:
        z = self.write(action.x, self.grid if video is None else _grid(video))
        sigma = action.sigma[:, None].expand(-1, self.slots)
        times = self.time + torch.arange(self.slots, device=z.device, dtype=torch.float32)
        if video is None:
            return Frames(z, ("action",) * self.slots, times, sigma)
        return Frames(
            torch.cat([video.z, z.to(video.z.dtype)], 2),
            video.roles + ("action",) * self.slots,
            torch.cat([video.times, times.to(video.times)]),
            torch.cat([video.sigma, sigma], 1),
        )


def _grid(video: Frames) -> tuple[int, int, int]:
    _, c, _, h, w = video.z.shape
    return c, h, w
