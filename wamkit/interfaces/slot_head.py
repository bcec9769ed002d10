"""Latent slots: an action head whose vectors are extra latent frames of the video."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import replace

from torch import Tensor

from ..config.visibility import LayerVisibility
from ..engine.kv_cache import KVCache
from ..engine.passes import PassRunner
from .action_head import ActionHead, is_prefill
from .backbone import Backbone
from .streams import all_streams, embed_videos, velocities
from .types import MODALITIES, Frames, ModelInputs, ModelOutput, NoisyVectors


class SlotHead(ActionHead):
    """Latent slots: vectors are written into extra latent frames of the video itself."""

    @abstractmethod
    def slots(self, inputs: ModelInputs, known: Collection[str]) -> dict[str, Frames]:
        """The vectors of the inputs (`ModelInputs.groups`) as latent frames, the state included.

        Those whose roles are `known` are left out. In size the frames are like the inputs' own.
        Frames under names of no modality are only attended to.
        """

    @abstractmethod
    def decode_slot(self, modality: str, v: Tensor, vectors: NoisyVectors) -> Tensor:
        """Velocity of the frames that `slots` made [B, C, T, h, w], as that of the vectors."""

    def frame_times(self, times: tuple[float, ...]) -> tuple[float, ...]:
        """The times of a clip's own frames, spaced to leave times for slots."""
        return times

    def join(
        self,
        runner: PassRunner,
        backbone: Backbone,
        inputs: ModelInputs,
        sees: LayerVisibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> ModelOutput:
        """One pass over the clip with the slots behind it."""
        prefill = is_prefill(inputs, keep)
        inputs = inputs.with_(
            **{
                name: replace(frames, times=self.frame_times(frames.times))
                for name in ("video", "future")
                if (frames := getattr(inputs, name)) is not None
            }
        )
        slots = self.slots(inputs, cache.roles if cache is not None else ())
        clips = [*([inputs.video] if inputs.video is not None else []), *slots.values()]
        if clips:
            inputs = inputs.with_(video=Frames.row(clips))
        videos = embed_videos(runner, backbone, inputs, cache)
        tokens, kept = runner.run(
            all_streams(videos),
            sees,
            attend=backbone.attend,
            cache=cache,
            keep=keep,
            prefill=prefill,
        )
        if prefill:
            return ModelOutput(cache=kept)
        found = velocities(backbone, videos, tokens)
        if not clips:
            return ModelOutput(**found, cache=kept)
        pieces = found.pop("video").split([len(clip.roles) for clip in clips], 2)
        vectors = {
            part: self.decode_slot(part, v, inputs.noisy(part))
            for part, v in zip(slots, pieces[len(clips) - len(slots) :], strict=True)
            if part in MODALITIES
        }
        if len(clips) > len(slots):
            found["video"] = pieces[0]
        return ModelOutput(**found, **vectors, cache=kept)
