"""Learned projections between parts that were not trained together, when a spec asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..acceleration.memo import Rungs
from ..engine.attention import Attend, Block
from ..interfaces.backbone import VideoBackbone
from ..interfaces.types import Frames, Segment, Text


class LatentAdapter(nn.Module):
    """Channels of a VAE's latents to those a backbone denoises, and its velocities back."""

    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(theirs, ours), nn.Linear(ours, theirs)


class AdaptedBackbone:
    """A backbone that denoises another VAE's latents through a `LatentAdapter`.

    Noise is added, and removed, in the VAE's own latents; only the network sees the others. Weights
    stay with the backbone and the adapter.
    """

    def __init__(self, backbone: VideoBackbone, adapter: LatentAdapter) -> None:
        channels = adapter.leave.out_features
        self.traits = backbone.traits.model_copy(update={"latent_channels": channels})
        self.attend: Attend = backbone.attend
        self._backbone, self._adapter = backbone, adapter

    @property
    def blocks(self) -> Sequence[Block]:
        """The backbone's."""
        return self._backbone.blocks

    def embed(self, video: Frames, text: Text | None) -> tuple[Tensor, tuple[Segment, ...], Any]:
        """As the backbone's, of frames [B, theirs, T, h, w]."""
        z = video.z.to(self._adapter.enter.weight.dtype)
        z = self._adapter.enter(z.movedim(1, -1)).movedim(-1, 1)
        every = tuple(dict.fromkeys(video.roles))
        return self._backbone.embed(video.put(z, *every), text)

    def place(self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None) -> Any:
        """As the backbone's."""
        return self._backbone.place(sigma, at, text, rungs)

    def unembed(self, x: Tensor, cond: Any) -> Tensor:
        """As the backbone's, [B, theirs, T, h, w]."""
        v = self._backbone.unembed(x, cond)
        return self._adapter.leave(v.movedim(1, -1)).movedim(-1, 1)
