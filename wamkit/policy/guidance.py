"""Classifier-free guidance as a function around the model, with a scale for each part.

velocity = without words + scale * (with words - without words), Ho and Salimans (arXiv 2207.12598).
Both are computed in one pass over a batch of twice the size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..engine.kv_cache import KVCache
from ..interfaces.paradigm import Model
from ..interfaces.types import PARTS, Frames, Memo, Scene, Text, Velocity
from .text_cache import stacked


def guided(model: Model, negative: Text, scales: Mapping[str, float]) -> Model:
    """A model whose velocities lean away from those under the words `negative` [B, L, width].

    Parts without a scale, or with scale 1, are those under the scene's own words. Where a scene has
    another number of samples, as copies of them have, all lean away from the first words.
    """
    texts: dict[int, tuple[Text, Text]] = {}
    memos: dict[int, tuple[Memo, Memo]] = {}

    def both(text: Text) -> Text:
        if id(text) not in texts:
            away, rows = negative, text.tokens.shape[0]
            if len(away.tokens) != rows:
                away = away.pick(torch.zeros(rows, dtype=torch.long, device=away.tokens.device))
            joined = stacked([text, away]).following(text.follows)
            extra = text.extra
            if extra is not None:
                other = away.extra if away.extra is not None else extra
                joined = replace(joined, extra=torch.cat([extra, other]))
            texts[id(text)] = (text, joined)
        return texts[id(text)][1]

    def twice(frames: Frames) -> Frames:
        new = frames.mapped(_twice)
        _, memo = memos.setdefault(id(frames.memo), (frames.memo, new.memo))
        object.__setattr__(new, "memo", memo)
        return new

    def run(scene: Scene, cache: KVCache | None = None, keep: Collection[str] = ()) -> Velocity:
        numbers = {
            part: noisy.mapped(_twice)
            for part in PARTS[1:]
            if (noisy := getattr(scene, part)) is not None
        }
        doubled = Scene(
            both(scene.text),
            None if scene.video is None else twice(scene.video),
            state=None if scene.state is None else _twice(scene.state),
            future=None if scene.future is None else twice(scene.future),
            **numbers,
        )
        found = model(doubled, cache=cache, keep=keep)
        if found.cache is not None:
            found.cache.branches = 2
        parts = {
            name: _lean(v, scales.get("video" if name == "future" else name, 1.0))
            for name in ("video", "future", *PARTS[1:])
            if (v := getattr(found, name)) is not None
        }
        return Velocity(**parts, cache=found.cache)

    return run


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])


def _lean(v: Tensor, scale: float) -> Tensor:
    """The guided velocity [B, ...] of one [2 B, ...], with words first."""
    with_words, without = v.chunk(2)
    return with_words if scale == 1 else without + scale * (with_words - without)
