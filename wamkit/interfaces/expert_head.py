"""Shared attention: an action head with a separate token stream."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from functools import cache as compute_once
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config.visibility import LayerVisibility
from ..engine.attention import Segment, Stream
from ..engine.kv_cache import KVCache
from ..engine.levels import LevelTable
from ..engine.passes import PassRunner
from .action_head import ActionHead, cat_tokens, is_prefill
from .backbone import Backbone, Stack
from .streams import all_streams, embed_videos, velocities
from .types import MODALITIES, ModelInputs, ModelOutput, TokenGroup


class ExpertHead(ActionHead):
    """Shared attention: the head is a separate stream with one block per backbone block.

    All methods are pure: the engine decides how often they run.
    """

    @abstractmethod
    def stack(self, backbone: Backbone) -> Stack:
        """The stack of the tokens: as many blocks as the backbone, None for skipped layers."""

    def token_groups(self, inputs: ModelInputs, known: Collection[str]) -> list[TokenGroup]:
        """The token groups of a pass, without the roles `known`, which are cached."""
        return inputs.groups(known)

    def token_times(self, groups: Sequence[TokenGroup]) -> Sequence[float]:
        """The time of each token on the backbone's axis of latent frames [S]."""
        return [time for group in groups for time in group.times]

    def place_tokens(self, stack: Stack, groups: Sequence[TokenGroup], device: torch.device) -> Any:
        """Positions of the tokens for the blocks of their stack."""
        return stack.embed_positions(self.token_positions(groups, device))

    def token_positions(self, groups: Sequence[TokenGroup], device: torch.device) -> Tensor:
        """Where the tokens stand on the backbone's axes [S, 3 or more] float64.

        By default at their times, outside the rows and columns of any image.
        """
        times = torch.tensor(self.token_times(groups), dtype=torch.float64, device=device)
        off = torch.full_like(times, -1)
        return torch.stack([times, off, off], -1)

    def embed_times(self, groups: Sequence[TokenGroup], device: torch.device) -> Tensor | None:
        """Additive position embedding [S, D] of the tokens; None for none."""
        return None

    def embed_levels(self, sigmas: Tensor) -> Tensor | None:
        """Noise levels [R] in [0, 1] for the head's encoders and decoders: [R, ...] or None.

        Override this where they depend on the levels alone, else `final_levels`.
        """
        return None

    def final_levels(
        self, stack: Stack, sigmas: Tensor, embed_sigmas: Callable[[], Any]
    ) -> Tensor | None:
        """As `embed_levels`, where encoders and decoders read what the stack makes of the levels.

        Args:
            stack: The stack of the tokens.
            sigmas: Noise levels [R] in [0, 1].
            embed_sigmas: Returns `stack.embed_sigma(sigmas)`, computed once for the blocks too.

        Returns:
            [R, ...], or None if encoders and decoders read no level.
        """
        return self.embed_levels(sigmas)

    def final_norm(self, backbone: Backbone, x: Tensor, level: Any) -> Tensor:
        """Final tokens [B, n, D] of a group before they are decoded."""
        return x

    @abstractmethod
    def embed_tokens(self, group: TokenGroup, inputs: ModelInputs, level: Any) -> Tensor:
        """Tokens [B, n, D] of a group; `level` is rows [B or 1, n or 1, ...] of `embed_levels`."""

    @abstractmethod
    def decode_tokens(self, modality: str, x: Tensor, level: Any) -> Tensor:
        """Final tokens [B, n, D] of a modality to its velocity [B, n, A]."""

    def join(
        self,
        runner: PassRunner,
        backbone: Backbone,
        inputs: ModelInputs,
        sees: LayerVisibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> ModelOutput:
        """One forward pass with shared attention of the head's and the backbone's streams."""
        prefill = is_prefill(inputs, keep)
        videos = embed_videos(runner, backbone, inputs, cache)
        own = self._stream(runner, backbone, inputs, cache.roles if cache is not None else ())
        streams = all_streams(videos)
        if own is not None:
            streams.append(own.stream)
        tokens, kept = runner.run(
            streams, sees, attend=backbone.attend, cache=cache, keep=keep, prefill=prefill
        )
        if prefill:
            return ModelOutput(cache=kept)
        found = {} if own is None else self._decode_outputs(backbone, own, tokens[-1])
        return ModelOutput(**velocities(backbone, videos, tokens), **found, cache=kept)

    def _stream(
        self, runner: PassRunner, backbone: Backbone, inputs: ModelInputs, known: Collection[str]
    ) -> _Tokens | None:
        groups = self.token_groups(inputs, known)
        if not groups:
            return None
        stack, device = self.stack(backbone), inputs.text.tokens.device
        batch = inputs.text.tokens.shape[0]
        parts = [(group.level, len(group.roles)) for group in groups]
        levels = LevelTable.of(parts, batch, device)
        embed = compute_once(lambda: stack.embed_sigma(levels.sigmas))
        rows = runner.level_rows(self, lambda x: self.final_levels(stack, x, embed), levels)
        lengths = [len(group.roles) for group in groups]
        each = [None] * len(groups) if rows is None else _split(rows, lengths)
        found = [
            self.embed_tokens(group, inputs, row) for group, row in zip(groups, each, strict=True)
        ]
        x = found[0] if len(found) == 1 else torch.cat([y.expand(batch, -1, -1) for y in found], 1)
        layout = tuple((group.modality, group.roles, group.times) for group in groups), device

        def place() -> tuple[Tensor | None, Any]:
            return self.embed_times(groups, device), self.place_tokens(stack, groups, device)

        added, rotary = runner.get_or_compute((self, stack, "positions", layout), place)
        if added is not None:
            x = x + added.to(x.dtype)
        blocks = tuple(stack.blocks)
        text = inputs.text
        pooled = (
            text.cond_embeds[:, 0] if stack.reads_pooled and text.cond_embeds is not None else None
        )
        modulation, index = runner.modulation(stack, blocks, "blocks", levels, pooled, text, embed)
        cond, text_kv = None, None
        if not (isinstance(stack, Backbone) and stack.traits.text == "stream"):
            cond, text_kv = runner.text(stack.text_stack, blocks, text)
        segments = _segments(groups)
        stream = Stream(blocks, x, segments, index, modulation, rotary, text_kv, cond)
        return _Tokens(stream, groups, each)

    def _decode_outputs(self, backbone: Backbone, own: _Tokens, x: Tensor) -> dict[str, Tensor]:
        parts = x.split([len(group.roles) for group in own.groups], 1)
        found: dict[str, list[tuple[Tensor, Any]]] = {}
        for group, part, row in zip(own.groups, parts, own.levels, strict=True):
            if group.modality in MODALITIES:
                part = self.final_norm(backbone, part, row)
                found.setdefault(group.modality, []).append((part, row))
        return {
            name: cat_tokens([self.decode_tokens(name, part, row) for part, row in pieces])
            for name, pieces in found.items()
        }


class _Tokens(NamedTuple):
    """A head's stream, and the group of each token."""

    stream: Stream
    groups: Sequence[TokenGroup]
    levels: Sequence[Any]  # of each group, rows of `embed_levels`


def _split(rows: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Rows [B or 1, S or 1, ...] for each group of tokens."""
    return [rows] * len(lengths) if rows.shape[1] == 1 else list(rows.split(list(lengths), 1))


def _segments(groups: Sequence[TokenGroup]) -> tuple[Segment, ...]:
    """One segment for each run of a role, and one for each group that has a mask."""
    found: list[Segment] = []
    for group in groups:
        for role, count in _runs(group.roles):
            last = found[-1] if found else None
            plain = last is not None and last.mask is None and group.mask is None
            if plain and last is not None and last.role == role:
                found[-1] = Segment(role, last.length + count)
            else:
                found.append(Segment(role, count, group.mask))
    return tuple(found)


@lru_cache
def _runs(roles: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Roles that follow each other, and how often each does."""
    return tuple((role, len(list(run))) for role, run in groupby(roles))
