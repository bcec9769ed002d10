"""Qwen language models as text encoders: `qwen3` for FLUX.2 klein, `qwen2.5-vl` for others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from wamkit.config.config_values import integer, table
from wamkit.config.hooks import hookimpl
from wamkit.config.parts import Part
from wamkit.config.pretrained import PretrainedText
from wamkit.config.published import Config, Published, open_fields
from wamkit.errors import WamkitError

WAMKIT_API = 1

RecipeName = Literal["qwen-image-edit", "qwen-image", "omnigen2", "cosmos2.5"]

SIZES: dict[str, dict[str, int]] = {
    "qwen-image-edit": {"max_length": 1024, "layers": 28, "embedding": 3584},
    "qwen-image": {"max_length": 1024, "layers": 28, "embedding": 3584},
    "omnigen2": {"max_length": 256, "layers": 36, "embedding": 2048},
    "cosmos2.5": {"max_length": 512, "layers": 28, "embedding": 3584},
}
"""Template of a prompt, and layers and hidden size of the model, by recipe."""


QWEN3_4B = {
    "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151_936,
}  # fmt: skip
QWEN3_8B = {**QWEN3_4B, "hidden_size": 4096, "intermediate_size": 12_288}
QWEN25VL_3B = {
    "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151_936,
}  # fmt: skip
QWEN25VL_7B = {
    "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064,
}  # fmt: skip


def _size() -> Any:
    """A size that the recipe sets unless the spec writes it."""
    return Field(None, gt=0)


def _same(folder: Path, what: str, found: int, expected: int, key: str) -> None:
    """Raise WamkitError if a size of the files is not the one that is written in the spec."""
    if found != expected:
        raise WamkitError(
            f"the model in {folder} has {what} {found}, expected {expected}",
            f"set text_encoder.{key} = {found}, or name the files of another size of the model",
        )


def _hidden(config: Config, folder: Path) -> dict[str, Any]:
    """The hidden size, of the language model where there are several."""
    return {"embedding": integer({**config, **table(config, "text_config")}, "hidden_size")}


def _hidden_and_layers(config: Config, folder: Path) -> dict[str, Any]:
    language = {**config, **table(config, "text_config")}
    return {**_hidden(config, folder), "layers": integer(language, "num_hidden_layers")}


class Qwen3(PretrainedText):
    """The lower layers of a frozen Qwen3, read at several depths as FLUX.2 klein does.

    The instruction stands in the chat template, with thinking off. Layers above the last one that
    is read are neither loaded nor run.
    """

    source = "https://github.com/black-forest-labs/flux2"
    model_type = "qwen3"
    layout = (
        "name a copy of a FLUX.2 klein checkpoint (black-forest-labs/FLUX.2-klein-4B, ...) with "
        "the folders text_encoder and tokenizer, or of Qwen/Qwen3-4B or Qwen3-8B"
    )

    published_models: ClassVar[Mapping[int, Mapping[str, Any]]] = {2560: QWEN3_4B, 4096: QWEN3_8B}

    name: Literal["qwen3"] = "qwen3"
    max_length: int = Field(default=512, gt=0)
    """The most tokens of a prompt, its template included, and what it is padded to where padding is
    attended to."""
    layers: tuple[PositiveInt, ...] = Field(default=(9, 18, 27), min_length=1)
    """Behind how many layers hidden states are taken; they stand side by side in an embedding."""
    padding: Literal["attended", "mask"] = "attended"
    """Padding that the backbone attends to, as in FLUX.2's training, or hidden by a mask. The
    language model never sees it."""
    embedding: int = Field(default=2560, gt=0)
    """Hidden size of the model: 2560 for Qwen3-4B, 4096 for Qwen3-8B."""

    @property
    def width(self) -> int:
        return len(self.layers) * self.embedding

    @classmethod
    def published(cls) -> Sequence[Published]:
        return (Published((cls.model_type,), _hidden),)

    def expect(self, sizes: Mapping[str, Any], folder: Path) -> None:
        _same(folder, "a hidden size of", sizes["hidden_size"], self.embedding, "embedding")
        depth = sizes["num_hidden_layers"]
        if max(self.layers) > depth:
            raise WamkitError(
                f"the model in {folder} has {depth} layers, and text_encoder.layers reads behind "
                f"number {max(self.layers)}",
                f"set text_encoder.layers to numbers from 1 to {depth}",
            )

    def network(self, config: Any) -> Any:
        """The layers that are read."""
        from .encoder import lower_layers

        return lower_layers(config, max(self.layers))

    def build(self) -> Any:
        """Return the encoder with its files loaded. Raises WamkitError if they do not fit."""
        model, tokenizer = self.folders()
        from .encoder import load_qwen3

        return load_qwen3(model, tokenizer, self)


class Qwen25VL(PretrainedText):
    """The language half of a frozen Qwen2.5-VL, given the instruction alone.

    Qwen-Image-Edit and OmniGen2 may show it images as well; that is not done here, so that an
    edit is described by its text and by the context frames that the backbone itself sees.
    """

    license = "Apache-2.0 for 7B, Qwen Research License for 3B"
    source = "https://github.com/QwenLM/Qwen2.5-VL"
    model_type = "qwen2_5_vl"
    layout = (
        "name a copy of Qwen/Qwen-Image-Edit, OmniGen2/OmniGen2 or nvidia/Cosmos-Predict2.5-2B in "
        "diffusers' layout, or of a Qwen2.5-VL"
    )
    folder_names = (("text_encoder", "mllm"), ("tokenizer", "processor"))
    config_folders = ("text_encoder", "mllm")

    published_models: ClassVar[Mapping[int, Mapping[str, Any]]] = {
        size["hidden_size"]: {"text_config": size} for size in (QWEN25VL_3B, QWEN25VL_7B)
    }

    name: Literal["qwen2.5-vl"] = "qwen2.5-vl"
    recipe: RecipeName = "qwen-image-edit"
    """Whose template, hidden states and padding; sets the sizes below that are not written.
    `cosmos2.5` takes all layers, standardized, side by side."""
    max_length: int = _size()
    """The most tokens of a prompt; padding up to it is attended to in `cosmos2.5`."""
    layers: int = _size()
    """Layers of the model: 28 in the one of 7 billion parameters, 36 in the one of 3 billion."""
    embedding: int = _size()
    """Hidden size of the model: 3584 and 2048."""

    @classmethod
    def published(cls) -> Sequence[Published]:
        return (Published((cls.model_type,), _hidden_and_layers),)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        sizes = SIZES.get(given.get("recipe") or cls.model_fields["recipe"].default, {})
        return {
            **sizes,
            **open_fields(cls, given),
            **{key: value for key, value in given.items() if value is not None},
        }

    @property
    def width(self) -> int:
        return self.embedding * (self.layers if self.recipe == "cosmos2.5" else 1)

    def expect(self, sizes: Mapping[str, Any], folder: Path) -> None:
        _same(folder, "a hidden size of", sizes["hidden_size"], self.embedding, "embedding")
        _same(folder, "a number of layers of", sizes["num_hidden_layers"], self.layers, "layers")

    def network(self, config: Any) -> Any:
        """The language model, without images and without the head of words."""
        from .encoder import language_model

        return language_model(config)

    def build(self) -> Any:
        """Return the encoder with its files loaded. Raises WamkitError if they do not fit."""
        model, tokenizer = self.folders()
        from .encoder import load_qwen25vl

        return load_qwen25vl(model, tokenizer, self)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Qwen3)
    add(Qwen25VL)
