"""What the notebooks share: full and quick form, attention tables, animations, intervals.

The task itself, a dot that goes to a target, is in `examples/toy_task.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from wamkit.config.spec import PolicySpec
from wamkit.config.visibility import cacheable_subset
from wamkit.files.plots import attention_table
from wamkit.interfaces.types import base

sys.path.append(str(Path(__file__).parent.parent))  # where `toy_task` is

QUICK = os.environ.get("QUICK_NOTEBOOKS", "") == "1"
"""Whether notebooks run in their reduced form: a few steps, to see that they run."""
DENOISED = ("target", "action")
"""Roles that change from step to step, unless they are copies (`target'`)."""
VECTORS = ("state", "action")
"""Roles of tokens that stand for vectors."""
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantile of Student's t with n - 1 degrees of freedom, for n = 2, 3, ... 10 runs."""
GRAY, ORANGE, BLUE, GREEN = "#eeeeee", "#e69f00", "#0072b2", "#009e73"

Value = TypeVar("Value")


def full_or_quick(full: Value, quick: Value) -> Value:
    """`quick` where the environment variable QUICK_NOTEBOOKS is 1, else `full`."""
    return quick if QUICK else full


def roles_of(spec: PolicySpec) -> dict[str, int]:
    """role -> its number of tokens in self-attention, of the roles that have any."""
    tokens, text = spec.tokens(), spec.backbone.traits.text == "stream"
    counts = {role: tokens[base(role)] for role in spec.paradigm.sees if text or role != "text"}
    order = ("text", "context", "state", "target", "action")
    return {role: counts[role] for role in sorted(counts, key=lambda r: (order.index(base(r)), r))}


def cached_roles(spec: PolicySpec) -> list[str]:
    """The roles whose keys and values are computed once a chunk, and then kept."""
    roles = [role for role, count in roles_of(spec).items() if count]
    clean = [role for role in roles if role.endswith("'") or base(role) not in DENOISED]
    once = cacheable_subset(clean, spec.paradigm.sees, roles)
    return [role for role in roles if role in once]


def draw_attention_table(axis: Axes, spec: PolicySpec, title: str) -> None:
    """Who attends to whom, by role: a filled cell where the row attends to the column.

    Names of rows that are computed once a chunk are bold; the others change at every step.
    """
    roles = [role for role, count in roles_of(spec).items() if count]
    attention_table(axis, roles, spec.paradigm.sees, cell=0.2, bold=cached_roles(spec))
    axis.set_title(title, fontsize=10)


def draw_token_table(axis: Axes, spec: PolicySpec, title: str, color: str) -> None:
    """Who attends to whom, token by token; rows of states and actions are drawn in `color`.

    A head that only reads the video has no tokens that frames could attend to.
    """
    counts = {role: count for role, count in roles_of(spec).items() if count}
    ends = torch.tensor(list(counts.values())).cumsum(0).tolist()
    spans = {role: (end - counts[role], end) for role, end in zip(counts, ends, strict=True)}
    for row, (top, bottom) in spans.items():
        of_head = base(row) in VECTORS
        shade = color if of_head else BLUE
        for column in spec.paradigm.sees[row]:
            exposed = of_head or base(column) not in VECTORS or spec.action_head.exposes_tokens
            if column in spans and exposed:
                left, right = spans[column]
                axis.fill_between((left, right), top, bottom, color=shade, linewidth=0)
    for end in ends[:-1]:
        axis.axhline(end, color="white", linewidth=1.5)
        axis.axvline(end, color="white", linewidth=1.5)
    middles = [(low + high) / 2 for low, high in spans.values()]
    labels = [f"{role} {counts[role]}" for role in spans]
    axis.set(xlim=(0, ends[-1]), ylim=(ends[-1], 0), aspect="equal")
    axis.set_xticks(middles, labels, rotation=40, ha="left", fontsize=8)
    axis.set_yticks(middles, labels, fontsize=8)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_facecolor(GRAY)
    axis.set_title(title, fontsize=10)


def to_images(clips: Tensor) -> Tensor:
    """Clips [B, 3, T, h, w] in [-1, 1] as images [B, T, h, w, 3] uint8."""
    return ((clips.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1)


def side_by_side(left: Tensor, right: Tensor, samples: int = 4) -> Tensor:
    """Images [B, T, h, w, 3] of the first samples as film [T, 2 h, samples * w, 3].

    `left` fills the upper row, `right` the lower one.
    """
    rows = [torch.cat(list(x[:samples]), 2) for x in (left, right)]
    return torch.cat(rows, 1)


def show_gif(film: Tensor, *, scale: int = 4, milliseconds: int = 400) -> None:
    """Show images [T, h, w, 3] uint8 as an animation under the cell."""
    from IPython.core.getipython import get_ipython
    from IPython.display import Image as Shown
    from IPython.display import display

    nearest = Image.Resampling.NEAREST
    size = film.shape[2] * scale, film.shape[1] * scale
    first, *rest = [Image.fromarray(image.numpy()).resize(size, nearest) for image in film]
    made = BytesIO()
    options: dict[str, Any] = {"append_images": rest, "duration": milliseconds, "loop": 0}
    first.save(made, format="GIF", save_all=True, **options)
    if get_ipython() is not None:  # in a script there is no cell to show it under
        display(Shown(data=made.getvalue(), format="gif"))


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of 2 to 10 values, and half the width of its 95 % interval (Student's t)."""
    return mean(values), STUDENT_T[len(values) - 2] * stdev(values) / len(values) ** 0.5


def count_weights(module: torch.nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def find_dot(images: Tensor) -> Tensor:
    """Where the white dot is in images [..., h, w, 3] uint8: (x, y) in [0, 1], [..., 2].

    The center of what is white, by the smallest of the three colors, around the whitest pixel.
    """
    white = images.float().amin(-1)  # [..., h, w]
    height, width = white.shape[-2:]
    y, x = (torch.arange(n) for n in (height, width))
    peak = white.flatten(-2).argmax(-1)[..., None, None]
    apart = (y[:, None] - peak // width) ** 2 + (x - peak % width) ** 2
    weight = (white - 80).clamp(min=0.01) * (apart <= 9)
    total = weight.sum((-2, -1))
    places = [(weight * axis).sum((-2, -1)) / total for axis in (x[None, :], y[:, None])]
    return (torch.stack(places, -1) + 0.5) / torch.tensor([width, height])
