"""Configuration of the text encoder `umt5-xxl`, which cannot exist without its published files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from wamkit.errors import WamkitError
from wamkit.parts import Conflict, TextEncoderConfig
from wamkit.spec import PolicySpec

LAYOUT = (
    "name a copy of a Wan checkpoint in diffusers' layout (Wan-AI/Wan2.2-TI2V-5B-Diffusers, ...), "
    "with the folders text_encoder and tokenizer"
)


class UMT5(TextEncoderConfig):
    """The frozen encoder half of UMT5-XXL (5.7 billion parameters), as Wan uses it.

    `weights` is a folder with `text_encoder/` and `tokenizer/`, or one with the files of both. A
    saved policy names that folder and does not copy it.
    """

    by_reference = True
    source = "https://huggingface.co/google/umt5-xxl"
    requires = ("transformers",)

    name: Literal["umt5-xxl"] = "umt5-xxl"
    length: int = Field(default=512, gt=0)
    """Tokens of every prompt, padding included; Wan was trained with 512."""
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

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        if self.embeddings is not None:
            return  # the files are not needed
        if self.weights is not None and not Path(self.weights).expanduser().exists():
            return  # a path that leads nowhere is reported for all parts alike
        try:
            self.folders()
        except WamkitError as error:
            place = ("text_encoder.weights",)
            yield Conflict(between=place, why=error.what, hint=error.hint, missing=True)

    def folders(self) -> tuple[Path, Path]:
        """Where the encoder and the tokenizer are. Raises WamkitError if something is missing."""
        if self.weights is None:
            raise WamkitError(
                "umt5-xxl cannot exist without its published files, and none are named",
                f"set text_encoder.weights: {LAYOUT}; or try the policy with --tiny, or with "
                'text_encoder.name = "bytes"',
            )
        root = Path(self.weights).expanduser()
        encoder, tokenizer = (
            root / name if (root / name).is_dir() else root
            for name in ("text_encoder", "tokenizer")
        )
        if not (encoder / "config.json").is_file():
            raise WamkitError(f"there is no config.json of a text encoder in {encoder}", LAYOUT)
        if not any((tokenizer / name).is_file() for name in ("tokenizer.json", "spiece.model")):
            raise WamkitError(
                f"there is no tokenizer in {tokenizer}: neither tokenizer.json nor spiece.model",
                LAYOUT,
            )
        config = json.loads((encoder / "config.json").read_text())
        if config.get("model_type") != "umt5":
            raise WamkitError(
                f"{encoder} holds a model of type {config.get('model_type')!r}, expected 'umt5'",
                LAYOUT,
            )
        if config["d_model"] != self.embedding:
            raise WamkitError(
                f"the encoder in {encoder} makes embeddings of width {config['d_model']}, expected "
                f"{self.embedding}",
                f"set text_encoder.embedding = {config['d_model']}, or name the files of umt5-xxl",
            )
        return encoder, tokenizer

    def build(self) -> Any:
        """Return the encoder with its files loaded. Raises WamkitError if they do not fit."""
        encoder, tokenizer = self.folders()
        from .text_encoder import load

        return load(encoder, tokenizer, length=self.length, padding=self.padding)
