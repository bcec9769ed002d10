"""A narrower, shallower student out of a backbone's weights: chosen blocks, heads and units.

Efficient-WAM (arXiv 2606.10040, github.com/jiajun613/Efficient-WAM) cuts Wan 2.2 so: some blocks;
of the heads an evenly spaced choice, and of the model's width the numbers that stand where those
heads do; of each feed-forward an evenly spaced choice of units. Norms, modulation tables, embedders
and time projections (piece by piece) follow the width.

Which axis of a weight is which is not written down for any family: it is read off two changed
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
"""Choices of blocks that were published, counted from 0."""

Shapes = Mapping[str, tuple[int, ...]]


def evenly(count: int, total: int) -> list[int]:
    """`count` places out of `total`, evenly spaced from the first to the last, rounded.

    Raises WamkitError if there are not so many.
    """
    if not 0 < count <= total:
        raise WamkitError(f"{count} cannot be chosen out of {total}", f"choose from 1 to {total}")
    return [round(float(x)) for x in torch.linspace(0, total - 1, count, dtype=torch.float64)]


def student_of(
    teacher: BackboneConfig, layers: Sequence[int], num_heads: int, mlp_dim: int
) -> BackboneConfig:
    """The configuration of the student; it says where its weights come from.

    Raises WamkitError if the family cannot be resized, or not so.
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
    return small.model_copy(update={"origin": derived_from})


@torch.no_grad()
def sliced(
    teacher: nn.Module, config: BackboneConfig, layers: Sequence[int], num_heads: int, mlp_dim: int
) -> nn.Module:
    """The student's module, filled from `teacher`, which was built from `config`.

    A tensor without an axis that shrinks is copied. A module may carry `sinusoid_axes`, pairs of a
    regular expression for weights and an axis of theirs that reads a sinusoid as wide as the model:
    there the nearest frequencies stay. Raises WamkitError if an axis shrinks in a way
    that follows from neither heads nor feed-forward.
    """
    traits = config.traits
    plan = _Plan(config, num_heads, mlp_dim)
    with torch.device("meta"):
        student: Any = config.resized(layers, num_heads, mlp_dim).build()
    names = _places(teacher, student, layers)
    source, state = teacher.state_dict(), {}
    sinusoids = getattr(teacher, "sinusoid_axes", ())
    for name, tensor in student.state_dict().items():
        kept = source[names(name)]
        for axis, size in enumerate(tensor.shape):
            if kept.shape[axis] != size:
                waves = any(re.search(p, name) and axis == at for p, at in sinusoids)
                index = plan.waves() if waves else plan.index(names(name), axis)
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


class _Plan:
    """What every axis of a teacher's weights is made of, and which of its places stay."""

    def __init__(self, config: BackboneConfig, num_heads: int, mlp_dim: int) -> None:
        t = config.traits
        self.num_heads, self.units = t.num_heads, t.mlp_dim
        group = t.num_heads // t.num_kv_heads
        groups = evenly(num_heads // group, t.num_kv_heads)
        chosen = [g * group + i for g in groups for i in range(group)]
        self.size = t.head_dim
        self.width = _widened(chosen, t.head_dim)
        self.key_width = _widened(groups, t.head_dim)
        self.forward = evenly(mlp_dim, t.mlp_dim)
        every = range(t.depth)
        other = next(n for n in range(t.num_heads - group, -1, -group) if n or t.num_heads == group)
        self.base = _shapes(config.resized(every, t.num_heads, t.mlp_dim))
        self.fewer = _shapes(config.resized(every, other or t.num_heads, t.mlp_dim))
        self.less = _shapes(config.resized(every, t.num_heads, max(1, t.mlp_dim - 1)))
        self.dropped = (t.num_heads - (other or t.num_heads)) * t.head_dim
        self.new = num_heads

    def index(self, name: str, axis: int) -> list[int]:
        """The places of one axis that stay."""
        size = self.base[name][axis]
        per_width = Fraction(size - self.fewer[name][axis], self.dropped or 1)
        per_unit = size - self.less[name][axis]
        whole, units = self.num_heads * self.size, self.units
        rest = size - per_width * whole - per_unit * units
        if rest or not (per_width.denominator == 1 or per_width < 1):
            raise WamkitError(
                f"axis {axis} of {name} has {size} numbers, which are no pieces of the width "
                f"{whole} and of the feed-forward {units}",
                "this family cannot be sliced",
            )
        if per_width.denominator > 1:  # keys and values, of which there are fewer heads
            return self.key_width
        pieces = [(whole, self.width)] * int(per_width) + [(units, self.forward)] * per_unit
        found, start = [], 0
        for length, kept in pieces:
            found += [start + place for place in kept]
            start += length
        return found

    def waves(self) -> list[int]:
        """Of a sinusoid as wide as the model, those whose frequencies are nearest the narrow one's.

        Cosines and sines are two halves, frequency i of n falls with i / n.
        """
        old, new = self.num_heads * self.size // 2, self.new * self.size // 2
        half = [min(old - 1, round(i * old / new)) for i in range(new)]
        return [*half, *(old + i for i in half)]


def _widened(num_heads: Sequence[int], size: int) -> list[int]:
    return [head * size + i for head in num_heads for i in range(size)]


def _shapes(config: BackboneConfig) -> Shapes:
    with torch.device("meta"):
        state: Mapping[str, Tensor] = config.build().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _places(teacher: Any, student: Any, layers: Sequence[int]) -> Any:
    """A function from the name of a student's weight to that of the teacher's it comes from."""
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
