"""T5 as configuration: `t5-xxl` of LTX-Video and FLUX.1, `t5-11b` of Cosmos, `umt5-xxl` of Wan.

One encoder, three published models; what becomes of padding is a choice with a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from wamkit.config.config_values import integer
from wamkit.config.hooks import hookimpl
from wamkit.config.parts import Part
from wamkit.config.pretrained import PretrainedText
from wamkit.config.published import Published
from wamkit.errors import WamkitError

WAMKIT_API = 1

Padding = Literal["mask", "zeros", "attended", "encoded"]

XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
B11 = {"d_model": 1024, "d_kv": 128, "d_ff": 65_536, "num_layers": 24, "num_heads": 128}
WORDS = {"vocab_size": 32_128}
GATED = {"feed_forward_proj": "gated-gelu"}


class _T5(PretrainedText):
    model_type = "t5"

    max_length: int = Field(gt=0)
    """The most tokens of a prompt, and what it is padded to where padding is attended to."""
    padding: Padding
    """`mask`: hidden from T5 and from the backbone, as in LTX-Video. `zeros`: hidden from T5, zero
    vectors to the backbone, as in Cosmos-Predict2 and Wan. `attended`: seen by both, as in
    FLUX.1. `encoded`: seen by T5, hidden from the backbone, as in diffusers' LTX-Video and
    GE-Act."""
    embedding: int = Field(gt=0)
    """Width of an embedding; another one is for smaller members of the family."""

    @property
    def width(self) -> int:
        return self.embedding

    @classmethod
    def published(cls) -> Sequence[Published]:
        return (Published((cls.model_type,), lambda c, _: {"embedding": integer(c, "d_model")}),)

    def expect(self, sizes: Mapping[str, Any], folder: Path) -> None:
        if sizes["d_model"] != self.embedding:
            raise WamkitError(
                f"the encoder in {folder} makes embeddings of width {sizes['d_model']}, expected "
                f"{self.embedding}",
                f"set text_encoder.embedding = {sizes['d_model']}, or name the files of "
                f"{self.name}",
            )

    def network(self, config: Any) -> Any:
        """The encoder half, without a decoder."""
        from .encoder import MODELS

        return MODELS[self.model_type](config)

    def build(self) -> Any:
        """Return the encoder with its files loaded. Raises WamkitError if they do not fit."""
        model, tokenizer = self.folders()
        from .encoder import T5Encoder

        return T5Encoder.load(
            self.model_type, model, tokenizer, length=self.max_length, padding=self.padding
        )


class T5XXL(_T5):
    """The frozen encoder half of T5 v1.1 XXL (4.76 billion parameters)."""

    source = "https://huggingface.co/google/t5-v1_1-xxl"
    layout = (
        "name a copy of a checkpoint in diffusers' layout (Lightricks/LTX-Video, ...), with the "
        "folders text_encoder and tokenizer"
    )

    published_models: ClassVar[Mapping[int, Mapping[str, Any]]] = {4096: {**XXL, **GATED, **WORDS}}

    name: Literal["t5-xxl"] = "t5-xxl"
    max_length: int = Field(default=128, gt=0)
    padding: Padding = "mask"
    embedding: int = Field(default=4096, gt=0)


class T511B(_T5):
    """The frozen encoder half of T5-11B (4.86 billion parameters), as Cosmos-Predict2 uses it."""

    source = "https://huggingface.co/google-t5/t5-11b"
    layout = (
        "name a copy of a checkpoint in diffusers' layout (nvidia/Cosmos-Predict2-2B-Video2World, "
        "...), with the folders text_encoder and tokenizer"
    )

    published_models: ClassVar[Mapping[int, Mapping[str, Any]]] = {1024: {**B11, **WORDS}}

    name: Literal["t5-11b"] = "t5-11b"
    max_length: int = Field(default=512, gt=0)
    padding: Padding = "zeros"
    embedding: int = Field(default=1024, gt=0)


class UMT5XXL(_T5):
    """The frozen encoder half of UMT5-XXL (5.7 billion parameters), as Wan uses it."""

    source = "https://huggingface.co/google/umt5-xxl"
    model_type = "umt5"
    layout = (
        "name a copy of a Wan checkpoint in diffusers' layout (Wan-AI/Wan2.2-TI2V-5B-Diffusers, "
        "...), with the folders text_encoder and tokenizer"
    )

    published_models: ClassVar[Mapping[int, Mapping[str, Any]]] = {
        4096: {**XXL, **GATED, "vocab_size": 256_384}
    }

    name: Literal["umt5-xxl"] = "umt5-xxl"
    max_length: int = Field(default=512, gt=0)
    padding: Padding = "zeros"
    embedding: int = Field(default=4096, gt=0)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(T5XXL)
    add(T511B)
    add(UMT5XXL)
