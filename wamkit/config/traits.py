"""Facts about a backbone that hold before a single weight is loaded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _names(given: Any) -> Any:
    """A single name is a list of one."""
    return (given,) if isinstance(given, str) else given


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class TrainedWith(BaseModel):
    """The parts that published weights were trained with, by their names in the registry.

    One or more names; () if unknown, which disables the warning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    vae: Names = ()
    text_encoder: Names = ()


class Traits(BaseModel):
    """Facts about a backbone that hold before a single weight is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    depth: int
    """Number of blocks."""
    width: int
    """Size of a token (D)."""
    num_heads: int
    """Query heads (H)."""
    num_kv_heads: int
    """Key and value heads (K); fewer than `num_heads` when they are grouped."""
    head_dim: int
    """Size of a head (E)."""
    mlp_dim: int = 0
    """Width between the two layers of a block's feed-forward; 0 where it cannot be resized."""
    latent_channels: int
    """Channels of the latents it denoises (C)."""
    text_width: int
    """Width of the text embeddings it was trained on."""
    patch_size: tuple[int, int, int] = (1, 2, 2)
    """Latent frames, rows and columns that make one token."""
    frames: Literal["one", "many"] = "many"
    """Image-editing backbones denoise one frame a pass, video backbones many."""
    sigma_per_frame: bool = True
    """Frames of one pass may have noise levels of their own."""
    frame_tokens: int = 0
    """Tokens that every frame has besides those of its patches (class and register tokens)."""
    text: Literal["cross", "stream", "none"] = "cross"
    """Text by cross-attention inside the blocks, as tokens of the stream, or not read at all: then
    `text_width` is the width that the action head reads, and it must
    (`ActionHeadConfig.reads_text`)."""
    text_level: Literal["clean", "target", "target_or_clean"] = "clean"
    """Noise level of text tokens in the stream. `clean`: 0 in every pass.
    `target`: that of the target frames of the pass, so that neither text nor tokens that see it can
    be computed once; for paradigms whose every pass has target frames. `target_or_clean`: the same,
    and 0 in a pass without any, also where the network learned the action next to target frames."""
    attention: Literal["softmax", "linear"] = "softmax"
    imagines: bool = True
    """False for a vision encoder, which encodes images and predicts no velocity."""
    cond_channels: int = 0
    """Conditioning channels of every frame: a mask of observed images for each image of
    a latent, and the latents of the clip with gray for the others."""
    cond_embeds_width: int = 0
    """Width of the embeddings of the backbone's own conditioner, of the image or the prompt, which
    must come with the text (`Text.cond_embeds`); 0 for none."""
    level_embedder: bool = False
    """True if the configuration's `level_embedder` makes a second embedder of noise levels."""
    final_norm: bool = False
    """True if final tokens pass a modulated norm that can be had without the projection behind it
    (`wamkit.interfaces.Backbone.final_norm`)."""
    line_positions: bool = False
    """True if tokens may stand on a line of their own that turns the whole of a head
    (`Stack.embed_line`)."""
    experts: bool = False
    """True if the configuration's `expert` makes narrower copies of its blocks."""
    level_vector: bool = False
    """True if such copies embed a noise level as one vector (`Stack.embed_level`), which the
    decoder of an action head may read too."""
    views: int = 0
    """Camera views it tells apart where each is a clip by itself; 0 if it knows none."""
    cross_view_stride: int = 1
    """Tokens attend to those of other views in one of so many blocks, from the first on; in the
    others only to their own view, and to what belongs to none."""

    trained_with: TrainedWith = TrainedWith()
    """Which VAE and which text encoder the published weights of this variant know."""

    def tokens(self, frames: int, height: int, width: int) -> int:
        """Number of tokens of `frames` latent frames of height x width latents."""
        t, h, w = self.patch_size
        return (frames // t) * ((height // h) * (width // w) + self.frame_tokens)

    @property
    def text_follows(self) -> bool:
        """True if text tokens in the stream have the noise level of the target frames of a pass."""
        return self.text == "stream" and self.text_level != "clean"
