"""Settings of a config.json as values of the kind that is wanted, within the sizes of any model.

Such a file comes from an untrusted source: a size that is text, a boolean, negative or without end
is refused before anything is computed with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import WamkitError

LARGEST = 2**20
"""The largest size that is read: layers, channels, tokens of a vocabulary."""
LONGEST = 64
"""The most values in a list of sizes."""
_NEEDED: Any = object()
_SIZES = (
    *("num_layers", "num_decoder_layers", "num_hidden_layers", "depth", "num_heads"),
    *("num_attention_heads", "num_key_value_heads", "hidden_size", "intermediate_size", "head_dim"),
    *("d_model", "d_ff", "d_kv", "vocab_size", "relative_attention_num_buckets"),
    *("max_position_embeddings", "n_positions", "embed_dim", "out_hidden_size", "patch_size"),
)
"""What transformers calls the sizes of the text encoders that are read."""
_CURE = "copy it again from the checkpoint that the weights are of"


def integer(config: Mapping[str, Any], key: str, default: Any = _NEEDED, *, least: int = 1) -> Any:
    """An integer from `least` to `LARGEST`; `default` if there is none, or it is null.

    Raises KeyError if it is missing and there is no default, WamkitError if it is anything else.
    """
    return _checked_value(
        config, key, default, f"a whole number from {least} to {LARGEST}", _is(least)
    )


def number(config: Mapping[str, Any], key: str, default: Any = _NEEDED) -> Any:
    """As `integer`, for a positive number that may be a fraction."""
    return _checked_value(config, key, default, f"a number above 0, at most {LARGEST}", _is_number)


def flag(config: Mapping[str, Any], key: str, default: bool = False) -> bool:
    """As `integer`, for true or false."""
    found = _checked_value(config, key, default, "true or false", lambda value: type(value) is bool)
    return bool(found)


def int_tuple(
    config: Mapping[str, Any], key: str, default: Any = _NEEDED, *, least: int = 1
) -> tuple[int, ...]:
    """As `integer`, for a list of integers."""
    what = f"a list of whole numbers from {least} to {LARGEST}"
    return tuple(_checked_value(config, key, default, what, _are(_is(least))))


def float_tuple(config: Mapping[str, Any], key: str, default: Any = _NEEDED) -> tuple[float, ...]:
    """As `number`, for a list of them."""
    what = f"a list of numbers above 0, at most {LARGEST}"
    return tuple(map(float, _checked_value(config, key, default, what, _are(_is_number))))


def table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table within the table; an empty one if there is none, or it is null."""
    found = _checked_value(config, key, {}, "a table", lambda value: isinstance(value, Mapping))
    return found  # type: ignore[no-any-return]


def expect_sizes(config: Mapping[str, Any]) -> None:
    """Raise WamkitError unless every size in the configuration of a text encoder is one.

    Those of its language model and of its image tower are looked at as well.
    """
    for part in (config, table(config, "text_config"), table(config, "vision_config")):
        for key in _SIZES:
            integer(part, key, 1)


def brief(value: Any, most: int = 60) -> str:
    """A value as it can be printed, cut where it is long."""
    if isinstance(value, list | tuple | dict) and len(value) > LONGEST:
        return f"a {type(value).__name__} of {len(value):,}"
    text = ascii(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _checked_value(config: Mapping[str, Any], key: str, default: Any, what: str, fits: Any) -> Any:
    value = config.get(key)
    if value is None:
        if default is _NEEDED and key not in config:
            raise KeyError(key)
        if default is not _NEEDED:
            return default
    if not fits(value):
        raise WamkitError(f"{key} is {brief(value)}, expected {what}", _CURE)
    return value


def _is(least: int) -> Any:
    return lambda value: type(value) is int and least <= value <= LARGEST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < value <= LARGEST


def _are(fits: Any) -> Any:
    return lambda value: (
        isinstance(value, list | tuple) and len(value) <= LONGEST and all(map(fits, value))
    )
