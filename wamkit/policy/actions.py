"""Conversion between physical units and normalized values: groups, normalization, clipping.

Statistics are plain values that are saved with the policy; without them values pass unchanged.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..config.robot import ActionConfig, Normalization, StateConfig
from ..errors import WamkitError
from ..files import strict_json
from ..files.placeholders import refuse_placeholder
from .normalization import Normalizer, Statistics

__all__ = ["ActionSpace", "Normalizer", "StateSpace", "Statistics", "read_statistics"]

AGAIN = "copy it again, or compute it: `wamkit data stats DIR --spec SPEC --out FILE`"
MOST_BYTES = 2**24
"""The largest file of statistics that is read: 16 MiB."""


class ActionSpace:
    """Converts physical actions to the normalized ones that the network denoises, and back."""

    def __init__(self, config: ActionConfig, statistics: Statistics | None = None) -> None:
        self.config = config
        self.names = tuple(
            f"{g.name}.{i}" if g.size > 1 else g.name for g in config.groups for i in range(g.size)
        )
        if statistics is not None and len(statistics.min) != config.size:
            raise WamkitError(
                f"statistics of {len(statistics.min)} values for actions of {config.size}",
                "compute them on this robot's data",
            )
        rules: list[Normalization] = [g.normalization for g in config.groups for _ in range(g.size)]
        self.normalizer = Normalizer(rules, statistics, config.clip, scaling=config.scaling)
        pairs = []  # of an action's number and the state's number that it is relative to
        start = 0
        for g in config.groups:
            if g.kind == "relative" and g.state is not None:
                pairs += [(start + i, g.state + i) for i in range(g.size)]
            start += g.size
        self._relative = pairs
        self.executed = list(config.executed)
        """Indices of the values that the robot gets."""
        self._delta = torch.tensor(
            [g.kind == "delta" for g in config.groups for _ in range(g.size)]
        )

    @property
    def statistics(self) -> Statistics | None:
        """Of the encoded quantity: for relative groups, of action minus state."""
        return self.normalizer.statistics

    def relative(self, actions: Tensor, state: Tensor | None) -> Tensor:
        """Actions [B, N, A], relative groups less the state [B, P]: what statistics are of."""
        return self._shift(actions, state, -1.0)

    def absolute(self, actions: Tensor, state: Tensor) -> Tensor:
        """Actions [B, N, A] whose relative groups are differences to the state [B, P], as targets.

        The inverse of `relative`.
        """
        return self._shift(actions, state, 1.0)

    def encode(
        self, actions: Tensor, state: Tensor | None, step_valid: Tensor | None = None
    ) -> Tensor:
        """Physical actions [B, N, A] to normalized ones; padded delta steps stand still.

        Relative groups are relative to the state [B, P], or each of n chunks to its own [B, n, P].
        """
        if step_valid is not None and bool(self._delta.any()):
            still = ~step_valid[..., None] & self._delta.to(actions.device)
            actions = actions.masked_fill(still, 0.0)
        return self.normalizer.encode(self._shift(actions, state, -1.0))

    def encode_executed(self, actions: Tensor, state: Tensor | None) -> Tensor:
        """As `encode`, of actions that a robot made; cut only if `actions.clip_executed`."""
        if self.config.clip_executed:
            return self.encode(actions, state)
        return self.normalizer.encode_unclipped(self._shift(actions, state, -1.0))

    def decode(self, values: Tensor, state: Tensor | None) -> Tensor:
        """Normalized actions [B, N, A] to physical ones."""
        return self._shift(self.normalizer.decode(values), state, 1.0)

    def to_robot(self, values: Tensor, state: Tensor | None) -> tuple[Tensor, tuple[str, ...]]:
        """As `decode`, without what is predicted besides; and the names of what is left."""
        actions = self.decode(values, state)
        if len(self.executed) == self.config.size:
            return actions, self.names
        return actions[..., self.executed], tuple(self.names[i] for i in self.executed)

    def _shift(self, actions: Tensor, state: Tensor | None, sign: float) -> Tensor:
        if not self._relative:
            return actions
        if state is None:
            raise WamkitError("relative actions need the state", "pass state=...")
        ours, theirs = zip(*self._relative, strict=True)
        moved = actions.clone()
        felt = state[:, None] if state.ndim == 2 else state  # [B, n, P] of n chunks
        felt = felt[..., list(theirs)].to(actions)
        moved[..., list(ours)] += sign * felt.repeat_interleave(
            actions.shape[1] // felt.shape[1], 1
        )
        return moved


class StateSpace:
    """Converts the robot's state to the normalized one that the network reads.

    Without `state.clip`, values within the range of the data are never clipped, and others are
    clipped to +-`LIMIT`, or as far from 0 as the data go.
    """

    LIMIT = 5.0

    def __init__(self, config: StateConfig, statistics: Statistics | None = None) -> None:
        self.config = config
        if statistics is not None and len(statistics.min) != config.size:
            raise WamkitError(
                f"statistics of {len(statistics.min)} values for a state of {config.size}",
                "compute them on this robot's data",
            )
        rules = [config.normalization] * config.size
        limit = self.LIMIT if config.clip is None else config.clip
        keeps_data = config.clip is None
        self.normalizer = Normalizer(
            rules, statistics, limit, keeps_data=keeps_data, scaling=config.scaling
        )

    def encode(self, state: Tensor) -> Tensor:
        """Physical [B, P] to normalized. Raises WamkitError if P is another size."""
        if state.shape[-1] != self.config.size:
            raise WamkitError(
                f"the state has {state.shape[-1]} values, this policy expects {self.config.size}",
                f"pass {self.config.size} values, or train a policy with state.size = "
                f"{state.shape[-1]}",
            )
        return self.normalizer.encode(state)


def read_statistics(path: str | Path) -> dict[str, Statistics]:
    """`action` and `state` statistics from a JSON file."""
    file = Path(path)
    refuse_placeholder(file)
    raw = strict_json.read(file, AGAIN, most=MOST_BYTES)
    if not isinstance(raw, dict):
        raise WamkitError(
            f"{file} holds a {type(raw).__name__}, not a table of action and state", AGAIN
        )
    if others := [name for name in raw if name not in ("action", "state")]:
        raise WamkitError(
            f"{file} holds statistics of {ascii(others[0])[:60]}, expected action and state", AGAIN
        )
    return {name: Statistics.parse(table, f"{file}: {name}") for name, table in raw.items()}
