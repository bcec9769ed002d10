"""Systems of examples/ with random weights, drawn on the device where they are to run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import wamkit
from wamkit.config.spec import parse, read
from wamkit.interfaces.types import Text
from wamkit.policy.policy import Policy
from wamkit.policy.text_cache import TextEmbeddingCache

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT_TOKENS = 16  # of an instruction; a T5 tokenizer makes about so many of a sentence
SMALL = 0.02  # standard deviation of what is zero at the start of training


class RandomTextEncoder(nn.Module):
    """In place of a published text encoder: random words for any instruction, padded as it pads."""

    trainable = False

    def __init__(self, width: int, length: int, padding: str) -> None:
        """`padding` is "zeros", "mask" or "attended", as in the encoders' own settings."""
        super().__init__()
        self.width, self.length, self.padding = width, length, padding
        count = length if padding == "attended" else min(TEXT_TOKENS, length - 1)
        self.text_tokens = nn.Parameter(torch.randn(1, count, width), requires_grad=False)

    def encode(self, prompts: Sequence[str]) -> Text:
        """B prompts to the same words [B, L, width]; zeros are one word that counts for all."""
        text_tokens = self.text_tokens.expand(len(prompts), -1, -1)
        if self.padding != "zeros":
            return Text(text_tokens)
        repeats = text_tokens.new_ones(text_tokens.shape[:2])
        rest = repeats.new_full((len(prompts), 1), self.length - text_tokens.shape[1])
        return Text(
            nn.functional.pad(text_tokens, (0, 0, 0, 1)), repeats=torch.cat([repeats, rest], 1)
        )

    def fingerprint(self) -> str:
        """What it gives follows from these."""
        return f"random words {self.width} {self.length} {self.padding}"


def build(name: str, device: str, *, tiny: bool) -> Policy:
    """The composition of an example with random weights, and words without an encoder's files."""
    raw = dict(read(EXAMPLES / f"{name}.toml"))
    text = parse(raw, name).text_encoder
    padding = getattr(text, "padding", "mask")
    raw["text_encoder"] = {
        "name": "bytes",
        "max_length": text.max_tokens - 1,
        "embedding": text.width,
    }
    if raw["action_head"].get("init") == "from_backbone":
        raw["action_head"] = raw["action_head"] | {"init": "random"}
    with torch.device(device):  # random weights are drawn where they are needed
        policy = wamkit.build(raw, tiny=tiny, device=device)
        text = policy.spec.text_encoder
        text_tokens = RandomTextEncoder(text.width, text.max_tokens, padding)
    policy.text_encoder, policy.text_embeddings = text_tokens, TextEmbeddingCache(text_tokens)
    return randomize(policy)


@torch.no_grad()
def randomize(policy: Policy) -> Policy:
    """`policy` without weights that are zero before training: they would hide what is behind."""
    for weight in policy.parameters():
        if not weight.any():
            weight.normal_(std=SMALL)
    return policy


def largest(difference: float) -> float:
    """What to sort differences by: one that is no number is larger than all."""
    return math.inf if math.isnan(difference) else difference


def apart(x: Tensor, reference: Tensor) -> float:
    """|x - reference| / |reference|, in float32."""
    x, reference = x.detach().float().cpu(), reference.detach().float().cpu()
    return float((x - reference).norm() / reference.norm())
