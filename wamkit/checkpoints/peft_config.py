"""The adapter_config.json of peft: alpha and rank of each adapter, hence its scale."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from ..errors import WamkitError
from ..files import strict_json

NAME = "adapter_config.json"
_REFUSED = {
    "use_dora": "DoRA, which also scales the rows of a weight",
    "lora_bias": "adapters with a bias",
    "fan_in_fan_out": "transposed weights",
}
_HINT = "merge the LoRA into its weights with peft (merge_and_unload), and name the result"


@dataclass(frozen=True)
class PeftConfig:
    """What determines the scale of an adapter."""

    file: Path
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    """Pattern for layers -> their rank, where it is not `rank`."""
    alphas: Mapping[str, float]
    """Pattern for layers -> their alpha, where it is not `alpha`."""
    rank_stabilized: bool
    """True if the scale is alpha / sqrt(rank)."""

    def scale(self, layer: str, rank: int) -> float:
        """The scale of the adapter of `layer`, whose factors have `rank`.

        Raises WamkitError if the file says another rank.
        """
        stated = _first_match(self.ranks, layer, self.rank)
        if stated != rank:
            raise WamkitError(
                f"the adapter of {layer} has rank {rank}, and {self.file} says {stated}",
                "copy the adapter and its configuration again, together",
            )
        alpha = _first_match(self.alphas, layer, self.alpha)
        return alpha / (sqrt(rank) if self.rank_stabilized else rank)


def read_peft_config(folder: Path) -> PeftConfig | None:
    """The configuration in `folder`, None if there is none.

    Raises WamkitError if it is damaged, or of adapters that are not plain LoRA.
    """
    file = folder / NAME
    if not file.is_file():
        return None
    table = strict_json.read(file, "copy the adapter and its configuration again")
    kind = table.get("peft_type", "LORA") if isinstance(table, dict) else None
    if kind != "LORA":
        raise WamkitError(f"{file} is of {kind or 'no'} adapters, expected LORA", _HINT)
    if refused := [why for key, why in _REFUSED.items() if table.get(key)]:
        raise WamkitError(f"{file} describes {', '.join(refused)}", _HINT)
    if not _is_number(table.get("lora_alpha")) or type(table.get("r")) is not int:
        raise WamkitError(f"{file} states no lora_alpha and r", _HINT)
    ranks = _patterns(table, "rank_pattern", file)
    alphas = _patterns(table, "alpha_pattern", file)
    rank_stabilized = bool(table.get("use_rslora"))
    return PeftConfig(file, table["r"], table["lora_alpha"], ranks, alphas, rank_stabilized)


def _patterns(table: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    """The table of patterns, which are names of layers or ends of them, `^` before a whole one."""
    found = table.get(key) or {}
    if not isinstance(found, dict) or not all(map(_is_number, found.values())):
        raise WamkitError(f"{file} holds a {key} that is no table of numbers", _HINT)
    if other := [p for p in found if not re.fullmatch(r"\^?[\w.]+", p)]:
        raise WamkitError(
            f"{file} selects layers in {key} by regular expressions, which are not read: "
            f"{', '.join(other[:3])}",
            _HINT,
        )
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _first_match(patterns: Mapping[str, Any], layer: str, default: Any) -> Any:
    """The value of the first pattern that is the name of `layer` or its end."""
    for pattern, value in patterns.items():
        whole = pattern.removeprefix("^")
        if layer == whole or (whole == pattern and layer.endswith(f".{whole}")):
            return value
    return default
