"""Prompt caches: text embeddings, and the tensors that a network computed from them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter, is_
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.prompts import fill_template
from ..interfaces.conditioner import Conditioner
from ..interfaces.text_encoder import TextEncoder
from ..interfaces.types import Text


class TextEmbeddingCache:
    """Encodes each prompt once; drops the least recently used ones beyond `most`.

    Trainable encoders are never cached.
    """

    def __init__(
        self, encoder: TextEncoder, template: str = "{instruction}", most: int = 256
    ) -> None:
        self.encoder = encoder
        self.template = template
        self.most = most
        self.length = 0
        """Tokens that every batch is padded to at least (`pad_for`)."""
        self.encoded = 0  # prompts that went through the encoder
        self._kept: OrderedDict[tuple[str, str], Text] = OrderedDict()
        self._mark: str | None = None  # a frozen encoder's fingerprint, taken once

    def encode(self, prompts: Sequence[str], template: str | None = None) -> Text:
        """B instructions, put into the template, to embeddings [B, L, width]."""
        form = self.template if template is None else template
        texts = [fill_template(form, prompt.strip()) for prompt in prompts]
        if self.encoder.trainable:
            self.encoded += len(texts)
            return _with_padding_token(self.encoder.encode(texts))
        mark = self._mark = self._mark or self.encoder.fingerprint()
        for prompt in dict.fromkeys(texts):  # one by one: no embedding depends on the batch
            if (mark, prompt) not in self._kept:
                with torch.no_grad():
                    encoded = _with_padding_token(self.encoder.encode([prompt]))
                    self._kept[mark, prompt] = trim_padding(encoded)
                self.encoded += 1
        rows = [self._kept[mark, prompt] for prompt in texts]
        for prompt in texts:
            self._kept.move_to_end((mark, prompt))
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return stack_texts(rows, self.length)

    def pad_for(self, prompts: Sequence[str]) -> None:
        """Pad batches to one length from now on, if these instructions differ in theirs.

        So the shape of a batch, and with it the rounding of its samples, depends on no prompt in
        it. A trainable encoder pads for itself. Raises WamkitError, of the longest prompt first,
        if the encoder cannot take one.
        """
        self.length = 0
        longest_first = sorted(dict.fromkeys(prompts), key=len, reverse=True)
        with torch.no_grad():
            lengths = {self.encode([prompt]).tokens.shape[1] for prompt in longest_first}
        if self.encoder.trainable:
            return
        self.length = max(lengths) + 1 if len(lengths) > 1 else 0  # + 1: always with a mask


Places = tuple[list[dict[str, Any]], list[str]]
"""Dictionaries, and of each a name in it."""

_version = attrgetter("_version")
_form = attrgetter("dtype", "device", "shape")


class PromptState:
    """The last texts, with their prompt caches (`Text.prompt_cache`).

    Cleared when a module or weight is replaced, or a weight changes in place, as its version
    counter shows. Call `forget` after a change of `weight.data`, which no counter shows.
    """

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self.generation = 0
        """Counts the changes of weights that were seen."""
        self.replaced = 0
        """Counts how often modules or parameters were others than before."""
        self._texts: OrderedDict[Hashable, Text] = OrderedDict()
        self._links: Places = ([], [])
        self._modules: list[nn.Module | None] = []  # modules behind the links
        self._slots: Places | None = None
        self._weights: list[nn.Parameter | None] = []
        self._counted: list[nn.Parameter] = []  # those that count their changes
        self._versions: list[int] = []

    def forget(self) -> None:
        """Drop all texts, and collect the weights again."""
        self._clear()
        self.replaced += 1
        self._slots = None
        self._weights, self._counted, self._versions = [], [], []

    def get(self, root: nn.Module, key: Hashable, make: Callable[[], Text]) -> Text:
        """Return the text of `key`, from `make` unless cached for the current weights of `root`."""
        # Runs over all modules and weights before every chunk, so each loop is a `map`.
        if not _hold(self._links, self._modules):
            self.forget()
        if self._slots is None:
            modules = list(root.modules())
            self._links = _columns((m._modules, name) for m in modules for name in m._modules)
            self._modules = list(map(dict.get, *self._links))
            self._slots = _columns((m._parameters, n) for m in modules for n in m._parameters)
        if not _hold(self._slots, self._weights):
            self._weights, self._versions = list(map(dict.get, *self._slots)), []
            self._counted = [p for p in self._weights if p is not None and not p.is_inference()]
            self._clear()
            self.replaced += 1
        versions = list(map(_version, self._counted))
        if versions != self._versions:
            self._clear()
            self._versions = versions
        if key not in self._texts:
            self._texts[key] = make()
        self._texts.move_to_end(key)
        while len(self._texts) > self.most:
            self._texts.popitem(last=False)
        return self._texts[key].with_fresh_chunk_cache()

    def structure(self) -> Any:
        """Changes when modules or parameters are replaced, or have other dtypes or shapes."""
        weights = [p for p in self._weights if p is not None]
        return self.replaced, list(map(_form, weights)), list(map(Tensor.stride, weights))

    def are_plain(self) -> bool:
        """Whether no weight is of a tensor type of its own, as torchao's are."""
        return all(p is None or type(p.data) is Tensor for p in self._weights)

    def _clear(self) -> None:
        self._texts.clear()
        self.generation += 1

    def __reduce__(self) -> tuple[type[PromptState], tuple[int]]:
        """A copy begins with none."""
        return PromptState, (self.most,)


def _columns(places: Iterable[tuple[dict[str, Any], str]]) -> Places:
    found = list(places)
    return [held for held, _ in found], [name for _, name in found]


def _hold(places: Places, expected: Sequence[object]) -> bool:
    """Whether the very same objects are in all places."""
    return len(places[0]) == len(expected) and all(map(is_, map(dict.get, *places), expected))


class _PooledEncoder:
    """A conditioner that reads prompts, as a `TextEncoder` of one embedding per prompt."""

    trainable = False

    def __init__(self, conditioner: Conditioner, width: int) -> None:
        self.conditioner, self.width = conditioner, width

    def encode(self, prompts: Sequence[str]) -> Text:
        return Text(self.conditioner(prompts, None))

    def fingerprint(self) -> str:
        return "the one of this policy"


def pooled_text_cache(
    conditioner: Conditioner | None, width: int, template: str
) -> TextEmbeddingCache | None:
    """A cache of pooled text embeddings of `width`; None if the conditioner reads no text."""
    if conditioner is None or conditioner.reads != "text":
        return None
    return TextEmbeddingCache(_PooledEncoder(conditioner, width), template)


def trim_padding(text: Text) -> Text:
    """Drop trailing tokens that are masked in every sample.

    Drops the mask if every token left is valid: attention is faster without one. Synchronizes with
    the device, so use it for texts that are cached.
    """
    if text.valid is None:
        return text
    seen = text.valid.any(0).nonzero()
    length = int(seen.max()) + 1 if len(seen) else 1
    valid = text.valid[:, :length]
    return replace(
        text,
        tokens=text.tokens[:, :length].clone(),  # a view would keep all of it in memory
        valid=None if bool(valid.all()) else valid,
        repeats=None if text.repeats is None else text.repeats[:, :length],
    )


def _with_padding_token(text: Text) -> Text:
    """Add one masked padding token to a text without tokens."""
    if text.tokens.shape[1]:
        return text
    tokens = F.pad(text.tokens, (0, 0, 0, 1))
    valid = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    repeats = None if text.repeats is None else F.pad(text.repeats, (0, 1))
    return replace(text, tokens=tokens, valid=valid, repeats=repeats)


def stack_texts(rows: Sequence[Text], length: int = 0) -> Text:
    """Concatenate texts along the batch axis, padded to one length; padding is masked.

    `length` is the least number of tokens.
    """
    length = max(length, *(row.tokens.shape[1] for row in rows))
    tokens = torch.cat([F.pad(r.tokens, (0, 0, 0, length - r.tokens.shape[1])) for r in rows])
    repeats = None
    if any(row.repeats is not None for row in rows):
        repeats = torch.cat([_pad_values(row, row.repeats, length) for row in rows])
    ragged = any(row.tokens.shape[1] != length for row in rows)
    if not ragged and all(row.valid is None for row in rows):
        return Text(tokens, repeats=repeats)
    valid = torch.cat([_pad_values(row, row.valid, length).bool() for row in rows])
    return Text(tokens, valid, repeats=repeats)


def _pad_values(row: Text, values: torch.Tensor | None, length: int) -> torch.Tensor:
    """Per-token values [1, L], 1 if there are none, padded with 0 to `length`."""
    if values is None:
        values = torch.ones(row.tokens.shape[:2], device=row.tokens.device)
    return F.pad(values.float(), (0, length - values.shape[1]))
