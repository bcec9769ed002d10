"""UMT5 as Wan's text encoder: transformers' model behind wamkit's contract, padding rule included.

Rules as in github.com/Wan-Video/Wan2.1 `wan/modules/t5.py` and diffusers' `WanPipeline`:

    clean the prompt -> tokens, </s> -> pad to L, with a mask -> UMT5 -> padding replaced by zeros

and the video attends to all L places. All padding being the same zero vector, one of it that counts
for all gives attention the same result: L falls from 512 to the real tokens and one.

Unlike there, a prompt that is too long is an error, and text is not passed through ftfy, which
changes only broken encodings, curly quotes, ligatures and letters of unusual width.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import nn
from transformers import UMT5EncoderModel

from wamkit.pretrained import refuse_long
from wamkit.transformers_files import encoding, load
from wamkit.types import Text


class UMT5Encoder(nn.Module):
    """A frozen UMT5 encoder, for prompts of up to `length` tokens.

    `padding` is "zeros" (zero vectors up to `length` that attention may look at; one of them stands
    for all, with their number in `Text.copies`) or "mask" (hidden from attention).
    """

    trainable = False

    def __init__(
        self,
        model: UMT5EncoderModel,
        tokenizer: Any,
        *,
        length: int,
        padding: Literal["zeros", "mask"],
        files: str,
    ) -> None:
        """`files` identifies what the model and the tokenizer were read from."""
        super().__init__()
        self.model: UMT5EncoderModel = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.width: int = model.config.d_model
        self.length, self.padding, self.files = length, padding, files
        self.eval()

    @staticmethod
    def load(
        model: Path, tokenizer: Path, *, length: int, padding: Literal["zeros", "mask"]
    ) -> UMT5Encoder:
        """The encoder and the tokenizer in two local folders, in the dtype they were saved in."""
        made, words, files = load(UMT5EncoderModel, model, tokenizer)
        return UMT5Encoder(made, words, length=length, padding=padding, files=files)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever the policy does: UMT5 has dropout."""
        return super().train(False)

    @encoding()
    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Text:
        """B prompts to [B, L, width]. Raises WamkitError if one has more than `length` tokens."""
        device = self.model.shared.weight.device
        rows = [self._row(prompt) for prompt in prompts]
        most, pad = max(len(row) for row in rows), self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (most - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        valid = torch.arange(most, device=device) < lengths[:, None]  # [B, L]
        found = self.model(input_ids=ids, attention_mask=valid.long()).last_hidden_state
        tokens = found.masked_fill(~valid[..., None], 0)  # [B, L, width]
        if self.padding == "mask":
            return Text(tokens, valid)
        tokens = torch.nn.functional.pad(tokens, (0, 0, 0, 1))  # the zero that stands for padding
        copies = torch.nn.functional.pad(valid.float(), (0, 1))
        copies[:, -1] = self.length - lengths
        return Text(tokens, copies=copies)

    def _row(self, prompt: str) -> list[int]:
        row: list[int] = self.tokenizer(clean(prompt)).input_ids
        refuse_long(prompt, len(row), self.length)
        return row

    def fingerprint(self) -> str:
        """A hash of the files the encoder was read from, of the length and of the padding."""
        facts = f"umt5 {self.files} {self.length} {self.padding}"
        return hashlib.sha256(facts.encode()).hexdigest()


def clean(prompt: str) -> str:
    """HTML entities resolved, twice as Wan does, and every run of white space made one space."""
    return " ".join(html.unescape(html.unescape(prompt)).split())
