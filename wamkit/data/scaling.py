"""Check the normalization of a data set: clipped, outlying and constant dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config.spec import PolicySpec
from ..policy.actions import ActionSpace, StateSpace, Statistics
from ..policy.normalization import Normalizer
from .lerobot_format import Columns, LeRobotFolder
from .statistics import quantities, relative_pairs, statistics_of

FAR = 10.0
"""Normalized values above this are reported: most others are below 1."""


def scaling_notes(
    recording: LeRobotFolder,
    spec: PolicySpec,
    columns: Columns | None = None,
    *,
    episodes: Sequence[int] | None = None,
    statistics: Mapping[str, Statistics] | None = None,
) -> list[str]:
    """Yield a remark for every dimension that normalization clips or leaves far out, with a hint.

    `statistics` are those of the same data, if known. Raises WamkitError as
    `wamkit.data.compute_statistics` does.
    """
    columns = columns or Columns()
    values: dict[str, list[NDArray[Any]]] | None = None
    if statistics is None:
        values = quantities(recording, spec, columns, episodes)
        statistics = {
            name: statistics_of(found, getattr(columns, name)) for name, found in values.items()
        }
    lines: list[str] = []
    for name, normalizer in _normalizers(spec, statistics).items():
        labels = labels_of(name, recording, columns, spec)
        for i in _suspects(normalizer):
            if values is None:
                values = quantities(recording, spec, columns, episodes)
            hint = _cure(name, spec, i)
            line = _line(f"{name} {labels[i]}", normalizer, i, values[name][i], hint)
            lines += [line] if line else []
        lines += _constants(name, labels, normalizer)
    for i, _ in relative_pairs(spec):
        known = statistics["action"]
        if max(abs(known.min[i]), abs(known.max[i])) > np.pi:
            values = values or quantities(recording, spec, columns, episodes)
            label = labels_of("action", recording, columns, spec)[i]
            lines += _turns(f"action {label}", values["action"][i])
    return lines


def labels_of(
    name: str, recording: LeRobotFolder, columns: Columns, spec: PolicySpec | None
) -> list[str]:
    """Return a label for each dimension: from the spec, the data set, or its index."""
    if name == "action" and spec is not None:
        return list(ActionSpace(spec.actions).names)
    return recording.features[getattr(columns, name)].labels


def _normalizers(spec: PolicySpec, statistics: Mapping[str, Statistics]) -> dict[str, Normalizer]:
    found = {"action": ActionSpace(spec.actions, statistics["action"]).normalizer}
    if spec.state.size:
        found["state"] = StateSpace(spec.state, statistics["state"]).normalizer
    return found


def _ends(normalizer: Normalizer) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and the largest normalized values of the data, not cut."""
    assert normalizer.statistics is not None
    rows = (normalizer.statistics.min, normalizer.statistics.max)
    low, high = (
        (torch.tensor(row, dtype=torch.float64) - normalizer.center) / normalizer.half
        for row in rows
    )
    return low, high


def _suspects(normalizer: Normalizer) -> Iterator[int]:
    """Dimensions with values that are clipped or far out."""
    assert normalizer.statistics is not None
    low, high = _ends(normalizer)
    most = torch.maximum(low.abs(), high.abs())
    cut = (low < normalizer.low * (1 + 1e-6)) | (high > normalizer.high * (1 + 1e-6))
    for i in range(len(most)):
        scaled = normalizer.rules[i] != "none" and not normalizer.statistics.constant(i)
        if bool(cut[i]) or (scaled and bool(most[i] > FAR)):
            yield i


def _line(
    label: str, normalizer: Normalizer, i: int, values: NDArray[Any], hint: str
) -> str | None:
    exact = values.astype(np.float64)
    center, half = float(normalizer.center[i]), float(normalizer.half[i])
    found = (exact - center) / half
    low, high = float(normalizer.low[i]), float(normalizer.high[i])
    beyond = np.maximum(found - high, low - found)
    rule = normalizer.rules[i]
    if (cut := beyond > 1e-6 * max(abs(low), abs(high))).any():
        worst = int(beyond.argmax())
        kept = min(max(found[worst], low), high) * half + center
        return (
            f"{label} is cut in {_share(cut)}: from {exact[worst]:.4g} to {kept:.4g} where it is "
            f"worst (actions.clip = {normalizer.clip:g} under {rule}); to keep it: "
            f"{f'--set {hint}, or ' if hint else ''}--set actions.clip=none"
        )
    if not (far := np.abs(found) > FAR).any():
        return None
    worst = int(np.abs(found).argmax())
    return (
        f"{label} is {exact[worst]:.4g} at {found[worst]:.4g} times the unit of {rule}, and beyond "
        f"{FAR:g} in {_share(far)}: rare values of it weigh much in the loss"
        + (f"; --set {hint} keeps all within 1" if hint else "")
    )


def _turns(label: str, values: NDArray[Any]) -> list[str]:
    """One line if differences of an angle jump by a whole turn, where it wraps."""
    size = np.abs(values.astype(np.float64))
    for turn, unit in ((2 * np.pi, "rad"), (360.0, "degrees")):
        jumps = np.abs(size - turn) < turn / 6
        if jumps.any() and (jumps | (size < turn / 6)).all():
            return [
                f"{label} jumps by a turn of {turn:.4g} {unit} in {_share(jumps)}, where the angle "
                "wraps: record it unwrapped, or as sine and cosine"
            ]
    return []


def _share(places: NDArray[np.bool_]) -> str:
    count, total = int(places.sum()), len(places)
    return f"{count} of {total} frames ({100 * count / total:.2g} %)"


def _cure(name: str, spec: PolicySpec, i: int) -> str:
    """The setting that fits the range of dimension `i`; empty if it fits already."""
    if name == "state":
        return "" if spec.state.normalization == "min_max" else "state.normalization=min_max"
    for place, group in enumerate(spec.actions.groups):
        if i < group.size:
            least = spec.actions.clip is not None and spec.actions.clip < 1
            fits = group.normalization == "min_max" or least
            return "" if fits else f"actions.groups.{place}.normalization=min_max"
        i -= group.size
    return ""


def _constants(name: str, labels: Sequence[str], normalizer: Normalizer) -> list[str]:
    """One line for the constant dimensions."""
    known = normalizer.statistics
    assert known is not None
    still = [
        f"{label} ({known.min[i]:.6g})"
        for i, label in enumerate(labels)
        if known.constant(i) and normalizer.rules[i] != "none"
    ]
    if not still:
        return []
    return [f"{name} {', '.join(still)} never changes in the data: it is moved to 0, not scaled"]
