"""Read sizes from the config.json next to published weights; no torch.

A part states how such a file is read, and every size that the spec leaves open is taken from it:
`weights = "FOLDER"` alone builds what the folder holds. `wamkit.config.configs` compares what is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import WamkitError
from ..files import strict_json
from ..files.hub import cached_path
from ..files.locate import STEMS, split_prefix
from ..files.placeholders import refuse_placeholder
from ..files.shards import INDEX, PICKLED, SUFFIX
from .config_values import LARGEST, brief

Config = Mapping[str, Any]
MOST_BYTES = 2**22
"""The largest config.json that is read: 4 MiB."""


@dataclass(frozen=True)
class Published:
    """One kind of config.json, and how its settings become fields of a part.

    `read` and `fill` are given the file's settings and its folder. They raise WamkitError for what
    the part cannot be; a KeyError, TypeError or ValueError is reported as a damaged file.
    """

    names: tuple[str, ...]
    """What it may call its model: `_class_name`, `architecture` or `model_type`; none for any."""
    read: Callable[[Config, Path], Mapping[str, Any]]
    """The fields that it decides, under our names."""
    fill: Callable[[Config, Path], Mapping[str, Any]] = lambda config, folder: {}
    """Fields that it only suggests: used where the spec leaves them open, and not compared."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the part computes with, and no others; those that are absent are not asked."""
    file: str = "config.json"


class Found(NamedTuple):
    """A config.json that was read."""

    file: Path
    called: str
    fields: Mapping[str, Any]
    suggested: Mapping[str, Any]
    differing: Mapping[str, tuple[Any, Any]]
    """Settings that the part does not compute with: found, expected."""


def read_published_config(
    weights: str | None, kinds: Sequence[Published], folders: Sequence[str]
) -> Found | None:
    """Read the configuration next to `weights`; None if there is none, or it names no model.

    Of weights on the hub it is read once it is here.

    Raises WamkitError if it cannot be read, or is that of another model.
    """
    place = None if not kinds or weights is None else cached_path(split_prefix(weights)[0])
    if place is None:
        return None
    file = next((f for k in kinds if (f := _file(place, k.file, folders))), None)
    if file is None:
        return None
    config = _settings(file, file.stat().st_mtime_ns)
    called = name_of(config)
    for kind in (k for k in kinds if k.file == file.name):
        if kind.names and called not in kind.names:
            continue
        differing = {
            key: (config[key], wanted)
            for key, wanted in kind.fixed.items()
            if key in config and not _same(_plain(config[key]), _plain(wanted))
        }
        try:
            fields = {k: _plain(v) for k, v in kind.read(config, file.parent).items()}
            suggested = dict(kind.fill(config, file.parent))
            _expect_sizes({**suggested, **fields})
        except WamkitError as error:
            if differing:  # which says more
                return Found(file, called, {}, {}, differing)
            raise WamkitError(f"{file}: {error.what}", error.hint) from None
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise WamkitError(
                f"{file} lacks a setting of {called}: {type(error).__name__} {f'{error}'[:80]}",
                "copy it again from the checkpoint that the weights are of",
            ) from None
        return Found(file, called, fields, suggested, differing)
    if not called or place.is_file():
        return None  # what lies next to a file that is named need not belong to it
    wanted = " or ".join(dict.fromkeys(name for kind in kinds for name in kind.names))
    raise WamkitError(f"{file} is that of a {called}, expected {wanted}", "")


def open_fields(cls: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields of a part that its config.json decides or suggests, for those that are not written.

    Empty if there is none or it cannot be read: that is reported when the part is checked.
    """
    try:
        found = read_published_config(given.get("weights"), cls.published(), cls.config_folders)
    except (WamkitError, OSError):
        return {}
    if found is None:
        return {}
    values = {**found.suggested, **found.fields}
    return {key: value for key, value in values.items() if given.get(key) is None}


def name_of(config: Config) -> str:
    """Name of the model in a config.json."""
    for key in ("_class_name", "architecture", "model_type"):
        if isinstance(found := config.get(key), str) and found:
            return found
    several = config.get("architectures")
    return str(several[0]) if isinstance(several, list) and several else ""


def _file(place: Path, name: str, folders: Sequence[str]) -> Path | None:
    """The configuration of the weights at `place`, in the folder that they are in."""
    if place.is_file():
        ours = place.name.startswith(STEMS) and place.name.endswith((SUFFIX, INDEX, *PICKLED))
        file = place.parent / name
        return file if ours and file.is_file() else None
    places = [p for p in (place, *(place / f for f in folders)) if (p / name).is_file()]
    filled = [p for p in places if any(q.name.endswith((SUFFIX, *PICKLED)) for q in p.iterdir())]
    first = [*filled, *places][:1]
    return first[0] / name if first else None


@lru_cache(maxsize=64)
def _settings(file: Path, _changed: int) -> Config:
    return json_table(file, MOST_BYTES)


def json_table(file: Path, most: int = strict_json.BYTES) -> dict[str, Any]:
    """A JSON file with a table in it. Raises WamkitError if it is anything else."""
    refuse_placeholder(file)
    found = strict_json.read(file, "download or copy it again", most=most)
    if not isinstance(found, dict):
        raise WamkitError(f"{file} holds a {type(found).__name__}, expected a table", "copy it")
    return found


def _expect_sizes(fields: Mapping[str, Any]) -> None:
    """Raise WamkitError if a size that was read is larger than that of any model."""
    for key, value in fields.items():
        for size in value if isinstance(value, tuple) else (value,):
            if isinstance(size, int | float) and not abs(size) <= LARGEST:
                raise WamkitError(
                    f"its sizes make {key} = {brief(value)}, and at most {LARGEST:,} is read",
                    "copy it again from the checkpoint that the weights are of",
                )


def _same(found: Any, wanted: Any) -> bool:
    """Equality, of fractions as closely as files write them; true is no 1."""
    if isinstance(found, bool) != isinstance(wanted, bool):
        return False
    if isinstance(found, tuple) and isinstance(wanted, tuple):
        return len(found) == len(wanted) and all(map(_same, found, wanted))
    if isinstance(found, float) and isinstance(wanted, float):
        return isclose(found, wanted, rel_tol=1e-6)
    return bool(found == wanted)


def _plain(value: Any) -> Any:
    """Lists as tuples, so that files and fields compare."""
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value
