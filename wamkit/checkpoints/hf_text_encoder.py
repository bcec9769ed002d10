"""Models and tokenizers of transformers from untrusted local folders: no code, within limits.

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

from ..config.pretrained import PretrainedText, identity
from ..config.published import MOST_BYTES, json_table
from ..errors import WamkitError
from .files import Entry, find, headers
from .finite import WHOLE, expect_weights
from .formats import FLOAT8, FLOATS, USE_FLOATS, plain_float8_dtype, resolve_scales
from .limits import limit_parameters

AGAIN = "copy config.json and the safetensors files from the same checkpoint"
ROOM = 2**23
"""Values that a model may have beyond twice those of its files, for tied weights."""


def read_config(model: Path) -> Any:
    """The configuration of the model in a folder, as transformers has it."""
    with _explain_errors(
        f"{model / 'config.json'} is no configuration that transformers reads", AGAIN
    ):
        return AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)


def saved_config(model: Path) -> tuple[Any, torch.dtype]:
    """The configuration of the model in a folder, and the dtype that its files are loaded in."""
    config, read_as = read_config(model), _dtype(model, headers(find(model)))
    if read_as == "auto":
        named = getattr(config, "dtype", None)
        read_as = named if isinstance(named, torch.dtype) else torch.float32
    return config, read_as


def published_config(part: PretrainedText) -> tuple[Any, torch.dtype]:
    """The configuration of the published model of a text encoder, and bfloat16.

    Raises WamkitError if there is none of its hidden size.
    """
    sizes = part.published_models.get(part.embedding)
    if sizes is None:
        known = ", ".join(map(str, part.published_models))
        raise WamkitError(
            f"no published {part.name} has embeddings of width {part.embedding}, known are {known}",
            "name its files in text_encoder.weights, then they are counted",
        )
    return AutoConfig.for_model(part.model_type, **sizes), torch.bfloat16


def load(
    cls: Any, model: Path, tokenizer: Path, *, unused: str = r"(?!)", config: Any = None
) -> tuple[Any, Any, str]:
    """Load a model of class `cls` and its tokenizer from two local folders, with a fingerprint.

    The model keeps its saved dtype, on the CPU. Tensors in the files whose names match `unused`
    need no place in the model. Raises WamkitError if files are damaged, or tensors do not fit.
    """
    shards = find(model)
    entries = headers(shards)  # refuses what is damaged
    read_as = _dtype(model, entries)
    config = read_config(model) if config is None else config
    _expect_all_weights(cls, config, model, entries)
    with _explain_errors(f"transformers can make no {cls.__name__} of the files in {model}", AGAIN):
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
def _explain_errors(what: str, hint: str) -> Iterator[None]:
    """Turn any error of transformers into a WamkitError that begins with `what`; print nothing.

    Also catches panics of Rust extensions, which are no `Exception`.
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
        raise WamkitError(f"{what}: {type(error).__name__}: {reason}", hint) from None
    finally:
        logging.set_verbosity(loud)


@contextmanager
def encoding() -> Iterator[None]:
    """Raise WamkitError for what a model or a tokenizer raises while it encodes prompts.

    A model may read settings of config.json only then. MemoryError passes unchanged.
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


def _expect_all_weights(cls: Any, config: Any, model: Path, entries: Mapping[str, Entry]) -> None:
    """Raise WamkitError if a model has more than twice the values of its files.

    Tied weights are in the files once; values beyond that would be initialized at random.
    """
    with (
        _explain_errors(f"{model / 'config.json'} describes no {cls.__name__}", AGAIN),
        torch.device("meta"),
        limit_parameters(f"the model in {model}"),
    ):
        needed = sum(parameter.numel() for parameter in cls(config).parameters())
    held = sum(prod(entry.shape) for entry in entries.values())
    if needed > 2 * held + ROOM:
        raise WamkitError(
            f"{model / 'config.json'} describes a model of {needed:,} values, and the files next "
            f"to it hold {held:,}",
            AGAIN,
        )


def _dtype(model: Path, entries_on_disk: Mapping[str, Any]) -> Any:
    """Dtype for transformers to load the files in: "auto", or a wider one for plain float8.

    Raises WamkitError if a file is damaged or its weights are quantized.
    """
    packed = json_table(model / "config.json", MOST_BYTES).get("quantization_config")
    if packed is not None:
        method = packed.get("quant_method", "of no name") if isinstance(packed, dict) else packed
        raise WamkitError(f"{model} is quantized ({method}, its config.json says)", USE_FLOATS)
    entries = resolve_scales(entries_on_disk, str(model))
    if scaled := [name for name, entry in entries.items() if entry.scale is not None]:
        raise WamkitError(
            f"{model} is scaled float8, which text encoders are not read from: {scaled[0]}, ...",
            USE_FLOATS,
        )
    whole = [
        f"{name} {entry.dtype}"
        for name, entry in entries.items()
        if entry.dtype not in FLOATS and re.search(r"(^|\.)(weight|bias)$", name)
    ]
    if whole:
        raise WamkitError(
            f"{model} holds integers where its model has floats: {', '.join(whole[:6])}", USE_FLOATS
        )
    small = any(entry.dtype in FLOAT8 for entry in entries.values())
    return plain_float8_dtype(entries) if small else "auto"


def _tokenizer(folder: Path, model: Any) -> Any:
    """The tokenizer in a folder. Raises WamkitError if its tokens are not those of the model."""
    files = ", ".join(sorted(file.name for file in folder.iterdir() if file.is_file())[:12])
    hint = "copy the folder of the tokenizer again, whole"
    with _explain_errors(f"no tokenizer can be made of the files in {folder} ({files})", hint):
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
            hint,
        )
    return made
