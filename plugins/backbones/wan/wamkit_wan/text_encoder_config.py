"""Configuration of the text encoder `umt5-xxl`, which cannot exist without its published files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from wamkit.config_values import whole
from wamkit.errors import WamkitError
from wamkit.pretrained import PretrainedText
from wamkit.published import Published


class UMT5(PretrainedText):
    """The frozen encoder half of UMT5-XXL (5.7 billion parameters), as Wan uses it."""

    source = "https://huggingface.co/google/umt5-xxl"
    model_type = "umt5"
    layout = (
        "name a copy of a Wan checkpoint in diffusers' layout (Wan-AI/Wan2.2-TI2V-5B-Diffusers, "
        "...), with the folders text_encoder and tokenizer"
    )

    name: Literal["umt5-xxl"] = "umt5-xxl"
    length: int = Field(default=512, gt=0)
    """The most tokens of a prompt, and what zeros pad it to; Wan was trained with 512."""
    padding: Literal["zeros", "mask"] = "zeros"
    """Padding as zero vectors that are attended to, as in Wan's training, or hidden by a mask."""
    embedding: int = Field(default=4096, gt=0)
    """Width of an embedding; another one than 4096 is for smaller members of the family."""

    @property
    def width(self) -> int:
        return self.embedding

    @property
    def max_tokens(self) -> int:
        return self.length

    def tiny(self) -> dict[str, Any]:
        """The byte encoder, with room for every instruction of the usual benchmarks."""
        return {"name": "bytes", "length": 128}

    @classmethod
    def published(cls) -> Sequence[Published]:
        return (Published((cls.model_type,), lambda c, _: {"embedding": whole(c, "d_model")}),)

    def expect(self, sizes: Mapping[str, Any], folder: Path) -> None:
        if sizes["d_model"] != self.embedding:
            raise WamkitError(
                f"the encoder in {folder} makes embeddings of width {sizes['d_model']}, expected "
                f"{self.embedding}",
                f"set text_encoder.embedding = {sizes['d_model']}, or name the files of umt5-xxl",
            )

    def build(self) -> Any:
        """Return the encoder with its files loaded. Raises WamkitError if they do not fit."""
        model, tokenizer = self.folders()
        from .text_encoder import UMT5Encoder

        return UMT5Encoder.load(model, tokenizer, length=self.length, padding=self.padding)
