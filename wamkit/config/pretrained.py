"""Text encoders of transformers in local folders: where their files are, and what they hold.

Nothing is rewritten and nothing is downloaded here. A plugin says which class its model is and what
becomes of tokens; everything else is the same for all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ..errors import WamkitError
from ..files.hub import TEXT, cached_path, is_remote, local_path
from ..files.placeholders import refuse_placeholder
from .config_values import expect_sizes, table
from .parts import Conflict, TextEncoderConfig
from .published import MOST_BYTES, json_table

if TYPE_CHECKING:
    from .spec import PolicySpec

SMALL_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "chat_template.json",
    "preprocessor_config.json",
)
"""What a tokenizer is read from, where it is there."""
TOKENIZERS = ("tokenizer.json", "spiece.model", "vocab.json")


class PretrainedText(TextEncoderConfig):
    """A frozen text encoder that cannot exist without published files.

    `weights` is a folder with a folder of the model and one of the tokenizer, or one with the files
    of both. A saved policy names that folder and does not copy it.
    """

    external_weights = True
    compares_config = False  # `folders` does
    config_folders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    requires = ("transformers",)
    model_type: ClassVar[str]
    """What the model's config.json calls itself."""
    layout: ClassVar[str]
    """Which files are wanted, for who has named others."""
    folder_names: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (
        ("text_encoder",),
        ("tokenizer",),
    )
    """Names that the folders of model and tokenizer may have in a checkpoint."""
    published_models: ClassVar[Mapping[int, Mapping[str, Any]]] = {}
    """Hidden size of a published model -> what its config.json says of its other sizes."""

    max_length: int = Field(gt=0)
    """The most tokens of a prompt."""
    embedding: int = Field(gt=0)
    """Hidden size of the model."""

    @property
    def max_tokens(self) -> int:
        """That of the setting `max_length`."""
        return self.max_length

    def tiny(self) -> dict[str, Any]:
        """The byte encoder, with room for every instruction of the usual benchmarks."""
        return {"name": "bytes", "max_length": 128}

    def expect(self, sizes: Mapping[str, Any], folder: Path) -> None:
        """Raise WamkitError if the model's own configuration is not what this one says."""

    def network(self, config: Any) -> Any:
        """Return what is held of the model that `config` of transformers describes."""
        raise NotImplementedError(f"{type(self).__name__} must make its network")

    def skeleton(self) -> Any:
        """The network of the named files where they are here, else of the published model.

        Without files its dtype is bfloat16.
        """
        from ..checkpoints.hf_text_encoder import published_config, saved_config

        root = None if self.weights is None else cached_path(self.weights)
        if root is not None and root.exists():
            config, dtype = saved_config(self._folders(root)[0])
        else:
            config, dtype = published_config(self)
        return self.network(config).to(dtype)

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        """What is missing or contradicts the spec in the encoder's files; none if all fits."""
        if self.embeddings_file is not None:
            return  # what it said is stored, the files are not needed
        place = ("text_encoder.weights",)
        try:
            root = None if self.weights is None else cached_path(self.weights)
        except WamkitError:
            return  # a path that is none or leads nowhere is reported for all parts alike
        if self.weights is not None and (root is None or not root.exists()):
            return
        if root is not None and is_remote(self.weights) and not _fetch(root):
            return  # a build fetches the rest
        try:
            self._folders(root)
        except WamkitError as error:
            yield Conflict(between=place, why=error.what, hint=error.hint, missing=True)

    def folders(self) -> tuple[Path, Path]:
        """Where model and tokenizer are, fetched if need be. Raises WamkitError if one is not."""
        return self._folders(None if self.weights is None else local_path(self.weights, files=TEXT))

    def _folders(self, root: Path | None) -> tuple[Path, Path]:
        if root is None:
            raise WamkitError(
                f"{self.name} cannot exist without its published files, and none are named",
                f"set text_encoder.weights: {self.layout}; or try the policy with --tiny",
            )
        model, tokenizer = (
            next((root / name for name in names if (root / name).is_dir()), root)
            for names in self.folder_names
        )
        if not (model / "config.json").is_file():
            raise WamkitError(f"there is no config.json of a text encoder in {model}", self.layout)
        if not any((tokenizer / name).is_file() for name in TOKENIZERS):
            raise WamkitError(
                f"there is no tokenizer in {tokenizer}: none of {', '.join(TOKENIZERS)}",
                self.layout,
            )
        config = json_table(model / "config.json", MOST_BYTES)
        if config.get("model_type") != self.model_type:
            raise WamkitError(
                f"{model} holds a model of type {config.get('model_type')!r}, expected "
                f"{self.model_type!r}",
                self.layout,
            )
        for file in tokenizer.iterdir():
            if file.name in SMALL_FILES:
                json_table(file) if file.suffix == ".json" else refuse_placeholder(file)
        if (generation := model / "generation_config.json").is_file():
            json_table(generation, MOST_BYTES)
        try:
            expect_sizes(config)
            self.expect({**config, **table(config, "text_config")}, model)
        except WamkitError as error:
            raise WamkitError(f"{model / 'config.json'}: {error.what}", error.hint) from None
        except KeyError as error:
            raise WamkitError(f"{model / 'config.json'} lacks {error}", self.layout) from None
        return model, tokenizer


def _fetch(root: Path) -> bool:
    """True if more than a configuration is here of what is on the hub."""
    return any(any(root.rglob(name)) for name in TOKENIZERS)


def identity(files: Sequence[Path]) -> str:
    """A hash of names, sizes and first mebibytes, which hold the headers of safetensors files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(2**20))
    return digest.hexdigest()


def refuse_long(prompt: str, tokens: int, length: int) -> None:
    """Raise WamkitError if a prompt has more tokens than an encoder takes."""
    if tokens > length:
        raise WamkitError(
            f"the prompt {prompt!r} has {tokens} tokens, expected at most {length}",
            f"set text_encoder.max_length = {tokens} or more, or shorten the prompt",
        )
