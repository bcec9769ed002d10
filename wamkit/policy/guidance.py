"""Classifier-free guidance as a function around the model, with a scale for each modality.

velocity = without prompt + scale * (with prompt - without), Ho and Salimans (arXiv 2207.12598).
Both are computed in one pass over a batch of twice the size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..engine.kv_cache import KVCache
from ..interfaces.paradigm import Model
from ..interfaces.types import MODALITIES, ModelInputs, ModelOutput, Text
from .text_cache import stack_texts


def with_cfg(model: Model, negative: Text, scales: Mapping[str, float]) -> Model:
    """`model` with classifier-free guidance against the prompt `negative` [B, L, width].

    Modalities without a scale, or with scale 1, are not guided. If the inputs have another number
    of samples than `negative`, as several proposals have, its first row is repeated for all.
    """
    texts: dict[int, tuple[Text, Text]] = {}

    def combined_text(text: Text) -> Text:
        if id(text) not in texts:
            other, rows = negative, text.tokens.shape[0]
            if len(other.tokens) != rows:
                other = other.pick(torch.zeros(rows, dtype=torch.long, device=other.tokens.device))
            both = _concat_texts(text, other)
            # What follows from the two prompts is kept as long as each of them is.
            key = "with", id(negative.prompt_cache)
            kept = text.prompt_cache.setdefault(key, {"with": negative.prompt_cache})
            texts[id(text)] = (text, both.with_prompt_cache(kept))
        return texts[id(text)][1]

    def run(
        inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        vectors = {
            part: noisy.map_tensors(_repeat_batch)
            for part in MODALITIES[1:]
            if (noisy := getattr(inputs, part)) is not None
        }
        doubled = ModelInputs(
            combined_text(inputs.text),
            None if inputs.video is None else inputs.video.map_tensors(_repeat_batch),
            state=None if inputs.state is None else _repeat_batch(inputs.state),
            future=None if inputs.future is None else inputs.future.map_tensors(_repeat_batch),
            states=None if inputs.states is None else inputs.states.map_tensors(_repeat_batch),
            **vectors,
        )
        found = model(doubled, cache=cache, keep=keep)
        if found.cache is not None:
            found.cache.branches = 2
        parts = {
            name: cfg_combine(v, scales.get("video" if name == "future" else name, 1.0))
            for name in ("video", "future", *MODALITIES[1:])
            if (v := getattr(found, name)) is not None
        }
        return ModelOutput(**parts, cache=found.cache)

    return run


def _concat_texts(text: Text, other: Text) -> Text:
    """Two texts, one below the other."""
    joined = stack_texts([text, other])
    cond_embeds, suffix = text.cond_embeds, text.suffix
    if cond_embeds is not None:
        cond_embeds = torch.cat(
            [cond_embeds, other.cond_embeds if other.cond_embeds is not None else cond_embeds]
        )
    if suffix is not None:
        suffix = torch.cat([suffix, other.suffix if other.suffix is not None else suffix])
    return replace(joined, cond_embeds=cond_embeds, suffix=suffix, follows=text.follows)


def _repeat_batch(x: Tensor) -> Tensor:
    return torch.cat([x, x])


def cfg_combine(v: Tensor, scale: float) -> Tensor:
    """The guided velocity [B, ...] of one [2 B, ...], that under the prompt first."""
    with_prompt, without = v.chunk(2)
    return with_prompt if scale == 1 else without + scale * (with_prompt - without)
