"""How published systems read Qwen: template, hidden states and padding, as data.

    recipe            template                    states                     padding, right
    klein             user, answer begun          behind some layers         hidden from Qwen alone
    qwen-image(-edit) system, user, answer begun  last, first tokens left    hidden from both
    omnigen2          system, user                last                       hidden from both
    cosmos2.5         system, user                all, each standardized     seen by both

Sources: diffusers' `Flux2KleinPipeline`, `QwenImagePipeline`, `QwenImageEditPipeline` and
`Cosmos2_5_PredictBasePipeline`; `omnigen2/pipelines/omnigen2/pipeline_omnigen2.py` in
github.com/VectorSpaceLab/OmniGen2. In the edit template the place of the image is left out, as no
image is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """What becomes of a prompt on its way through the model."""

    states: tuple[int, ...] | Literal["last", "standardized"] = "last"
    """Hidden states that make an embedding: behind these layers, behind the last one, or behind
    every layer, each token with mean 0 and deviation 1."""
    padding: Literal["mask", "attended"] = "mask"
    """Whether the backbone sees padding; if so, prompts are padded to the full length."""
    masked: bool = True
    """Whether padding is hidden from the language model."""
    system: str | None = None
    """What the system says; None for a chat without it."""
    answer: bool = False
    """Whether the answer is begun, so that the model is about to speak."""
    template: str | None = None
    """The prompt's surroundings; None for the chat template of the tokenizer's files."""
    drop: int = 0
    """Tokens left out at the start, where the system has been speaking."""


def _chat(system: str) -> str:
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{{}}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


RECIPES = {
    "qwen-image-edit": Recipe(
        template=_chat(
            "Describe the key features of the input image (color, shape, size, texture, objects, "
            "background), then explain how the user's text instruction should alter or modify the "
            "image. Generate a new image that meets the user's requirements while maintaining "
            "consistency with the original input where appropriate."
        ),
        drop=64,
    ),
    "qwen-image": Recipe(
        template=_chat(
            "Describe the image by detailing the color, shape, size, texture, quantity, text, "
            "spatial relationships of the objects and background:"
        ),
        drop=34,
    ),
    "omnigen2": Recipe(
        system="You are a helpful assistant that generates high-quality images based on user "
        "instructions."
    ),
    "cosmos2.5": Recipe(
        states="standardized",
        padding="attended",
        masked=False,
        system="You are a helpful assistant who will provide prompts to an image generator.",
    ),
}
