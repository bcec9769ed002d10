"""Statistics of actions and states, and the normalization of each dimension.

Relative constants: whether a dimension is constant is decided relative to its own values, never by
a threshold in physical units. It is constant if its smallest and its largest value are equal up to
rounding (`changes`): up to 4 units in the last place of float64, or adjacent float32 values.
Everything else is scaled to the full normalized range, micrometers like meters and kilometers. A
constant is not scaled; its value is moved to 0, and back when it is decoded.

Released systems use thresholds and epsilons of their own instead: a range below 1e-4 is constant
for Fast-WAM, whatever its unit. A policy with their weights sets them in `actions.scaling` and
`state.scaling` (`wamkit.config.robot.Scaling`), which are saved with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config.robot import Normalization, Scaling
from ..errors import WamkitError

MOST = 100_000
"""Largest size of an action or a state."""
ROUNDING = 4 * float(np.finfo(np.float64).eps)
HELD = 1e-8
"""Range of a constant that is held: what the network says changes it by no more."""
RELATIVE = Scaling()
"""The rule of relative constants."""


class Scale(NamedTuple):
    """A dimension is encoded to (value - center) / half, and decoded the other way."""

    center: float
    half: float
    decoded: float | None = None
    """The value of a constant that is kept: it decodes to this, whatever the network says."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of each dimension of a data set, all of the same length."""

    min: tuple[float, ...]
    max: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {name: len(values) for name, values in asdict(self).items()}
        if len(set(sizes.values())) > 1:
            raise WamkitError(f"statistics of unequal length: {sizes}", "compute them again")

    @staticmethod
    def of(values: Tensor) -> Statistics:
        """Exact statistics of values [..., A] over all leading axes."""
        flat = values.double().flatten(0, -2)
        q = torch.quantile(flat, torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0)
        rows = (flat.amin(0), flat.amax(0), flat.mean(0), flat.std(0, correction=0), q[0], q[1])
        return Statistics(*(tuple(row.tolist()) for row in rows))

    @staticmethod
    def parse(raw: Any, where: str) -> Statistics:
        """Statistics from plain data.

        Raises WamkitError if a row is missing, or not numeric, or impossible.
        """
        try:
            rows = {k: _values(raw[k], k) for k in Statistics.__dataclass_fields__}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise WamkitError(
                f"{where} holds no statistics: {error}", "it needs min, max, mean, std, q01 and q99"
            ) from None
        found = Statistics(**rows)
        if faults := list(_impossible(found)):
            more = f", and {len(faults) - 8} more" if len(faults) > 8 else ""
            raise WamkitError(
                f"{where} holds statistics that no data can have: {'; '.join(faults[:8])}{more}",
                "compute them again: `wamkit data stats DIR --spec SPEC --out FILE`",
            )
        return found

    def expect_finite(self, name: str) -> None:
        """Raise WamkitError if a value of the statistics of `name` is NaN or infinite."""
        for row, values in asdict(self).items():
            if not all(map(math.isfinite, values)):
                raise WamkitError(
                    f"statistics of {name} that are not finite: {row} is {list(values)}",
                    "compute them again: `wamkit data stats DIR --spec SPEC --out FILE`",
                )

    def constant(self, i: int) -> bool:
        """True if dimension `i` is constant in the data, by the rule of relative constants."""
        return not changes(self.min[i], self.max[i])

    def scale(self, i: int, rule: Normalization, scaling: Scaling = RELATIVE) -> Scale:
        """Center and half width of dimension `i` under a rule, constants treated by `scaling`.

        By default a constant is only moved to 0. Where the quantiles are equal and other values are
        rare, as of a button, the whole range takes their place; not if `scaling` states a threshold
        or an epsilon for ranges, because then the range is the stated one.
        """
        low, high = self.min[i], self.max[i]
        if rule == "none":
            return Scale(0.0, 1.0)
        if rule == "mean_std" and scaling.std_epsilon > 0:
            return Scale(self.mean[i], self.std[i] + scaling.std_epsilon)
        stated = max(scaling.constant_range, scaling.range_epsilon) > 0 and rule != "mean_std"
        if stated:
            if rule == "quantile":
                low, high = self.q01[i], self.q99[i]
            if high - low < scaling.constant_range:
                return _constant(low, high, scaling)
            half = (high - low + scaling.range_epsilon) / 2
            return Scale(low + half, half)
        if self.constant(i):
            return _constant(low, high, scaling)
        if rule == "mean_std" and self.std[i] > 0:
            return Scale(self.mean[i], self.std[i])
        if rule == "quantile" and changes(self.q01[i], self.q99[i]):
            low, high = self.q01[i], self.q99[i]
        return Scale(low / 2 + high / 2, high / 2 - low / 2)


def _constant(low: float, high: float, scaling: Scaling) -> Scale:
    """Center and half width of a constant dimension."""
    if scaling.constants == "keep":
        return Scale(0.0, 1.0, low)
    if scaling.constants == "hold":
        return Scale(low + HELD / 2, HELD / 2)
    return Scale(low if scaling.constants == "min" else low / 2 + high / 2, 1.0)


def _values(row: Any, name: str) -> tuple[float, ...]:
    """Convert a row of numbers. Raises TypeError for anything else, such as text and booleans."""
    if not isinstance(row, list | tuple) or not row or len(row) > MOST:
        raise TypeError(f"{name} is no list of 1 to {MOST:,} values")
    if bad := [value for value in row if type(value) not in (int, float)]:
        raise TypeError(f"{name} holds a {type(bad[0]).__name__}, expected numbers")
    return tuple(map(float, row))


def changes(low: float, high: float) -> bool:
    """Whether two values are apart by more than rounding.

    Adjacent float32 values are one value that was rounded twice, unless they count
    something.
    """
    if not high / 2 - low / 2 > ROUNDING / 2 * max(abs(low), abs(high)):
        return False
    with np.errstate(over="ignore"):
        near, far = np.float32(low), np.float32(high)
    if float(near) != low or float(far) != high or (low.is_integer() and high.is_integer()):
        return True
    beyond = np.nextafter(np.nextafter(near, np.float32(np.inf)), np.float32(np.inf))
    return bool(far > beyond)


def _impossible(found: Statistics) -> Iterator[str]:
    """Yield the faults of statistics."""
    for i in range(len(found.min)):
        row = {name: values[i] for name, values in asdict(found).items()}
        if bad := [name for name, value in row.items() if not math.isfinite(value)]:
            yield f"number {i} has {', '.join(f'{name} {row[name]}' for name in bad)}"
            continue
        if row["min"] > row["max"]:
            yield f"number {i} has min {row['min']:g} above max {row['max']:g}"
        elif row["q01"] > row["q99"]:
            yield f"number {i} has q01 {row['q01']:g} above q99 {row['q99']:g}"
        else:
            yield from _outside(i, row)
        if row["std"] < 0:
            yield f"number {i} has a negative std, {row['std']:g}"
        elif row["std"] == 0 and changes(row["min"], row["max"]):
            yield (
                f"number {i} has std 0, and goes from {row['min']:g} to {row['max']:g} all the same"
            )


def _outside(i: int, row: Mapping[str, float]) -> Iterator[str]:
    """Quantiles and a mean that are not between the smallest and the largest value."""
    low, high = row["min"], row["max"]
    slack = 1e-6 * max(abs(low), abs(high), high / 2 - low / 2)  # of sums in float32
    for name in ("q01", "q99", "mean"):
        if not low - slack <= row[name] <= high + slack:
            yield f"number {i} has {name} {row[name]:g}, which is not in {low:g} to {high:g}"


class Normalizer:
    """value -> (value - center) / half, each dimension by the rule of its group.

    min_max and quantile map their range to [-1, 1], mean_std to unit variance. A dimension that
    is constant in the data (`Statistics.constant`) is only shifted, or what `Scaling.constants`
    says. It is computed in float64, so that a small range far from 0 keeps its digits.
    """

    def __init__(
        self,
        rules: Sequence[Normalization],
        statistics: Statistics | None,
        clip: float | None = None,
        *,
        keeps_data: bool = False,
        scaling: Scaling = RELATIVE,
    ) -> None:
        """`clip` bounds normalized values; with `keeps_data` only those beyond the data.

        `scaling` says what is done about dimensions that hardly vary.
        """
        self.rules, self.statistics, self.clip = tuple(rules), statistics, clip
        rows = [Scale(0.0, 1.0)] * len(rules)
        if statistics is not None:
            rows = [statistics.scale(i, rule, scaling) for i, rule in enumerate(rules)]
        exact: dict[str, Any] = {"dtype": torch.float64}
        self.center = torch.tensor([row.center for row in rows], **exact)
        self.half = torch.tensor([row.half for row in rows], **exact)
        kept = [row.decoded is not None for row in rows]
        back = [(row.center, row.half) if row.decoded is None else (row.decoded, 0) for row in rows]
        self.decoder = torch.tensor(back, **exact).T if any(kept) else None
        """Center and half width for decoding, where they are others."""
        most = math.inf if clip is None else clip
        self.low, self.high = torch.full_like(self.half, -most), torch.full_like(self.half, most)
        if keeps_data and statistics is not None:
            ends = (torch.tensor(row, **exact) for row in (statistics.min, statistics.max))
            low, high = ((end - self.center) / self.half for end in ends)
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)

    def encode(self, values: Tensor) -> Tensor:
        """Physical [..., A] to normalized float32, within the bounds."""
        found = self._scaled(values)
        if self.clip is not None:
            found = found.clamp(*self._on(values, self.low, self.high))
        return found.float()

    def encode_unclipped(self, values: Tensor) -> Tensor:
        """Physical [..., A] to normalized float32, whatever the bounds."""
        return self._scaled(values).float()

    def _scaled(self, values: Tensor) -> Tensor:
        center, half = self._on(values, self.center, self.half)
        return (values.to(center.dtype) - center) / half

    def decode(self, values: Tensor) -> Tensor:
        """Normalized [..., A] to physical float32."""
        rows = (self.center, self.half) if self.decoder is None else self.decoder
        center, half = self._on(values, *rows)
        return (values.to(center.dtype) * half + center).float()

    def _on(self, values: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """Rows on the device of the values, in its most precise dtype."""
        device = values.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return tuple(row.to(device, dtype) for row in rows)
