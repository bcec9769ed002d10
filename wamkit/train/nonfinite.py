"""Weights, moments and averages of a run that are NaN or infinite: which, before they are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .processes import Processes, local_shard

KINDS = {
    "weight": "weight",
    "ema": "average",
    "exp_avg": "first moment of",
    "exp_avg_sq": "second moment of",
    "buffer": "buffer",
}
"""Prefix of tensor names -> description."""
LISTED = 4  # tensors that are named one by one


def not_finite(state: Mapping[str, Tensor], processes: Processes) -> list[str]:
    """Names of the tensors that hold NaN or infinity in any process, the same list in all.

    Every process calls it with the names in the same order. Makes one pass over all values, and
    synchronizes once. A buffer may hold infinity on purpose.
    """
    names = [name for name, x in state.items() if x.is_floating_point()]
    flags = torch.zeros(len(names), device=processes.device)
    looked: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for place, name in enumerate(names):
        value = local_shard(state[name])
        if value.numel():
            low, high = torch.aminmax(value)
            bad = torch.isnan(low)  # then so is the largest
            if not name.startswith("buffer/"):
                bad = ~(torch.isfinite(low) & torch.isfinite(high))
            looked.setdefault(bad.device, []).append((place, bad))
    for found in looked.values():
        places = torch.tensor([place for place, _ in found], device=processes.device)
        flags[places] = torch.stack([bad for _, bad in found]).to(flags)
    return [names[place] for place in processes.mean(flags).nonzero().flatten().tolist()]


def describe_tensors(names: Sequence[str]) -> str:
    """Describe tensors of a run: "weight backbone.out.bias, and 3 more"."""
    parts = []
    for name in names[:LISTED]:
        kind, _, rest = name.partition("/")
        parts.append(f"{KINDS.get(kind, kind)} {rest}")
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(parts) + more
