"""Templates of prompts: where the instruction stands, as it is or in lower case."""

from __future__ import annotations

INSTRUCTION, LOWER = "{instruction}", "{lower_instruction}"
"""What the instruction replaces in a template, as it was given, or in lower case."""


def has_place(template: str) -> bool:
    """Whether the instruction appears in prompts of this template."""
    return INSTRUCTION in template or LOWER in template


def fill_template(template: str, instruction: str) -> str:
    """The prompt of an instruction."""
    return template.replace(INSTRUCTION, instruction).replace(LOWER, instruction.lower())
