"""The short forms in which parts, views and actions are typed, and what they mean in a spec."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from ...config.parts import KINDS
from ...config.registry import registry
from ...config.robot import ActionGroup, Normalization
from ...errors import WamkitError, did_you_mean

FLAGS = {
    "backbone": "backbone",
    "vae": "vae",
    "text": "text_encoder",
    "head": "action_head",
    "paradigm": "paradigm",
}
"""Option -> the kind of part that it names."""
ACTION_KINDS: tuple[str, ...] = get_args(ActionGroup.model_fields["kind"].annotation)
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)


def part_table(kind: str, word: str) -> dict[str, Any]:
    """`NAME` or `NAME:VARIANT` as the table of a part.

    Raises WamkitError if no such part is installed; a variant is left to the check.
    """
    name, variant = word, ""
    if word not in registry().parts[kind] and ":" in word:
        name, _, variant = word.rpartition(":")
    cls = registry().get(kind, name)
    if variant and "variant" not in cls.model_fields:
        raise WamkitError(
            f"{kind} {name} has no variants, found {variant!r}", f"write {name} alone"
        )
    return {"name": name, **({"variant": variant} if variant else {})}


def kind_of(word: str) -> str:
    """The kind that is meant by the name of an option or of a kind. Raises WamkitError."""
    if word in FLAGS or word in KINDS:
        return FLAGS.get(word, word)
    known = list(dict.fromkeys([*FLAGS, *KINDS]))
    raise WamkitError(
        f"there is no kind of part called {word!r}",
        did_you_mean(word, known, f"the kinds are {', '.join(KINDS)}"),
    )


def views_of(texts: Iterable[str]) -> list[dict[str, Any]]:
    """`front=224x224,wrist` as views. Raises WamkitError with an example."""
    views = []
    for word in _items(texts):
        name, equals, size = word.partition("=")
        view: dict[str, Any] = {"name": name}
        if equals:
            sides = size.lower().split("x")
            if len(sides) not in (1, 2) or not all(n.isascii() and n.isdigit() for n in sides):
                raise WamkitError(
                    f"the view {word!r} has no size that can be read",
                    "write NAME=HEIGHTxWIDTH, such as front=224x224, or NAME alone",
                )
            view["size"] = [int(sides[0]), int(sides[-1])]
        if not name:
            raise WamkitError(f"the view {word!r} has no name", "such as front=224x224")
        views.append(view)
    return views


def groups_of(texts: Iterable[str]) -> list[dict[str, Any]]:
    """`pose:6:delta,gripper:1:quantile` as groups of actions. Raises WamkitError.

    Behind name and size stand a kind and a normalization, in either order.
    """
    groups: list[dict[str, Any]] = []
    for word in _items(texts):
        name, *more = word.split(":")
        if not name or not more or not more[0].isascii() or not more[0].isdigit():
            raise WamkitError(
                f"the actions {word!r} have no name and size that can be read",
                "write NAME:SIZE, such as joints:14, and perhaps a kind and a normalization: "
                "joints:14:relative:quantile",
            )
        group: dict[str, Any] = {"name": name, "size": int(more[0])}
        for option in more[1:]:
            if option in ACTION_KINDS and "kind" not in group:
                group["kind"] = option
            else:
                group["normalization"] = normalization(option, word, ACTION_KINDS)
        groups.append(group)
    return groups


def state_of(word: str) -> dict[str, Any]:
    """`14` or `14:quantile` as the values of the table [state]. Raises WamkitError."""
    size, colon, option = word.partition(":")
    if not size.isascii() or not size.isdigit():
        raise WamkitError(f"{word!r} is no size of a state", "write a number, such as 14")
    found: dict[str, Any] = {"state.size": int(size)}
    if colon:
        found["state.normalization"] = normalization(option, word)
    return found


def normalization(option: str, word: str, others: tuple[str, ...] = ()) -> str:
    """A known normalization. Raises WamkitError with the nearest word that may stand there."""
    if option in NORMALIZATIONS:
        return option
    known = [*others, *NORMALIZATIONS]
    raise WamkitError(
        f"{option!r} in {word!r} is none of {', '.join(known)}",
        did_you_mean(option, known, "write one of those"),
    )


def _items(texts: Iterable[str]) -> list[str]:
    return [item.strip() for word in texts for item in word.split(",") if item.strip()]
