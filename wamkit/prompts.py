"""Embeddings of prompts that were encoded before, under the encoder's fingerprint."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .interfaces.text_encoder import TextEncoder
from .types import Text


class PromptCache:
    """Encodes each prompt once; the least recently used are forgotten beyond `most`.

    Encoders that learn with the policy are never cached.
    """

    def __init__(
        self, encoder: TextEncoder, template: str = "{instruction}", most: int = 256
    ) -> None:
        self.encoder = encoder
        self.template = template
        self.most = most
        self.encoded = 0  # prompts that went through the encoder
        self._kept: OrderedDict[tuple[str, str], Text] = OrderedDict()
        self._mark: str | None = None  # a frozen encoder's fingerprint, taken once

    def encode(self, prompts: Sequence[str]) -> Text:
        """B instructions, put into the template, to embeddings [B, L, width]."""
        sentences = [self.template.replace("{instruction}", prompt.strip()) for prompt in prompts]
        if self.encoder.trainable:
            self.encoded += len(sentences)
            return self.encoder.encode(sentences)
        mark = self._mark = self._mark or self.encoder.fingerprint()
        new = sorted({s for s in sentences if (mark, s) not in self._kept})
        if new:
            with torch.no_grad():
                text = self.encoder.encode(new)
            self.encoded += len(new)
            for i, sentence in enumerate(new):
                valid = None if text.valid is None else text.valid[i : i + 1]
                self._kept[mark, sentence] = Text(text.tokens[i : i + 1], valid)
        rows = [self._kept[mark, sentence] for sentence in sentences]
        for sentence in sentences:
            self._kept.move_to_end((mark, sentence))
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return stacked(rows)


def stacked(rows: Sequence[Text]) -> Text:
    """Texts one below the other; shorter ones are padded, and the padding is not attended."""
    length = max(row.tokens.shape[1] for row in rows)
    same = all(row.tokens.shape[1] == length for row in rows)
    tokens = torch.cat([F.pad(r.tokens, (0, 0, 0, length - r.tokens.shape[1])) for r in rows])
    if same and all(row.valid is None for row in rows):
        return Text(tokens)
    masks = []
    for row in rows:
        valid = row.valid
        if valid is None:
            valid = torch.ones(row.tokens.shape[:2], dtype=torch.bool, device=row.tokens.device)
        masks.append(F.pad(valid, (0, length - valid.shape[1]), value=False))
    return Text(tokens, torch.cat(masks))
