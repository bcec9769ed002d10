"""Identify a weight file that does not match the model it was given for."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from ..config.parts import Weighted
from ..config.registry import registry
from ..config.spec import parse_part
from .lora import ADAPTERS

_APART = "; or name those weights, and this LoRA as `lora`, if it is one of peft"
# Other files that are shared as weights: a pattern for names, a description, a hint.
_KINDS = (
    (
        r"(exp_avg|exp_avg_sq|momentum_buffer|max_exp_avg_sq)(\.|$)|^optimizer\.state\.",
        "the state of an optimizer",
        "name the file of the model, not that of its optimizer",
    ),
    (
        r"\.diff(_b)?$",
        "differences to the weights of another model",
        "name the weights with the differences added",
    ),
    (
        r"^(controlnet_|input_hint_block|zero_convs?\.|control_blocks\.)",
        "a ControlNet",
        "name the weights of the model that it steers",
    ),
    (
        r"^(vace_|.*\.vace_)",
        "a VACE model, which takes conditions of its own",
        "name the weights of a model without them",
    ),
    (
        r"^(ip_adapter|image_proj)\.",
        "an IP-Adapter",
        "name the weights of the model that it is added to",
    ),
    (
        r"^(emb_params|string_to_param|clip_[lg]|<.*>)$",
        "an embedding of textual inversion",
        "name the weights of a model",
    ),
    (
        r"(^|\.)(encoder\.block\.0\.layer|text_model\.(encoder|embeddings))\.|"
        r"^(shared|lm_head)\.weight$|^(model\.)?(language_model\.)?(layers\.0|embed_tokens)\.",
        "a language model or text encoder of transformers",
        "name its folder as text_encoder.weights, and that of the transformer as backbone.weights",
    ),
    (
        r"(^|\.)(en|de)coder\.(conv_in|conv_out|mid|mid_block|middle|down_blocks|up_blocks)\.",
        "a VAE",
        "name the VAE that it belongs to in [vae], and this file as vae.weights",
    ),
)


def describe_file(names: Collection[str], kind: str = "", part: str = "") -> tuple[str, str] | None:
    """Describe a file by the names of its tensors, with a hint; None if it is not recognized.

    `kind` and `part` name the part that was expected, which is not suggested again.
    """
    names = list(names)
    adapters = [name for name in names if re.search(ADAPTERS, name)]
    if adapters:
        has_other_weights = len(adapters) < len(names) / 2 and not all(map(_adapts, names))
        what = (
            "holds a LoRA that is not merged into its weights" if has_other_weights else "is a LoRA"
        )
        return (
            f"this {what}: low-rank adapters, such as {adapters[0]}",
            "merge the LoRA into the weights that it was made for, with the program that made it, "
            f"and name the result{'' if has_other_weights else _APART}",
        )
    if others := _layouts(names, kind, part):
        others_listed = ", ".join(f"{k} {n} ({layout})" for k, n, layout in others)
        first, name, _ = others[0]
        return (
            f"its names are those of {others_listed}",
            f'name the file in [{first}], with name = "{name}"',
        )
    for pattern, what, hint in _KINDS:
        if any(re.search(pattern, name) for name in names):
            return f"this is {what}", hint
    return None


def _adapts(name: str) -> bool:
    return bool(re.search(ADAPTERS, name)) or name.endswith((".alpha", ".scale"))


def _layouts(names: list[str], kind: str, part: str) -> list[tuple[str, str, str]]:
    """Kind, name and layout of other installed parts whose layouts match `names`."""
    found: list[tuple[str, str, str]] = []
    for cls in registry():
        label = cls.model_fields["name"].default
        if not issubclass(cls, Weighted) or (cls.kind, label) == (kind, part):
            continue
        made: Any = parse_part(cls.kind, label)
        for layout in made.layouts():
            if layout.detect_key and any(re.search(layout.detect_key, name) for name in names):
                found.append((cls.kind, label, layout.name))
                break
    return found
