"""Structured pruning: a narrower, shallower student from chosen blocks, heads and FFN units.

Efficient-WAM (arXiv 2606.10040, github.com/jiajun613/Efficient-WAM) prunes Wan 2.2 this way: it
keeps some blocks; evenly spaced heads, and the channels of the model's width at the same indexes;
and evenly spaced units of each feed-forward. Norms, modulation tables, embedders and time
projections (piece by piece) follow the width.

No family lists the meaning of its axes. They are inferred from the shapes of two changed
configurations, one with other heads and one with another feed-forward.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from ..config.parts import BackboneConfig
from ..errors import WamkitError

PUBLISHED = {"efficient-wam": (0, 1, 3, 5, 7, 10, 13, 16, 19, 22, 25, 29)}
"""Published choices of blocks, counted from 0."""

Shapes = Mapping[str, tuple[int, ...]]


def evenly_spaced(count: int, total: int) -> list[int]:
    """Choose `count` of `total` indexes, evenly spaced from the first to the last, rounded.

    Raises WamkitError unless 0 < `count` <= `total`.
    """
    if not 0 < count <= total:
        raise WamkitError(f"{count} cannot be chosen out of {total}", f"choose from 1 to {total}")
    return [round(float(x)) for x in torch.linspace(0, total - 1, count, dtype=torch.float64)]


def student_of(
    teacher: BackboneConfig, layers: Sequence[int], num_heads: int, mlp_dim: int
) -> BackboneConfig:
    """Return the configuration of the student, with `derived_from` set.

    Raises WamkitError if the family cannot be resized, or not to these sizes.
    """
    if not teacher.traits.mlp_dim:
        raise WamkitError(
            f"{teacher.name} cannot be resized", "choose a backbone whose feed-forward can be"
        )
    small = teacher.resized(layers, num_heads, mlp_dim)
    traits = teacher.traits
    label = " ".join(filter(None, (teacher.name, getattr(teacher, "variant", ""))))
    derived_from = (
        f"{teacher.weights or 'random weights'} of {label}: "
        f"blocks {', '.join(map(str, layers))} of "
        f"{traits.depth}, {num_heads} of {traits.num_heads} heads, {mlp_dim} of "
        f"{traits.mlp_dim} feed-forward units"
    )
    return small.model_copy(update={"derived_from": derived_from})


@torch.no_grad()
def prune_weights(
    teacher: nn.Module, config: BackboneConfig, layers: Sequence[int], num_heads: int, mlp_dim: int
) -> nn.Module:
    """Build the student and copy its weights from `teacher`, which was built from `config`.

    A tensor without a pruned axis is copied whole. A module may define `sinusoid_axes`, pairs of a
    regular expression for weights and an axis of theirs that reads a sinusoid as wide as the model:
    there the nearest frequencies are kept. Raises WamkitError if an axis shrinks for another reason
    than heads or feed-forward.
    """
    traits = config.traits
    plan = _PruningPlan(config, num_heads, mlp_dim)
    with torch.device("meta"):
        student: Any = config.resized(layers, num_heads, mlp_dim).build()
    names = _teacher_names(teacher, student, layers)
    source, state = teacher.state_dict(), {}
    sinusoids = getattr(teacher, "sinusoid_axes", ())
    for name, tensor in student.state_dict().items():
        kept = source[names(name)]
        for axis, size in enumerate(tensor.shape):
            if kept.shape[axis] != size:
                reads_sinusoid = any(re.search(p, name) and axis == at for p, at in sinusoids)
                index = plan.sinusoid_index() if reads_sinusoid else plan.index(names(name), axis)
                kept = kept.index_select(axis, torch.tensor(index))
        if kept.shape != tensor.shape:
            raise WamkitError(
                f"{name} would be {list(kept.shape)}, expected {list(tensor.shape)}",
                f"tell the authors of {config.name}: its `resized` changes more than it is given",
            )
        state[name] = kept.clone()
    student.load_state_dict(state, assign=True)
    assert len(student.blocks) == len(layers) <= traits.depth
    return student.train(teacher.training)  # type: ignore[no-any-return]


class _PruningPlan:
    """Which indexes of each axis of the teacher's weights are kept."""

    def __init__(self, config: BackboneConfig, num_heads: int, mlp_dim: int) -> None:
        t = config.traits
        self.num_heads, self.units = t.num_heads, t.mlp_dim
        group = t.num_heads // t.num_kv_heads
        groups = evenly_spaced(num_heads // group, t.num_kv_heads)
        chosen = [g * group + i for g in groups for i in range(group)]
        self.size = t.head_dim
        self.width = _head_channels(chosen, t.head_dim)
        self.key_width = _head_channels(groups, t.head_dim)
        self.forward = evenly_spaced(mlp_dim, t.mlp_dim)
        every = range(t.depth)
        other = next(n for n in range(t.num_heads - group, -1, -group) if n or t.num_heads == group)
        self.base = _shapes(config.resized(every, t.num_heads, t.mlp_dim))
        self.fewer = _shapes(config.resized(every, other or t.num_heads, t.mlp_dim))
        self.less = _shapes(config.resized(every, t.num_heads, max(1, t.mlp_dim - 1)))
        self.dropped = (t.num_heads - (other or t.num_heads)) * t.head_dim
        self.new = num_heads

    def index(self, name: str, axis: int) -> list[int]:
        """Return the indexes of one axis that are kept."""
        size = self.base[name][axis]
        per_width = Fraction(size - self.fewer[name][axis], self.dropped or 1)
        per_unit = size - self.less[name][axis]
        whole, units = self.num_heads * self.size, self.units
        rest = size - per_width * whole - per_unit * units
        if rest or not (per_width.denominator == 1 or per_width < 1):
            raise WamkitError(
                f"axis {axis} of {name} has size {size}, which is no sum of multiples of the width "
                f"{whole} and the feed-forward {units}",
                "this family cannot be pruned",
            )
        if per_width.denominator > 1:  # keys and values, of which there are fewer heads
            return self.key_width
        pieces = [(whole, self.width)] * int(per_width) + [(units, self.forward)] * per_unit
        found, start = [], 0
        for length, kept in pieces:
            found += [start + place for place in kept]
            start += length
        return found

    def sinusoid_index(self) -> list[int]:
        """Return the indexes of a sinusoid whose frequencies are nearest the student's.

        Cosines and sines are two halves; frequency i of n decreases with i / n.
        """
        old, new = self.num_heads * self.size // 2, self.new * self.size // 2
        half = [min(old - 1, round(i * old / new)) for i in range(new)]
        return [*half, *(old + i for i in half)]


def _head_channels(num_heads: Sequence[int], size: int) -> list[int]:
    return [head * size + i for head in num_heads for i in range(size)]


def _shapes(config: BackboneConfig) -> Shapes:
    with torch.device("meta"):
        state: Mapping[str, Tensor] = config.build().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _teacher_names(teacher: Any, student: Any, layers: Sequence[int]) -> Any:
    """Return a function from a name of the student's state to that of the teacher's."""
    old, new = ({id(m): name for name, m in x.named_modules()} for x in (teacher, student))
    moved = {
        f"{new[id(block)]}.": f"{old[id(teacher.blocks[layer])]}."
        for block, layer in zip(student.blocks, layers, strict=True)
    }

    def source(name: str) -> str:
        for here, there in moved.items():
            if name.startswith(here):
                return there + name[len(here) :]
        return name

    return source
