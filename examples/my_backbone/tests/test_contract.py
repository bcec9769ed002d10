"""The `my_backbone` backbone keeps wamkit's contract.

The import of wamkit.testing brings every contract test: true traits, attention by role, caching,
padding, gradients, saving and loading, bfloat16, and whole policies around each of PARTS.
"""

from __future__ import annotations

import torch
from wamkit.testing import *  # noqa: F403
from wamkit.types import Frames, Text

from wamkit_my_backbone import MyBackbone

PARTS = [MyBackbone()]


def test_words_are_tokens_before_those_of_the_video() -> None:
    config = MyBackbone(
        depth=1,
        heads=1,
        head_size=8,
        latent_channels=2,
        text_width=4,
    )
    roles = ("context", "target", "target")
    video = Frames(torch.zeros(1, 2, 3, 4, 4), roles, torch.arange(3.0), torch.zeros(1, 3))
    valid = torch.tensor([[True, True, True, False, False]])
    x, segments, _ = config.build().embed(video, Text(torch.zeros(1, 5, 4), valid))
    assert x.shape == (1, 5 + 12, 8)
    assert [s[:2] for s in segments] == [("text", 5), ("context", 4), ("target", 8)]
    assert segments[0].valid is valid
