"""Do imagined futures depend on the action as the real ones do? Metrics of the package wamprobe.

From one state several actions lead to several futures, imagined and real; each future is a vector,
of pixels or of state. The definitions are wamprobe's: `action_dependence`, the permutation test,
`counterfactual_direction_accuracy`, `state_fde` and `candidate_ranking_correlation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]

PERMUTATIONS = 128


@dataclass(frozen=True)
class Point:
    """A vector with the operations that wamprobe's metrics use."""

    x: Vectors

    def __sub__(self, other: Point) -> Point:
        return Point(self.x - other.x)

    def norm(self) -> float:
        """Euclidean length."""
        return float(np.linalg.norm(self.x))

    def dot(self, other: Point) -> float:
        """Inner product."""
        return float(self.x @ other.x)


@dataclass(frozen=True)
class _Start:
    position: Point


@dataclass(frozen=True)
class _End:
    states: tuple[Point, ...]

    @property
    def final_state(self) -> Point:
        return self.states[-1]


def response(start: Vectors, imagined: Vectors, real: Vectors, seed: int = 0) -> dict[str, float]:
    """How K imagined futures [K, D] from `start` [D] respond to the action, against real ones.

    separation: mean distance of imagined futures from each other, as a share of that of real ones,
        at most 1; 0 if every action imagines the same
    direction: mean cosine of imagined and real displacement from the start, -1 to 1
    geometry: correlation of the distances between imagined futures with those between real ones
    p_value: share of assignments of imagined futures to actions with as high a correlation
    error, still: root mean square error of the imagined future, and of no change at all
    """
    from wamprobe.metrics import (
        action_dependence,
        action_dependence_permutation_vectors,
        counterfactual_direction_accuracy,
        state_fde,
    )

    count, size = imagined.shape
    both = _coordinates(np.concatenate([imagined, real]) - start)
    imagined, real, start = both[:count], both[count:], np.zeros(both.shape[1])
    samples: Any = [
        (_Start(Point(start)), _End((Point(ours),)), _End((Point(theirs),)))
        for ours, theirs in zip(imagined, real, strict=True)
    ]
    still: Any = [(begin, _End((Point(start),)), end) for begin, _, end in samples]
    tested = action_dependence_permutation_vectors(
        predicted_endpoints=imagined.tolist(),
        truth_endpoints=real.tolist(),
        permutations=PERMUTATIONS,
        seed=seed,
    )
    return {
        "separation": action_dependence([samples]),
        "direction": counterfactual_direction_accuracy(samples),
        "geometry": tested.observed,
        "p_value": tested.p_value,
        "error": state_fde(samples) / size**0.5,
        "still": state_fde(still) / size**0.5,
    }


def ranking(predicted: Mapping[str, float], real: Mapping[str, float]) -> dict[str, float]:
    """How the predicted scores of actions order them, against the real scores.

    regret: real score lost by taking the action with the highest predicted score
    """
    from wamprobe.metrics import candidate_ranking_correlation

    found = candidate_ranking_correlation(predicted, real)
    chosen = max(predicted, key=predicted.__getitem__)
    return {
        "spearman": found.spearman,
        "pairwise": found.pairwise_preference_accuracy,
        "regret": max(real.values()) - real[chosen],
    }


def over_contexts(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """metric -> mean over states and its bootstrap interval of 95 %, by wamprobe."""
    from wamprobe.stats import summarize

    found = {}
    for name in rows[0]:
        made = summarize([row[name] for row in rows])
        interval = made.confidence_interval
        both = [interval.lower, interval.upper]
        found[name] = {"mean": made.mean, "interval_95": both if len(rows) > 1 else None}
    return found


def _coordinates(vectors: Vectors) -> Vectors:
    """The vectors [N, D] in at most N coordinates, with the same lengths and inner products."""
    left, scale, _ = np.linalg.svd(vectors, full_matrices=False)
    return np.asarray(left * scale)
