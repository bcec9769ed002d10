"""The text encoder `open_clip`: its configuration, from the model list that open_clip ships.

The sizes of a model are read from open_clip's JSON files where they are installed. open_clip itself
is not imported before `build`, since that would import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from wamkit.config.config_values import integer, table
from wamkit.config.hooks import hookimpl
from wamkit.config.parts import Part, TextEncoderConfig
from wamkit.config.published import Config, Published
from wamkit.files import strict_json
from wamkit.files.paths import read_text

WAMKIT_API = 1


def _tower(config: Config, folder: Path) -> dict[str, Any]:
    text = table(table(config, "model_cfg"), "text_cfg")
    keys = {"layers": "layers", "num_heads": "heads", "embedding": "width"}
    return {field: integer(text, key) for field, key in keys.items()}


class OpenCLIP(TextEncoderConfig):
    """The frozen text tower of a CLIP model, one embedding a token instead of one a prompt.

    Tokens after the end of the text are padding: they are marked as not valid.
    """

    license = "MIT"
    source = "https://github.com/mlfoundations/open_clip"

    name: Literal["open_clip"] = "open_clip"
    model: str = "ViT-B-32"
    """A model of open_clip whose tokenizer ships with open_clip."""
    layer: Literal["last", "penultimate"] = "last"
    """Block whose output is taken; the final norm follows in either case."""
    layers: int | None = Field(default=None, ge=2)
    """Number of blocks; left open, the model's."""
    num_heads: int | None = Field(default=None, gt=0)
    """Attention heads; left open, the model's."""
    embedding: int | None = Field(default=None, gt=0)
    """Width of an embedding; left open, the model's."""

    @field_validator("model")
    @classmethod
    def _can_be_used(cls, model: str) -> str:
        known = models()
        if model not in known:
            near = get_close_matches(model, known, n=1, cutoff=0.5)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise PydanticCustomError("model", f"open_clip has no such model{meant}")
        if why := obstacle(known[model]):
            usable = [name for name, path in known.items() if not obstacle(path)]
            near = get_close_matches(model, usable, n=4, cutoff=0)
            raise PydanticCustomError("model", f"{why}; {', '.join(near)} would work")
        return model

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.sizes["heads"]:
            raise PydanticCustomError(
                "heads",
                f"an embedding of {self.width} cannot be cut into {self.sizes['heads']} heads",
            )
        return self

    @classmethod
    def published(cls) -> Sequence[Published]:
        return (Published((), _tower, file="open_clip_config.json"),)

    @property
    def sizes(self) -> dict[str, Any]:
        """Arguments of open_clip's `TextTransformer`: context_length, width, heads, layers, ..."""
        own = {"layers": self.layers, "heads": self.num_heads, "width": self.embedding}
        given = {key: value for key, value in own.items() if value is not None}
        return {**published(models()[self.model])["text_cfg"], **given}

    @property
    def width(self) -> int:
        return int(self.sizes["width"])

    @property
    def max_tokens(self) -> int:
        return int(self.sizes["context_length"])

    def tiny(self) -> OpenCLIP:
        """Two narrow random blocks, and a learned projection to whatever the backbone reads."""
        sizes = {"layers": 2, "num_heads": 2, "embedding": 32, "adapter": "linear"}
        return self.model_copy(update={**sizes, "weights": None})

    def layouts(self) -> Sequence[Any]:
        from .weights import LAYOUTS

        return LAYOUTS

    def build(self) -> Any:
        from .encoder import OpenCLIPEncoder, alike, text_tower

        quick_gelu = bool(published(models()[self.model]).get("quick_gelu", False))
        make = lambda: text_tower(self.sizes, quick_gelu=quick_gelu)  # noqa: E731
        tower = self.materialize(make)
        return OpenCLIPEncoder(alike(tower), self.layer)


@lru_cache(maxsize=1)
def models() -> dict[str, Path]:
    """Every model that the installed open_clip describes, with its JSON file."""
    package = find_spec("open_clip")
    folders = (package.submodule_search_locations or ()) if package else ()
    files = [file for folder in folders for file in Path(folder, "model_configs").glob("*.json")]
    return {file.stem: file for file in sorted(files)}


@lru_cache
def published(file: Path) -> dict[str, Any]:
    """What a JSON file of open_clip says about its model."""
    found: dict[str, Any] = strict_json.loads(read_text(file))
    return found


def obstacle(file: Path) -> str:
    """Why the text tower described in `file` cannot be used here; empty if it can."""
    text = published(file)["text_cfg"]
    if "hf_model_name" in text:
        return f"its text tower would have to be downloaded ({text['hf_model_name']})"
    if "hf_tokenizer_name" in text:
        return f"its tokenizer would have to be downloaded ({text['hf_tokenizer_name']})"
    if text.get("embed_cls"):
        return "its tokens are made for a captioner of its own (CoCa), the final norm skips them"
    return ""


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(OpenCLIP)
