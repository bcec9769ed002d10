"""T5 and UMT5 behind wamkit's contract: transformers' models, and three ways to treat padding.

    padding      T5 sees       the backbone gets                          as in
    mask         real tokens   real tokens, the rest hidden               LTX-Video
    zeros        real tokens   real tokens, then zero vectors up to L     Cosmos-Predict2, Wan
    attended     all L tokens  all L of them                              FLUX.1

Sources: `ltx_video/pipelines/pipeline_ltx_video.py` in github.com/Lightricks/LTX-Video, which gives
T5 the mask (diffusers' LTX pipeline does not); diffusers' `Cosmos2VideoToWorldPipeline`,
`FluxPipeline` and `WanPipeline`; `wan/modules/t5.py` in github.com/Wan-Video/Wan2.1. Unlike there,
a prompt that is too long is an error, and text for UMT5 is not passed through ftfy, which changes
only broken encodings, curly quotes, ligatures and letters of unusual width.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import T5EncoderModel, UMT5EncoderModel

from wamkit.checkpoints.hf_text_encoder import encoding, load
from wamkit.config.pretrained import refuse_long
from wamkit.interfaces.types import Text

from . import Padding

MODELS = {"t5": T5EncoderModel, "umt5": UMT5EncoderModel}
"""`model_type` of a config.json -> the class of transformers."""


class T5Encoder(nn.Module):
    """A frozen T5 or UMT5 encoder, for prompts of up to `max_length` tokens."""

    trainable = False

    def __init__(
        self,
        model: T5EncoderModel | UMT5EncoderModel,
        tokenizer: Any,
        *,
        length: int,
        padding: Padding,
        files: str,
    ) -> None:
        """`files` identifies what the model and the tokenizer were read from."""
        super().__init__()
        self.model = model.requires_grad_(False)
        self.family: str = model.config.model_type
        self.tokenizer = tokenizer
        self.width: int = model.config.d_model
        self.length, self.padding, self.files = length, padding, files
        self.eval()

    @staticmethod
    def load(
        family: str, model: Path, tokenizer: Path, *, length: int, padding: Padding
    ) -> T5Encoder:
        """The encoder from two local folders. Raises WamkitError if files do not fit."""
        # A checkpoint of the whole model holds the decoder as well.
        unused = r"^(decoder|lm_head)\."
        made, tokenizer_made, files = load(MODELS[family], model, tokenizer, unused=unused)
        return T5Encoder(made, tokenizer_made, length=length, padding=padding, files=files)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever the policy does: the model has dropout."""
        return super().train(False)

    @encoding()
    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Text:
        """B prompts to [B, L, width].

        Raises WamkitError if one has more than `max_length` tokens.
        """
        device = self.model.shared.weight.device
        rows = [self._row(prompt) for prompt in prompts]
        whole, longest = self.padding in ("attended", "encoded"), max(map(len, rows))
        seen = self.length if whole else longest
        if self.padding == "zeros":
            seen = min(seen + 1, self.length)  # one zero vector stands for all of them
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (seen - len(row)) for row in rows], device=device)
        if self.padding == "attended":
            return Text(self.model(input_ids=ids).last_hidden_state)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        valid = torch.arange(seen, device=device) < lengths[:, None]  # [B, L]
        if self.padding == "encoded":
            found = self.model(input_ids=ids).last_hidden_state[:, :longest]
            valid = valid[:, :longest]
            return Text(found.masked_fill(~valid[..., None], 0), valid)
        found = self.model(input_ids=ids, attention_mask=valid.long()).last_hidden_state
        tokens = found.masked_fill(~valid[..., None], 0)  # [B, L, width]
        if self.padding == "mask":
            return Text(tokens, valid)
        repeats = valid.float()
        repeats[:, -1] += self.length - lengths
        return Text(tokens, repeats=repeats)

    def _row(self, prompt: str) -> list[int]:
        row: list[int] = self.tokenizer(clean(prompt, self.family)).input_ids
        refuse_long(prompt, len(row), self.length)
        return row

    def fingerprint(self) -> str:
        """A hash of the files the encoder was read from, of the length and of the padding."""
        facts = f"{self.family} {self.files} {self.length} {self.padding}"
        return hashlib.sha256(facts.encode()).hexdigest()


def clean(prompt: str, family: str) -> str:
    """`prompt` without white space around it, as T5 takes it.

    For UMT5 as Wan does: HTML entities are resolved, twice, and runs of white space are one space.
    """
    if family == "umt5":
        return " ".join(html.unescape(html.unescape(prompt)).split())
    return prompt.strip()
