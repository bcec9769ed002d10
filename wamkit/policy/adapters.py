"""Learned projections between parts that were not trained together, when a spec asks for them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..interfaces.backbone import Backbone, Clip, WrappedBackbone


class LatentAdapter(nn.Module):
    """Channels of a VAE's latents to those a backbone denoises, and its velocities back."""

    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(theirs, ours), nn.Linear(ours, theirs)


class AdaptedBackbone(WrappedBackbone):
    """A backbone that denoises another VAE's latents through a `LatentAdapter`.

    Noise is added, and removed, in the VAE's own latents; only the network sees the others. Weights
    stay with the backbone and the adapter.
    """

    def __init__(self, backbone: Backbone, adapter: LatentAdapter) -> None:
        super().__init__(backbone)
        channels = adapter.leave.out_features
        self.traits = backbone.traits.model_copy(update={"latent_channels": channels})
        self.__dict__["adapter"] = adapter

    adapter: LatentAdapter

    def patchify(self, clip: Clip) -> Tensor:
        """As the backbone's, of latents [B, theirs, T, h, w]."""
        z = clip.latents.to(self.adapter.enter.weight.dtype)
        z = self.adapter.enter(z.movedim(1, -1)).movedim(-1, 1)
        return self.inner.patchify(clip._replace(latents=z))

    def final_layer(self, x: Tensor, modulation: Any, clip: Clip) -> Tensor:
        """As the backbone's, [B, theirs, T, h, w]."""
        z = self.adapter.enter(clip.latents.to(self.adapter.enter.weight.dtype).movedim(1, -1))
        v = self.inner.final_layer(x, modulation, clip._replace(latents=z.movedim(-1, 1)))
        return self.adapter.leave(v.movedim(1, -1)).movedim(-1, 1)
