"""Embeddings of instructions, written once and read ever after, so that no encoder need be loaded.

One safetensors file: for each prompt its embeddings and, where the encoder returns them, masks and
counts; in the metadata the prompts and the settings of the encoder that made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..checkpoints.files import headers, write_tensors
from ..checkpoints.finite import fault
from ..config.parts import TextEncoderConfig
from ..config.prompts import fill_template
from ..errors import WamkitError, did_you_mean
from ..files import strict_json
from ..files.durable import as_not_written, make_folder
from ..files.hub import local_path
from ..files.paths import expect_text
from ..interfaces.types import Text
from .text_cache import stack_texts

KINDS = ("tokens", "valid", "copies")
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
MOST_COPIES = 10**6  # tokens that one may stand for
AGAIN = "run `wamkit precompute text` again into another file"


def settings(config: TextEncoderConfig) -> str:
    """Settings that determine an embedding: the encoder's table without paths."""
    table = config.model_dump(
        mode="json",
        exclude={"weights", "lora", "lora_scale", "embeddings_file", "adapter", "negative_prompt"},
    )
    return json.dumps(table, sort_keys=True)


class StoredEncoder(nn.Module):
    """A `TextEncoder` that looks up the prompts of one file."""

    trainable = False

    def __init__(self, file: str | Path, config: TextEncoderConfig) -> None:
        """Raises WamkitError if the file is damaged, or was made with other settings."""
        super().__init__()
        self.file = local_path(file)
        self.width = config.width
        self.texts, made_with, self.mark = read(self.file, self.width)
        if made_with != settings(config):
            raise WamkitError(
                f"{self.file} was made with {made_with}, the spec has {settings(config)}",
                "run `wamkit precompute text` again, or restore those settings",
            )

    def encode(self, prompts: Sequence[str]) -> Text:
        """The stored embeddings [B, L, width]. Raises WamkitError for unknown prompts."""
        for prompt in prompts:
            if prompt not in self.texts:
                near = did_you_mean(prompt, list(self.texts), "add it to the prompts")
                raise WamkitError(
                    f"{self.file} has no embedding of {prompt!r}; it has {len(self.texts)} others",
                    f"{near}, and run `wamkit precompute text` again",
                )
        for prompt in prompts:
            if (bad := fault(self.texts[prompt].tokens)) is not None:
                raise WamkitError(
                    f"{self.file}: the embedding of {prompt!r} is not finite: {bad}",
                    AGAIN,
                )
        return stack_texts([self.texts[prompt] for prompt in prompts])

    def fingerprint(self) -> str:
        """Fingerprint of the encoder that made the file."""
        return self.mark


def read(file: Path, width: int) -> tuple[dict[str, Text], str, str]:
    """Read prompts and their embeddings, and the settings and fingerprint of the encoder.

    The file is not trusted. Raises WamkitError unless it holds, for each of its prompts and for
    nothing else, embeddings [1, L, width], and masks and counts [1, L] if any.
    """
    if not file.is_file():
        raise WamkitError(f"no embeddings at {file}", "make them: `wamkit precompute text SPEC`")
    headers([file])  # refuses truncated files
    with safe_open(file, framework="pt") as stored:
        about = stored.metadata() or {}
        if not {"prompts", "settings", "fingerprint"} <= about.keys():
            raise WamkitError(
                f"{file} holds no stored embeddings", "it is another kind of safetensors file"
            )
        names, found = set(stored.keys()), {}
        for i, prompt in enumerate(_prompts(about["prompts"], file)):
            parts = [stored.get_tensor(n) if (n := f"{i}.{k}") in names else None for k in KINDS]
            tokens, valid, copies = parts
            if tokens is None or tokens.ndim < 2 or tokens.dtype not in FLOATS:
                was = "nothing" if tokens is None else f"{tokens.dtype} {list(tokens.shape)}"
                raise WamkitError(
                    f"{file} is damaged: of {prompt!r:.80} it holds {was}, expected embeddings "
                    "in float32, bfloat16 or float16",
                    AGAIN,
                )
            if (why := _fault(tokens, valid, copies, width)) is not None:
                raise WamkitError(f"{file} is damaged: of {prompt!r:.80} it holds {why}", AGAIN)
            found[prompt] = Text(tokens, valid, repeats=copies)
            names -= {f"{i}.{kind}" for kind in KINDS}
    if names:
        raise WamkitError(
            f"{file} holds {len(names)} tensors of no prompt, such as {min(names)!r:.80}", AGAIN
        )
    return found, about["settings"], about["fingerprint"]


def _fault(tokens: Tensor, valid: Tensor | None, copies: Tensor | None, width: int) -> str | None:
    """Describe invalid embeddings of a prompt for an encoder of `width`; None if valid."""
    if tokens.ndim != 3 or tokens.shape[0] != 1 or not tokens.shape[1] or tokens.shape[2] != width:
        return f"embeddings {list(tokens.shape)}, expected [1, tokens, {width}]"
    length = [1, tokens.shape[1]]
    if valid is not None and (valid.dtype != torch.bool or list(valid.shape) != length):
        return f"a mask {valid.dtype} {list(valid.shape)}, expected torch.bool {length}"
    if valid is not None and not bool(valid.any()):
        return "a mask that hides every token"
    if copies is not None:
        if list(copies.shape) != length or copies.dtype.is_complex or copies.dtype == torch.bool:
            return f"counts {copies.dtype} {list(copies.shape)}, expected {length}"
        counts = copies.double()
        if not bool(((counts >= 0) & (counts <= MOST_COPIES)).all()) or not bool(counts.any()):
            return f"counts of equal tokens that are not from 0 to {MOST_COPIES:,}"
    return None


def _prompts(text: str, file: Path) -> list[str]:
    """The prompts that the metadata lists. Raises WamkitError if they are damaged."""
    try:
        found = strict_json.loads(text)
    except ValueError as error:
        raise WamkitError(f"{file} is damaged: its prompts are no JSON: {error}", AGAIN) from None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise WamkitError(f"{file} is damaged: its prompts are no list of texts", AGAIN)
    if twice := len(found) - len(set(found)):
        raise WamkitError(f"{file} is damaged: {twice} of its prompts are there twice", AGAIN)
    for prompt in found:
        expect_text(prompt, f"prompt in {file}")
    return found


def precompute(
    config: TextEncoderConfig,
    prompts: Iterable[str],
    file: Path,
    advance: Callable[[int], None] = lambda _: None,
    every: int = 64,
    encoder: Any = None,
) -> int:
    """Encode those of `prompts` that `file` lacks, and write it anew; return how many were encoded.

    The file is always complete: it is rewritten under a temporary name every `every` prompts and
    then renamed, so that an interrupted run resumes where it stopped. `advance` is called after
    each prompt; `encoder` is that of `config`, if it is built already. Raises WamkitError if the
    file was made with other settings or another encoder.
    """
    prompts = list(dict.fromkeys(fill_template(config.prompt_template, p) for p in prompts))
    encoder = config.build() if encoder is None else encoder
    known: dict[str, Text] = {}
    if file.exists():
        known, made_with, mark = read(file, config.width)
        if (made_with, mark) != (settings(config), encoder.fingerprint()):
            raise WamkitError(
                f"{file} was made by another encoder or with other settings",
                "choose another file, or remove this one",
            )
    new = [prompt for prompt in prompts if prompt not in known]
    for count, prompt in enumerate(new, 1):
        known[prompt] = encoder.encode([prompt])
        if (bad := fault(known[prompt].tokens)) is not None:
            raise WamkitError(
                f"text encoder {config.name!r} embeds {prompt!r} as non-finite values: {bad}",
                "load its weights in float32 or bfloat16, or download them again",
            )
        advance(1)
        if count % every == 0:
            _write(known, config, encoder.fingerprint(), file)
    _write(known, config, encoder.fingerprint(), file)
    return len(new)


def store(config: TextEncoderConfig, found: Mapping[str, Tensor], file: Path) -> None:
    """Write embeddings [1, L, width] that were computed elsewhere, by prompt, for `config`.

    The encoder's prompt template is applied to each. Raises WamkitError if `file` is there, or an
    embedding is of another width or not finite.
    """
    if file.exists():
        raise WamkitError(f"{file} is there", "choose another file, or remove this one")
    texts = {}
    for prompt, tokens in found.items():
        bad = _fault(tokens, None, None, config.width) or fault(tokens)
        if bad is not None:
            raise WamkitError(
                f"of {prompt!r:.80} the embeddings are {bad}; {config.name} makes embeddings of "
                f"width {config.width}",
                "name the embeddings of the encoder in the spec",
            )
        texts[fill_template(config.prompt_template, prompt)] = Text(tokens)
    mark = hashlib.sha256(
        b"".join(k.encode() + t.tokens.float().numpy().tobytes() for k, t in texts.items())
    ).hexdigest()
    _write(texts, config, f"stored-{mark[:16]}", file)


def build_text_encoder(config: TextEncoderConfig) -> Any:
    """The encoder of `config`, or its stored embeddings where `embeddings_file` names some."""
    if config.embeddings_file is None:
        return config.build()
    return StoredEncoder(config.embeddings_file, config)


def _write(texts: dict[str, Text], config: TextEncoderConfig, mark: str, file: Path) -> None:
    state: dict[str, Tensor] = {}
    for i, text in enumerate(texts.values()):
        parts = zip(KINDS, (text.tokens, text.valid, text.repeats), strict=True)
        state |= {f"{i}.{kind}": value.contiguous() for kind, value in parts if value is not None}
    about = {"prompts": json.dumps(list(texts)), "settings": settings(config)}
    with as_not_written(file):
        make_folder(file.parent)
    write_tensors(state, file, {**about, "fingerprint": mark})
