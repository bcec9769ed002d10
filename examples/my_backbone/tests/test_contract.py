"""The `my_backbone` backbone keeps wamkit's contract.

The import of wamkit.testing brings every contract test: true traits, attention by role, caching,
padding, gradients, saving and loading, bfloat16, and whole policies around each of PARTS.
"""

from __future__ import annotations

from typing import Any

import torch
from wamkit.interfaces.types import Frames, Text
from wamkit.testing import *  # noqa: F403
from wamkit.testing.parity import same_values

from wamkit_my_backbone import MyBackbone

PARTS = [MyBackbone()]

WORDS = Text(torch.zeros(1, 5, 4), torch.tensor([[True, True, True, False, False]]))
VIDEO = Frames(
    torch.zeros(1, 2, 3, 4, 4),
    ("context", "target", "target"),
    torch.arange(3.0),
    torch.tensor([[0, 0.5, 0.75]]),
)


def small() -> Any:
    sizes = {"depth": 1, "heads": 1, "head_size": 8, "latent_channels": 2, "text_width": 4}
    return MyBackbone(**sizes).build()


def test_words_are_tokens_before_those_of_the_video() -> None:
    x, segments, _ = small().embed(VIDEO, WORDS)
    assert x.shape == (1, 5 + 12, 8)
    assert [s[:2] for s in segments] == [("text", 5), ("context", 4), ("target", 8)]
    assert segments[0].valid is WORDS.valid


def test_other_tokens_are_placed_as_those_of_frames_are() -> None:
    model = small()
    _, _, ours = model.embed(VIDEO, WORDS)
    at = torch.cartesian_prod(VIDEO.times, torch.arange(2.0), torch.arange(2.0))
    theirs = model.place(VIDEO.sigma.repeat_interleave(4, 1), at, WORDS)
    for name in ("shift", "scale", "gate", "cos", "sin"):
        found, expected = getattr(theirs, name), getattr(ours, name)[..., 5:, :]
        same_values(found, expected)
