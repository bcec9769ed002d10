"""The numbers of a scene as rows of tokens: whose they are, how noisy, and where they stand.

    [state] [state beside] a a a a a a [registers] [next state] [value]

Places count actions: 0 is the first of the chunk, -1 the state before it, N what comes of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from wamkit.acceleration.memo import Rung
from wamkit.engine.attention import Stream
from wamkit.engine.layers import constant
from wamkit.interfaces.types import PARTS, Piece, Scene, Segment

from .blocks import spread


class Row(NamedTuple):
    """Tokens of one kind in a row."""

    kind: str  # a part's name, or "registers"
    x: Tensor | None  # [B, n, A] what is encoded; None for learned tokens
    sigma: Tensor  # [B, n], or [B, 1] if they share a level
    roles: tuple[str, ...]  # n
    places: Tensor  # [n]
    rung: Rung | None  # where they share a level of a run


class Column(NamedTuple):
    """Noise levels of tokens in a row."""

    sigma: Tensor  # [B, G]
    rung: Rung | None  # where G is 1, and the level one of a run
    counts: list[int]  # how many tokens each of the G levels is for


@dataclass
class Tokens(Stream):
    """A stream that knows which of its tokens are whose."""

    spans: Mapping[str, slice]  # part -> the tokens that tell its velocity
    level: Tensor | None  # [B, S or 1, D] embedded noise levels, for a decoder that wants them


def rows(
    scene: Scene, known: Collection[str], *, chunk: int, state: str, registers: int
) -> Iterator[Row]:
    """The tokens of what is in `scene` and not `known`; settings are those of `Mot`.

    Steps of one role are of one chunk, or of several of `chunk` steps; each has registers, and a
    noisy state, of its own, so that chunks may pass together or one by one. These have the level of
    the chunk's last step, which is the noisy one where its beginning is already decided.
    """
    for piece in scene.pieces(known):
        if piece.part == "state":
            if state == "token":
                yield Row(*piece)
        elif piece.part == "action":
            beside = state == "noisy_token" and scene.state is not None
            chunks = list(_chunks(piece, chunk)) if beside or registers else []
            if beside and scene.state is not None:
                for part in chunks:
                    yield Row("state", scene.state[:, None], *_beside(part, -1, 1))
            yield Row(*piece)
            if registers:
                for part in chunks:
                    yield Row("registers", None, *_beside(part, len(part.roles), registers))
        else:
            given = scene.noisy(piece.part).times
            yield Row(*piece._replace(times=piece.times + chunk if given is None else given))


def _chunks(piece: Piece, chunk: int) -> Iterator[Piece]:
    """Each run of a role, cut after every `chunk` steps."""
    start = 0
    for _, run in groupby(piece.roles):
        end = start + len(list(run))
        for first in range(start, end, chunk):
            steps = slice(first, min(first + chunk, end))
            shared = piece.sigma.shape[1] == 1
            sigma = piece.sigma if shared else piece.sigma[:, steps]
            yield Piece(
                piece.part,
                piece.x[:, steps],
                sigma,
                piece.roles[steps],
                piece.times[steps],
                piece.rung,
            )
        start = end


def _beside(
    chunk: Piece, offset: int, count: int
) -> tuple[Tensor, tuple[str, ...], Tensor, Rung | None]:
    """Level, roles, places, rung of `count` tokens, `offset` places after a chunk's first step."""
    sigma = chunk.sigma if chunk.sigma.shape[1] == 1 else chunk.sigma[:, -1:]
    steps = constant(tuple(range(offset, offset + count)), chunk.times.dtype, chunk.times.device)
    return sigma, chunk.roles[:1] * count, chunk.times[0] + steps, chunk.rung


def segments(found: Sequence[Row]) -> tuple[Segment, ...]:
    """One segment for each run of a role."""
    roles = (role for row in found for role in row.roles)
    return tuple(Segment(role, len(list(run))) for role, run in groupby(roles))


def spans(found: Sequence[Row]) -> dict[str, slice]:
    """Where the tokens of each part to be denoised are."""
    places: dict[str, slice] = {}
    start = 0
    for row in found:
        if row.kind in PARTS:
            places[row.kind] = slice(start, start + len(row.roles))
        start += len(row.roles)
    return places


def levels(found: Sequence[Row]) -> list[Column]:
    """The noise levels of tokens in a row; rows after each other that share one share a column."""
    columns: list[Column] = []
    for row in found:
        shared, count = row.sigma.shape[1] == 1, len(row.roles)
        if shared and columns and columns[-1].sigma is row.sigma:
            columns[-1].counts[0] += count
        else:
            columns.append(Column(row.sigma, row.rung, [count] if shared else [1] * count))
    return columns


def for_tokens(parts: Sequence[Tensor], columns: Sequence[Column], axis: int) -> Tensor:
    """What was made of each column, with G entries on `axis`, as one for each token.

    A single entry for all tokens stays one; a batch of one serves all samples.
    """
    if len(parts) == 1:
        return spread(parts[0], columns[0].counts, axis)
    batch = max(len(part) for part in parts)
    each = []
    for part, column in zip(parts, columns, strict=True):
        shape = [-1] * part.ndim
        shape[0] = batch
        if part.shape[axis] == 1:
            shape[axis] = column.counts[0]
        each.append(spread(part, column.counts, axis).expand(shape))
    return torch.cat(each, axis)
