"""Validate metadata of a data set: types and ranges of info.json and stats.json."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

IMAGES = ("video", "image")
RATES = 1e6  # frames a second; more, or fewer than one in as many seconds, is damage
MOST_EPISODES = 10**6
MOST_FRAMES = 10**7
"""Frames of one episode: 92 hours at 30 a second."""
MOST_VALUES = 10**6
"""Values of one frame of one feature that is no image."""
MOST_FEATURES = 1000
MOST_BYTES = 2**26
"""Bytes of info.json and stats.json: 64 MiB."""
_HINT = "write it as LeRobot does, or copy the file again"

Name = Annotated[str, Field(max_length=1000)]
Count = Annotated[int, Field(ge=0, lt=10**12)]
Dim = Annotated[int, Field(gt=0, le=MOST_VALUES)]


class _Table(BaseModel):
    """A table of another program, which may have keys that are not read."""

    model_config = ConfigDict(extra="ignore", strict=True, defer_build=True)


class FeatureTable(_Table):
    """One feature in info.json."""

    dtype: Name
    shape: Annotated[list[Dim], Field(max_length=8)]


class Info(_Table):
    """meta/info.json."""

    codebase_version: Name
    fps: Annotated[float, Field(gt=1 / RATES, lt=RATES, allow_inf_nan=False)]
    features: Annotated[dict[Name, FeatureTable], Field(max_length=MOST_FEATURES)]
    robot_type: Name | None = None
    total_episodes: Annotated[int, Field(ge=0, le=MOST_EPISODES)] | None = None
    total_frames: Count | None = None
    total_tasks: Count | None = None
    chunks_size: Annotated[int, Field(gt=0, lt=10**12)] | None = None
    splits: dict[Name, Any] | None = None


def faults_of_info(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every fault of a table of info.json that has all its keys, each with its cure."""
    try:
        Info.model_validate(info)
    except ValidationError as error:
        seen = set()
        for one in error.errors(include_url=False):
            place = one["loc"][:2] if one["loc"][0] == "features" else one["loc"][:1]
            if place in seen:
                continue
            seen.add(place)
            yield _describe(place, info, str(one["msg"]))
    features = info.get("features")
    for name, raw in features.items() if isinstance(features, dict) else ():
        yield from _faults_of_feature(name, raw)


def _describe(place: tuple[Any, ...], info: dict[str, Any], problem: str) -> tuple[str, str]:
    """A fault at a place of info.json, and its cure."""
    if place == ("fps",):
        return f": fps is {info['fps']!r:.80}", "it is the number of frames a second"
    if place == ("features",):
        return (
            f": features is {info['features']!r:.60}",
            f"it is a table of at most {MOST_FEATURES}: name = {{dtype, shape}}",
        )
    if place[0] != "features":
        return f": {place[0]} is {info[place[0]]!r:.80}: {problem}", _HINT
    name, raw = place[1], info["features"].get(place[1])
    shape = raw.get("shape") if isinstance(raw, dict) else None
    if not isinstance(shape, list) or "dtype" not in raw or not all(map(_is_int, shape)):
        return f": {name!r:.80} is {raw!r:.80}", "a feature has dtype and shape"
    if any(not 0 < size <= MOST_VALUES for size in shape):
        hint = f"each size is from 1 to {MOST_VALUES:,}"
    else:
        hint = "write its type and its sizes"
    return f": {name!r:.80} is {raw['dtype']!s:.80} of shape {shape!r:.80}", hint


def _faults_of_feature(name: str, raw: Any) -> Iterator[tuple[str, str]]:
    """Check a feature whose dtype and shape have the right types."""
    try:
        found = FeatureTable.model_validate(raw)
    except ValidationError:  # reported already
        return
    problem = f": {name!r:.80} is {found.dtype} of shape {found.shape}"
    if found.dtype in IMAGES:
        if len(found.shape) != 3:
            yield problem, "images are [height, width, 3]"
    elif prod(found.shape) > MOST_VALUES:
        yield problem, f"a frame has at most {MOST_VALUES:,} values"


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def fault_of_statistics(table: Any) -> str | None:
    """Why `table` is no stats.json: feature -> statistic -> lists of numbers; None if it is one."""
    if not isinstance(table, dict):
        return f"it holds a {type(table).__name__}, expected a table"
    for name, rows in table.items():
        if not isinstance(rows, dict):
            return f"{name!r:.80} is {rows!r:.80}, expected a table of statistics"
        for key, values in rows.items():
            if (bad := next(_no_number(values), None)) is not None:
                return f"{key!r:.80} of {name!r:.80} holds {bad[0]!r:.80}, expected numbers"
    return None


def _no_number(values: Any) -> Iterator[tuple[Any]]:
    """Return the value that is neither a number nor a list of them."""
    if isinstance(values, list):
        for value in values:
            yield from _no_number(value)
    elif isinstance(values, bool) or not isinstance(values, int | float):
        yield (values,)
