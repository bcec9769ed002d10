"""Models and tokenizers of transformers from local folders of a stranger: no code, within bounds.

What a folder's config.json describes is compared with what its files hold before any of it is
allocated; what a tokenizer makes must have an embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from ..config.pretrained import identity
from ..config.published import MOST_BYTES, json_table
from ..errors import WamkitError
from .bounded import bounded
from .files import Entry, find, headers
from .finite import WHOLE, expect_weights
from .formats import FLOAT8, FLOATS, UNPACKED, unpacked, widened

AGAIN = "copy config.json and the safetensors files from the same checkpoint"
ROOM = 2**23
"""Values that a model may have beyond twice those of its files: what its layers share."""


def read_config(model: Path) -> Any:
    """The configuration of the model in a folder, as transformers has it."""
    with _explaining(f"{model / 'config.json'} is no configuration that transformers reads", AGAIN):
        return AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)


def load(
    cls: Any, model: Path, tokenizer: Path, *, unused: str = r"(?!)", config: Any = None
) -> tuple[Any, Any, str]:
    """A model of class `cls` and its tokenizer from two local folders, and what identifies them.

    In the dtype it was saved in, on the CPU. Tensors whose names match `unused` may be in the files
    without being in the model. Raises WamkitError if files are damaged, or tensors do not fit.
    """
    shards = find(model)
    entries = headers(shards)  # refuses what is damaged
    read_as = _dtype(model, entries)
    config = read_config(model) if config is None else config
    _expect_room(cls, config, model, entries)
    with _explaining(f"transformers can make no {cls.__name__} of the files in {model}", AGAIN):
        made, report = cls.from_pretrained(
            model,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=read_as,
            output_loading_info=True,
            config=config,
        )
    extra = [key for key in report["unexpected_keys"] if not re.search(unused, key)]
    problems = [
        f"{kind}: {', '.join(sorted(keys)[:8])}" + ", ..." * (len(keys) > 8)
        for kind, keys in (("missing", report["missing_keys"]), ("unexpected", extra))
        if keys
    ]
    if problems:
        raise WamkitError(
            f"the weights in {model} are not those of its config.json; {'; '.join(problems)}", AGAIN
        )
    where = {name: f"{name} of {entry.file}" for name, entry in entries.items()}
    whole = sum(file.stat().st_size for file in shards) <= WHOLE
    expect_weights(made.named_parameters(), where, whole)
    others = sorted({*model.glob("*.json"), *tokenizer.iterdir()} - set(shards))
    files = [*shards, *(file for file in others if file.is_file())]
    return made, _tokenizer(tokenizer, made), identity(files)


@contextmanager
def _explaining(what: str, cure: str) -> Iterator[None]:
    """Raise WamkitError with `what` for whatever transformers raises, and let it print nothing.

    Programs in Rust end with a panic, which is no Exception.
    """
    loud = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with torch.device("cpu"):
            yield
    except WamkitError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        lines = str(error).strip().splitlines()
        reason = lines[0][:200] if lines else "no reason is given"
        raise WamkitError(f"{what}: {type(error).__name__}: {reason}", cure) from None
    finally:
        logging.set_verbosity(loud)


@contextmanager
def encoding() -> Iterator[None]:
    """Raise WamkitError for what a model or a tokenizer raises while it encodes prompts.

    Settings of config.json may be read for the first time then. What comes of a lack of memory is
    left as it is.
    """
    try:
        yield
    except (WamkitError, MemoryError):
        raise
    except BaseException as error:
        known = isinstance(error, ArithmeticError | LookupError | TypeError | ValueError)
        if not known and type(error).__name__ != "PanicException":
            raise
        reason = (str(error).strip().splitlines() or ["no reason is given"])[0][:200]
        raise WamkitError(
            f"the text encoder fails on a prompt: {type(error).__name__}: {reason}", AGAIN
        ) from None


def _expect_room(cls: Any, config: Any, model: Path, entries: Mapping[str, Entry]) -> None:
    """Raise WamkitError if a model would have more values than its files, which are then invented.

    Values that two layers share are in the files once, so there may be twice as many.
    """
    with (
        _explaining(f"{model / 'config.json'} describes no {cls.__name__}", AGAIN),
        torch.device("meta"),
        bounded(f"the model in {model}"),
    ):
        needed = sum(parameter.numel() for parameter in cls(config).parameters())
    held = sum(prod(entry.shape) for entry in entries.values())
    if needed > 2 * held + ROOM:
        raise WamkitError(
            f"{model / 'config.json'} describes a model of {needed:,} values, and the files beside "
            f"it hold {held:,}",
            AGAIN,
        )


def _dtype(model: Path, held: Mapping[str, Any]) -> Any:
    """What transformers is to read the files as: their own dtype, float8 widened.

    Raises WamkitError if a file is damaged, or its numbers are packed: transformers would read them
    with a program of their own, or as numbers.
    """
    packed = json_table(model / "config.json", MOST_BYTES).get("quantization_config")
    if packed is not None:
        method = packed.get("quant_method", "of no name") if isinstance(packed, dict) else packed
        raise WamkitError(f"{model} is quantized ({method}, its config.json says)", UNPACKED)
    entries = unpacked(held, str(model))
    if scaled := [name for name, entry in entries.items() if entry.scale is not None]:
        raise WamkitError(
            f"{model} is scaled float8, which text encoders are not read from: {scaled[0]}, ...",
            UNPACKED,
        )
    whole = [
        f"{name} {entry.dtype}"
        for name, entry in entries.items()
        if entry.dtype not in FLOATS and re.search(r"(^|\.)(weight|bias)$", name)
    ]
    if whole:
        raise WamkitError(
            f"{model} holds integers where its model has floats: {', '.join(whole[:6])}", UNPACKED
        )
    small = any(entry.dtype in FLOAT8 for entry in entries.values())
    return widened(entries) if small else "auto"


def _tokenizer(folder: Path, model: Any) -> Any:
    """The tokenizer in a folder. Raises WamkitError if its tokens are not those of the model."""
    files = ", ".join(sorted(file.name for file in folder.iterdir() if file.is_file())[:12])
    cure = "copy the folder of the tokenizer again, whole"
    with _explaining(f"no tokenizer can be made of the files in {folder} ({files})", cure):
        made: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        largest = max([-1, *made.get_vocab().values(), *made("a").input_ids])
    rows = model.get_input_embeddings().num_embeddings
    if not 0 <= largest < rows:
        raise WamkitError(
            f"the tokenizer in {folder} has tokens up to {largest}, and the model embeds 0 to "
            f"{rows - 1}",
            "copy model and tokenizer from the same checkpoint",
        )
    if not isinstance(made.pad_token_id, int) or not 0 <= made.pad_token_id < rows:
        raise WamkitError(
            f"the tokenizer in {folder} has no token for padding: pad_token_id is "
            f"{made.pad_token_id}",
            cure,
        )
    return made
