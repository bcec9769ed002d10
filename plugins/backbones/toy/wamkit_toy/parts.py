"""Configurations of the byte encoder and the pixel-shuffle VAE; no torch here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, PositiveInt

from wamkit.config.parts import Conflict, TextEncoderConfig, VAEConfig
from wamkit.config.spec import PolicySpec
from wamkit.errors import WamkitError


class Bytes(TextEncoderConfig):
    """An encoder of UTF-8 bytes that is learned with the policy: no vocabulary, no download."""

    name: Literal["bytes"] = "bytes"
    max_length: int = Field(default=64, gt=0)
    """The most bytes a prompt can have, its template included."""
    embedding: int | None = Field(default=None, gt=0, multiple_of=2)
    """Width of an embedding; left open, that of the backbone's text."""

    @property
    def embedding_space(self) -> None:
        return None

    @property
    def width(self) -> int:
        return self.embedding or 0

    @property
    def max_tokens(self) -> int:
        return 1 + self.max_length  # the start of the prompt is a token too

    def resolve(self, spec: PolicySpec) -> Bytes:
        if self.embedding is not None:
            return self
        width = spec.backbone.traits.text_width
        return self.model_copy(update={"embedding": width + (self.adapter == "linear") * width % 2})

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        if self.width % 2:  # it was left open
            yield Conflict(
                between=("text_encoder", "backbone"),
                why=f"{spec.backbone.name} reads embeddings of width {self.width}, and those of "
                "bytes are an even number wide",
                hint='set text_encoder.adapter = "linear" to learn a projection',
            )

    def tiny(self) -> Bytes:
        return self.model_copy(update={"embedding": None, "weights": None})

    def build(self) -> Any:
        """Return the encoder. Raises WamkitError if its width is still open."""
        if self.embedding is None:
            raise WamkitError(
                "the width of the byte encoder is left open, and there is no backbone to take it "
                "from",
                "set text_encoder.embedding to an even number",
            )
        from .text_encoder import ByteEncoder

        width = self.embedding
        return self.materialize(lambda: ByteEncoder(width, self.max_length))


class PixelShuffle(VAEConfig):
    """Images cut into blocks whose pixels become channels: exact, and without weights."""

    name: Literal["pixel_shuffle"] = "pixel_shuffle"
    strides: tuple[PositiveInt, PositiveInt, PositiveInt] = (4, 8, 8)
    """Images, rows and columns that make one latent."""

    @property
    def channels(self) -> int:
        t, h, w = self.strides
        return 3 * t * h * w

    @property
    def stride(self) -> tuple[int, int, int]:
        return self.strides

    @property
    def latent_space(self) -> None:
        return None

    def tiny(self) -> PixelShuffle:
        return self.model_copy(update={"weights": None})

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        if self.weights is not None:
            yield Conflict(
                between=("vae.weights",),
                why=f"pixel_shuffle has no weights, found {self.weights}",
                hint="remove vae.weights, or choose another VAE (`wamkit list vae`)",
            )

    def _build(self) -> Any:
        from .vae import PixelShuffle as PixelShuffleVAE

        return PixelShuffleVAE(self.strides)
