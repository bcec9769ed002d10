"""Qwen behind wamkit's contract: transformers' language model, and a recipe for what it is given.

    prompt --template--> tokens, padded on the right --language model--> hidden states [B, L, width]

Unlike in the published pipelines, a prompt that is too long is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLTextModel, Qwen3Model

from wamkit.checkpoints.hf_text_encoder import encoding, load, read_config
from wamkit.config.pretrained import refuse_long
from wamkit.errors import WamkitError
from wamkit.interfaces.types import Text

from .recipes import RECIPES, Recipe

if TYPE_CHECKING:
    from . import Qwen3, Qwen25VL


class QwenEncoder(nn.Module):
    """A frozen Qwen, for prompts of up to `max_length` tokens."""

    trainable = False

    def __init__(
        self, model: Any, tokenizer: Any, recipe: Recipe, *, length: int, width: int, files: str
    ) -> None:
        """`files` identifies what the model and the tokenizer were read from."""
        super().__init__()
        if recipe.template is None and not tokenizer.chat_template:
            raise WamkitError(
                f"the tokenizer at {tokenizer.name_or_path} has no chat template",
                "copy chat_template.jinja or tokenizer_config.json from the same checkpoint",
            )
        self.model: nn.Module = model.requires_grad_(False)
        self.tokenizer, self.recipe = tokenizer, recipe
        self.length, self.width, self.files = length, width, files
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever the policy does."""
        return super().train(False)

    @encoding()
    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Text:
        """B prompts to [B, L, width].

        Raises WamkitError if one has more than `max_length` tokens.
        """
        recipe, device = self.recipe, next(self.model.parameters()).device
        rows = [self._row(prompt) for prompt in prompts]
        seen = self.length if recipe.padding == "attended" else max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (seen - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        valid = torch.arange(seen, device=device) < lengths[:, None]  # [B, L]
        found = self.model(
            input_ids=ids,
            attention_mask=valid.long() if recipe.masked else None,
            output_hidden_states=recipe.states != "last",
            use_cache=False,
        )
        if recipe.padding == "attended":
            return Text(self._states(found))
        tokens = self._states(found).masked_fill(~valid[..., None], 0)
        return Text(tokens[:, recipe.drop :], valid[:, recipe.drop :])

    def _row(self, prompt: str) -> list[int]:
        """The tokens of a prompt in its template."""
        recipe = self.recipe
        if recipe.template is not None:
            text = recipe.template.format(prompt)
        else:
            chat = [{"role": "user", "content": prompt}]
            if recipe.system is not None:
                chat.insert(0, {"role": "system", "content": recipe.system})
            text = self.tokenizer.apply_chat_template(
                chat,
                tokenize=False,
                add_generation_prompt=recipe.answer,
                enable_thinking=False,
            )
        row: list[int] = self.tokenizer(text).input_ids
        refuse_long(prompt, len(row) - recipe.drop, self.length)
        return row

    def _states(self, found: Any) -> Tensor:
        """The hidden states that make an embedding, [B, L, width]."""
        states = self.recipe.states
        if states == "last":
            return found.last_hidden_state  # type: ignore[no-any-return]
        if states == "standardized":
            return torch.cat([_normalize(x) for x in found.hidden_states[1:]], -1)
        return torch.cat([found.hidden_states[layer] for layer in states], -1)

    def fingerprint(self) -> str:
        """A hash of the files the encoder was read from, of the length and of the recipe."""
        facts = f"qwen {self.files} {self.length} {self.recipe}"
        return hashlib.sha256(facts.encode()).hexdigest()


def _normalize(x: Tensor) -> Tensor:
    """[B, L, D] with mean 0 and deviation 1 over D."""
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-8)


def lower_layers(config: Any, needed: int) -> Qwen3Model:
    """The first layers of the Qwen3 that `config` describes, without weights."""
    depth = _cut(config, needed)
    return _without_last_norm(Qwen3Model(config), needed < depth)


def _cut(config: Any, needed: int) -> int:
    """Have `config` describe its first layers alone; return how many there were."""
    depth: int = config.num_hidden_layers
    config.num_hidden_layers, config.layer_types = needed, config.layer_types[:needed]
    return depth


def _without_last_norm(model: Any, cut: bool) -> Any:
    """The norm belongs behind the layers that were left out, if there are some."""
    if cut:
        model.norm = nn.Identity()
    return model


def load_qwen3(model: Path, tokenizer: Path, part: Qwen3) -> QwenEncoder:
    """The layers of a Qwen3 that are read. Raises WamkitError if files do not fit."""
    config = read_config(model)
    needed = max(part.layers)
    depth = _cut(config, needed)
    above = "|".join(map(str, range(needed, depth))) or "(?!)"
    unused = rf"^lm_head\.|(^|\.)layers\.({above})\."
    made, tokenizer_made, files = load(Qwen3Model, model, tokenizer, unused=unused, config=config)
    made = _without_last_norm(made, needed < depth)
    recipe = Recipe(states=part.layers, padding=part.padding, answer=True)
    return QwenEncoder(
        made, tokenizer_made, recipe, length=part.max_length, width=part.width, files=files
    )


def language_model(config: Any) -> Qwen2_5_VLTextModel:
    """The language half of the Qwen2.5-VL that `config` describes, without weights."""
    return Qwen2_5_VLTextModel(config.text_config)


def load_qwen25vl(model: Path, tokenizer: Path, part: Qwen25VL) -> QwenEncoder:
    """The language half of a Qwen2.5-VL. Raises WamkitError if files do not fit."""
    made, tokenizer_made, files = load(Qwen2_5_VLForConditionalGeneration, model, tokenizer)
    return QwenEncoder(
        made.model.language_model,
        tokenizer_made,
        RECIPES[part.recipe],
        length=part.max_length,
        width=part.width,
        files=files,
    )
