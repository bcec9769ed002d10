"""The smallest honest text encoder: the bytes of a prompt, each with its place, as embeddings.

"lift"  --utf-8-->  [start] l i f t [padding ...]  --table + place, residual MLP-->  [L, width]
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from wamkit.engine.layers import FeedForward, sinusoid, to_device
from wamkit.errors import WamkitError
from wamkit.interfaces.types import Text

START = 256  # the row of the table after those of the 256 bytes


class ByteEncoder(nn.Module):
    """Learned embeddings of UTF-8 bytes, L = 1 + `length` tokens for every prompt.

    The first token marks the start, so that an empty prompt has something to attend to. Padding is
    zero and not valid. There is no attention between bytes: that is left to the backbone.
    """

    trainable = True

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.width, self.length = width, length
        self.table = nn.Embedding(1 + START, width)
        self.norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, 4 * width)

    def encode(self, prompts: Sequence[str]) -> Text:
        """B prompts to [B, L, width]. Raises WamkitError if one has more than `length` bytes."""
        rows = [self._row(prompt) for prompt in prompts]
        device = self.table.weight.device
        ids = torch.tensor([row + [0] * (1 + self.length - len(row)) for row in rows])
        ids, lengths = (
            to_device(ids, device),
            to_device(torch.tensor([len(row) for row in rows]), device),
        )
        places = torch.arange(1 + self.length, device=device)  # [L]
        valid = places < lengths[:, None]  # [B, L]
        x = self.table(ids)  # [B, L, width]
        x = x + sinusoid(places, self.width).to(x.dtype)
        x = x + self.ffn(self.norm(x))
        return Text(x * valid[..., None], valid)

    def _row(self, prompt: str) -> list[int]:
        row = [START, *prompt.encode()]
        if len(row) - 1 > self.length:
            raise WamkitError(
                f"the prompt {prompt!r} has {len(row) - 1} bytes, the byte encoder takes at most "
                f"{self.length}",
                f"set text_encoder.max_length = {len(row) - 1} or more, or shorten the prompt",
            )
        return row

    def fingerprint(self) -> str:
        """A hash of the length and of every weight."""
        digest = hashlib.sha256(f"bytes {self.length}".encode())
        for tensor in self.state_dict().values():
            digest.update(tensor.cpu().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
