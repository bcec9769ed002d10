"""The vectors of a pass as groups of tokens: whose they are, how noisy, and where they stand.

    [state] [noisy state] a a a a a a [registers] [next state] [value]

Times count actions: 0 is the first of the chunk, -1 the state before it, N its result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby

from torch import Tensor

from wamkit.interfaces.types import ModelInputs, TokenGroup, slice_levels


def groups(
    inputs: ModelInputs, known: Collection[str], *, chunk: int, state: str, registers: int
) -> Iterator[TokenGroup]:
    """Token groups of the roles in `inputs` that are not `known`; settings are those of `Mot`.

    Steps of one role are of one chunk, or of several of `chunk` steps; each has registers, and a
    noisy state, of its own, so that chunks may pass together or one by one. These have the level of
    the chunk's last step, which is the noisy one where its beginning is already decided.
    """
    for group in inputs.groups(known):
        if group.modality == "state":
            if state == "token":
                yield group
        elif group.modality == "action":
            noisy_state = state == "noisy_token" and inputs.state is not None
            chunks = list(_chunks(group, chunk)) if noisy_state or registers else []
            if noisy_state and inputs.state is not None:
                for part in chunks:
                    yield _clean_group(part, "state", inputs.state[:, None], -1, 1)
            yield group
            if registers:
                for part in chunks:
                    yield _clean_group(part, "registers", None, len(part.roles), registers)
        else:
            given = inputs.noisy(group.modality).times
            later = tuple(time + chunk for time in group.times)
            yield group._replace(times=later if given is None else given)


def _chunks(group: TokenGroup, chunk: int) -> Iterator[TokenGroup]:
    """Each run of a role, cut after every `chunk` steps."""
    start = 0
    for _, run in groupby(group.roles):
        end = start + len(list(run))
        for first in range(start, end, chunk):
            steps = slice(first, min(first + chunk, end))
            level = slice_levels(group.level, steps)
            yield group._replace(level=level, roles=group.roles[steps], times=group.times[steps])
        start = end


def _clean_group(
    chunk: TokenGroup, modality: str, x: Tensor | None, offset: int, count: int
) -> TokenGroup:
    """A group of `count` tokens, the first at time `offset` of the chunk."""
    level = slice_levels(chunk.level, slice(-1, None))
    times = tuple(chunk.times[0] + offset + i for i in range(count))
    return TokenGroup(modality, x, level, chunk.roles[:1] * count, times)
