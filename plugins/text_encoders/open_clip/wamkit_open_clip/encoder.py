"""The text tower of a CLIP model, without its image side: prompts to one embedding a token.

Source: github.com/mlfoundations/open_clip (MIT), `transformer.py` and `tokenizer.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Literal, Self

import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import QuickGELU, TextTransformer
from torch import nn

from wamkit.errors import WamkitError
from wamkit.interfaces.types import Text


def text_tower(sizes: Mapping[str, Any], *, quick_gelu: bool) -> TextTransformer:
    """open_clip's text transformer with random weights, without the projection of the pooled token.

    The causal mask is no weight, so no file would fill it: it is real even on the meta device.
    """
    act_layer = QuickGELU if quick_gelu else nn.GELU
    tower = TextTransformer(**sizes, output_dim=None, act_layer=act_layer)
    if tower.attn_mask is not None:
        with torch.device("cpu"):
            tower.attn_mask = tower.build_causal_mask()
    return tower


def alike(tower: TextTransformer) -> TextTransformer:
    """The tower in its widest dtype, where a file mixes several: it computes in one alone."""
    held = {p.dtype for p in tower.parameters() if p.is_floating_point()}
    if len(held) < 2:
        return tower
    return tower.to(reduce(torch.promote_types, held))


class OpenCLIPEncoder(nn.Module):
    """A frozen CLIP text tower; L is the length of the longest prompt of a batch.

    The tower sees its padding as in its training; attention after it does not, `valid` ends with
    the end-of-text token.
    """

    trainable = False

    def __init__(self, tower: TextTransformer, layer: Literal["last", "penultimate"]) -> None:
        super().__init__()
        self.tower: TextTransformer = tower.requires_grad_(False)
        self.layer = layer
        self.width: int = tower.width
        self.length: int = tower.context_length
        self.tokenizer = SimpleTokenizer(context_length=self.length)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever the policy does."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Text:
        """B prompts to [B, L, width]. Raises WamkitError if one has more tokens than L."""
        device = self.tower.token_embedding.weight.device
        rows = [self._row(prompt) for prompt in prompts]
        ids = torch.tensor([row + [0] * (self.length - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        found = self.tower.forward_intermediates(
            ids,
            indices=[{"last": -1, "penultimate": -2}[self.layer]],
            stop_early=True,
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NLC",
        )
        longest = max(map(len, rows))
        valid = torch.arange(longest, device=device) < lengths[:, None]  # [B, L]
        return Text(found["text_intermediates"][0][:, :longest], valid)

    def _row(self, prompt: str) -> list[int]:
        token_ids = self.tokenizer.encode(prompt)
        row = [self.tokenizer.sot_token_id, *token_ids, self.tokenizer.eot_token_id]
        if len(row) > self.length:
            raise WamkitError(
                f"the prompt {prompt!r} has {len(row)} tokens, this CLIP model takes at most "
                f"{self.length}",
                "shorten the prompt or text_encoder.prompt_template",
            )
        return row

    def fingerprint(self) -> str:
        """A hash of every weight, of the activation and of the layer that is taken."""
        activation = type(self.tower.transformer.resblocks[0].mlp.gelu).__name__
        facts = f"open_clip {self.layer} {self.length} {self.tower.heads} {activation}"
        digest = hashlib.sha256(facts.encode())
        for tensor in self.tower.state_dict().values():
            digest.update(tensor.cpu().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
