"""Exact statistics of actions and states over all frames, kept in the user's own cache.

A policy's actions are scaled by them, so statistics that come with a data set are never believed:
somebody may have written others than the data have. Those that are computed are kept under the hash
of the data, in a folder of the user; nothing is written into the data set.

Quantiles are those of all frames together; averages or envelopes of each episode's own quantiles,
which LeRobot writes into meta/stats.json, are something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..files import strict_json
from ..files.durable import NotWrittenError, as_not_written, make_folder, write_text
from ..files.paths import cache_folder, expand_home
from ..policy.actions import Statistics
from .lerobot_format import Columns, LeRobotFolder
from .reader import ColumnStore
from .samples import select_episodes

METHOD = "all frames, float64, linear quantiles, population std"


def compute_statistics(
    recording: LeRobotFolder,
    spec: PolicySpec | None = None,
    columns: Columns | None = None,
    *,
    episodes: Sequence[int] | None = None,
    cache: str | Path | None = None,
) -> dict[str, Statistics]:
    """`action` and `state`: what `Policy.set_statistics` takes.

    With a spec, dimensions of a `relative` group are described as the policy learns them: each of
    the targets of a sample less the state at its beginning. The result is kept in the folder
    `cache`, by default that of the user (`wamkit.files.paths.cache_folder`) if it can be written
    to, and computed anew when the data or the method has changed. What lies in the folder is
    trusted. Raises WamkitError if a number is not finite or a column is not there.
    """
    method = _method(recording, spec, columns or Columns(), episodes)
    place = expand_home(cache) if cache else cache_folder() / "statistics"
    about = {"data": recording.fingerprint(), **method}
    mark = hashlib.sha256(strict_json.dumps(about).encode()).hexdigest()[:32]
    file = place / f"{mark}.json"
    if (known := _read(file, about)) is not None:
        return known
    found = _compute(recording, method, episodes)
    tables = {name: asdict(value) for name, value in found.items()}
    _write(file, {**about, "statistics": tables}, required=cache is not None)
    return found


def statistics_of(values: Sequence[NDArray[Any]], where: str) -> Statistics:
    """Statistics of the columns `values`, one array for each dimension."""
    rows = []
    for i, column in enumerate(values):
        exact = column.astype(np.float64)
        if not np.isfinite(exact).all():
            raise WamkitError(
                f"number {i} of {where} is not always finite", "run `wamkit data check`"
            )
        q01, q99 = np.quantile(exact, (0.01, 0.99))
        rows.append((exact.min(), exact.max(), exact.mean(), exact.std(), q01, q99))
    return Statistics(*(tuple(map(float, row)) for row in zip(*rows, strict=True)))


def quantities(
    recording: LeRobotFolder,
    spec: PolicySpec | None = None,
    columns: Columns | None = None,
    episodes: Sequence[int] | None = None,
) -> dict[str, list[NDArray[Any]]]:
    """Values that statistics describe: key -> one array of all frames per dimension."""
    columns = columns or Columns()
    return _quantities(recording, _method(recording, spec, columns, episodes), episodes)


def _quantities(
    recording: LeRobotFolder, method: dict[str, Any], episodes: Sequence[int] | None
) -> dict[str, list[NDArray[Any]]]:
    action, state = method["action"], method["state"]
    names = [name for name in (action, state) if name is not None]
    for purpose in ("action", "state"):
        if method[purpose] is not None:
            recording.feature(method[purpose], purpose)
    numbers = ColumnStore(recording, select_episodes(recording, episodes), names)
    if not len(numbers[action]):
        raise WamkitError(f"{recording.folder} has no frame", "record episodes first")
    numbers.expect_finite(names)
    values = list(numbers[action].T)
    sources = method.get("sources") or [("action", i) for i in range(len(values))]
    values = [values[i] if kind == "action" else numbers[state].T[i] for kind, i in sources]
    for ours, theirs in method["relative"]:
        pieces = []
        for place, episode in enumerate(numbers.episodes):
            target = numbers.episode_values(place, action)[:, sources[ours][1]].astype(np.float64)
            felt = numbers.episode_values(place, state)[:, theirs].astype(np.float64)
            for k in range(min(method["steps"], episode.length)):
                pieces.append(target[k:] - felt[: episode.length - k])
        values[ours] = np.concatenate(pieces)
    found = {"action": values}
    if state is not None:
        found["state"] = list(numbers[state].T)
    return found


def _compute(
    recording: LeRobotFolder, method: dict[str, Any], episodes: Sequence[int] | None
) -> dict[str, Statistics]:
    found = _quantities(recording, method, episodes)
    return {name: statistics_of(values, method[name]) for name, values in found.items()}


def _method(
    recording: LeRobotFolder,
    spec: PolicySpec | None,
    columns: Columns,
    episodes: Sequence[int] | None,
) -> dict[str, Any]:
    """Everything that determines the statistics of a data set."""
    relative = relative_pairs(spec)
    own = {} if spec is None else {"sources": [list(source) for source in spec.actions.sources]}
    mixed = spec is not None and len(spec.actions.executed) < spec.actions.size
    return {
        **(own if mixed else {}),
        "method": METHOD,
        "action": columns.action,
        "state": _state_column(recording, spec, columns),
        "relative": relative,
        "steps": spec.steps // spec.paradigm.states_per_sample
        if spec is not None and relative
        else None,
        "episodes": None if episodes is None else sorted(set(episodes)),
    }


def relative_pairs(spec: PolicySpec | None) -> list[tuple[int, int]]:
    """Pairs of an action dimension and the state dimension that it is relative to."""
    pairs, start = [], 0
    for group in spec.actions.groups if spec is not None else ():
        if group.kind == "relative" and group.state is not None:
            pairs += [(start + i, group.state + i) for i in range(group.size)]
        start += group.size
    return pairs


def _state_column(
    recording: LeRobotFolder, spec: PolicySpec | None, columns: Columns
) -> str | None:
    """The state's key, if the policy reads one; without a policy, if the data set has one."""
    wanted = columns.state in recording.features if spec is None else spec.state.size > 0
    return columns.state if wanted else None


def _read(file: Path, about: dict[str, Any]) -> dict[str, Statistics] | None:
    """Statistics stored in `file` for these data; None if missing, damaged, or of other data."""
    try:
        stored = strict_json.loads(file.read_text(encoding="utf-8"))
        tables = stored.pop("statistics")
        if stored != strict_json.loads(strict_json.dumps(about)):
            return None
        return {name: Statistics.parse(table, str(file)) for name, table in tables.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _write(file: Path, stored: dict[str, Any], *, required: bool) -> None:
    """Keep the result; where the cache cannot be written to, it is computed each time."""
    text = strict_json.dumps(stored, indent=1) + "\n"
    try:
        with as_not_written(file):
            make_folder(file.parent)
        write_text(file, text)
    except NotWrittenError:
        if required:
            raise
