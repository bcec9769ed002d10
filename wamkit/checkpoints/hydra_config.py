"""Settings that Hydra wrote next to a checkpoint: values by dotted names, references followed.

OmegaConf writes a value that is that of another key as `${model.width}`. Such references are
followed where a value is asked for; text around one, and functions (`${now:...}`, `${eval:...}`),
are refused by name, and never evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import WamkitError

MOST = 20
"""References that are followed in a row."""
_REFERENCE = re.compile(r"\$\{([\w-]+(?:\.[\w-]+)*)\}")


class HydraConfig:
    """The table of a config.yaml; empty if there is none."""

    def __init__(self, table: Mapping[str, Any], where: str = "config.yaml") -> None:
        self.table, self.where = table, where

    def __bool__(self) -> bool:
        return bool(self.table)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a dotted name, every reference in it followed; `default` if it is not there.

        Raises WamkitError if it refers to nothing, to itself, or is computed.
        """
        found, value = self._find(name, ())
        return self._resolved(value, name, ()) if found else default

    def _find(self, name: str, path: tuple[str, ...]) -> tuple[bool, Any]:
        value: Any = self.table
        for key in name.split("."):
            if isinstance(value, str):  # a table that stands elsewhere
                value = self._resolved(value, name, path)
            if not isinstance(value, Mapping) or key not in value:
                return False, None
            value = value[key]
        return True, value

    def _resolved(self, value: Any, name: str, path: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            return {k: self._resolved(v, f"{name}.{k}", path) for k, v in value.items()}
        if isinstance(value, list):
            return [self._resolved(v, f"{name}[{i}]", path) for i, v in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        match = _REFERENCE.fullmatch(value)
        if match is None or len(path) >= MOST or match[1] in path:
            why = "refers to itself" if match else "is computed when it is read"
            raise self._error(f"{name} = {value} {why}", name)
        found, target = self._find(match[1], (*path, match[1]))
        if not found:
            raise self._error(f"{name} = {value} refers to nothing", name)
        return self._resolved(target, name, (*path, match[1]))

    def _error(self, what: str, name: str) -> WamkitError:
        return WamkitError(
            f"{self.where}: {what}", f"write the value of {name} that was used into the file"
        )
