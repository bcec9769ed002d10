"""Small specs around any parts, and the table of what goes with what, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..errors import SpecError, WamkitError
from .check import check, failed, warnings_of
from .parts import KINDS, Caution, Conflict, Part
from .registry import registry
from .spec import PolicySpec, parse_part


def default(cls: type[Part]) -> Part:
    """The part as it is when a spec names it and nothing else."""
    return cls()  # type: ignore[call-arg]  # every registered part has a default name


def tiny(part: Part) -> Part:
    """The part at toy size, or what stands in for it there."""
    small = part.tiny()
    return small if isinstance(small, Part) else parse_part(part.kind, small)


def compose(*parts: Part) -> PolicySpec:
    """A tiny spec around `parts`, at most one of a kind, with companions that fit them.

    Raises AssertionError, with every reason found, if nothing in the registry does.
    """
    given = {part.kind: tiny(part) for part in parts}
    choices: dict[str, list[Part]] = {}
    for kind in KINDS:
        if kind in given:
            choices[kind] = [given[kind]]
            continue
        choices[kind] = [tiny(default(cls)) for cls in registry() if cls.kind == kind]
        for part in given.values():
            if (table := part.default_parts().get(kind)) is not None:
                choices[kind] = [parse_part(kind, table)]
    reasons: list[Conflict] = []
    for combination in product(*choices.values()):
        try:
            spec = around(dict(zip(choices, combination, strict=True)))
            conflicts = check(spec)
        except WamkitError:
            raise
        except Exception as error:  # one part's bug leaves the other combinations
            conflicts = [failed(error)]
        if not conflicts:
            return spec
        reasons += [conflict for conflict in conflicts if conflict not in reasons]
    named = ", ".join(f"{part.kind} {part.name}" for part in parts)
    raise FitsNothingError(named, reasons)


class FitsNothingError(AssertionError):
    """No registered parts make a policy with those that are wanted."""

    def __init__(self, named: str, reasons: list[Conflict]) -> None:
        super().__init__(f"{named} fits nothing:\n" + "\n".join(sorted(map(str, reasons))))
        self.named = named
        self.reasons = reasons


def around(parts: dict[str, Any]) -> PolicySpec:
    """A small robot for five parts: one camera, a state of 3, chunks of 6 x 4 actions."""
    stride, patch = parts["vae"].stride, (1, 2, 2)
    traits = parts["backbone"].traits
    if traits.latent_channels:
        patch = traits.patch_size
    imagined = 0 if not traits.imagines else 1 if traits.frames == "one" else 2
    if (wanted := parts["paradigm"].max_target_frames) is not None:
        imagined = min(imagined, wanted)
    spec = PolicySpec.model_validate(
        {
            **parts,
            "actions": {
                "chunk_size": 6,
                "groups": [{"name": "arm", "size": 3}, {"name": "grip", "size": 1}],
            },
            "state": {"size": 3},
            "cameras": {
                "views": [
                    {"name": "front", "size": (2 * stride[1] * patch[1], 3 * stride[2] * patch[2])}
                ]
            },
            "video": {"num_frames": 1 + imagined * stride[0], "num_observed": 1},
            "schedules": {"video": {"steps": 2}, "action": {"steps": 3}},
        }
    )
    return spec.fitted()


@dataclass(frozen=True)
class Cell:
    """One backbone, action head and paradigm, tried together at toy size."""

    backbone: str
    action_head: str
    paradigm: str
    spec: PolicySpec | None
    """None if a plugin's bug kept it from being made."""
    conflicts: tuple[Conflict, ...]

    @property
    def cautions(self) -> tuple[Caution, ...]:
        """Warnings about parts that fit but may not work as expected."""
        return () if self.spec is None else tuple(warnings_of(self.spec))

    @property
    def runs(self) -> bool:
        """True if nothing stands against it."""
        return not self.conflicts


def matrix(
    backbones: tuple[str, ...] = (),
    action_heads: tuple[str, ...] = (),
    paradigms: tuple[str, ...] = (),
) -> Iterator[Cell]:
    """Every registered backbone with every action head and paradigm, or those that are named.

    VAE and text encoder are the first that fit the backbone. Raises WamkitError for unknown names.
    """
    known = registry()
    rows = {
        kind: [known.get(kind, name) for name in names or known.names(kind)]
        for kind, names in (
            ("backbone", backbones),
            ("action_head", action_heads),
            ("paradigm", paradigms),
        )
    }
    for backbone in rows["backbone"]:
        fitting, conflicts = _tried(lambda cls=backbone: compose(default(cls)))  # type: ignore[misc]
        for head, paradigm in product(rows["action_head"], rows["paradigm"]):
            names: tuple[str, str, str] = tuple(  # type: ignore[assignment]
                cls.model_fields["name"].default for cls in (backbone, head, paradigm)
            )
            if fitting is None:
                yield Cell(*names, None, conflicts)
                continue
            parts = {kind: getattr(fitting, kind) for kind in KINDS}

            def made(parts: Any = parts, head: Any = head, paradigm: Any = paradigm) -> PolicySpec:
                parts["action_head"] = tiny(default(head))
                parts["paradigm"] = tiny(default(paradigm))
                return around(parts)

            spec, found = _tried(made)
            yield Cell(*names, spec, found if spec is None else tuple(check(spec)))


def _tried(make: Callable[[], PolicySpec]) -> tuple[PolicySpec | None, tuple[Conflict, ...]]:
    """The spec, or why there is none: nothing fits, or a plugin has a bug."""
    try:
        return make(), ()
    except SpecError as error:
        return None, error.conflicts
    except FitsNothingError as error:
        bugs = tuple(reason for reason in error.reasons if reason.between[0].startswith("plugin "))
        hint = "install parts that fit it, or set an adapter"
        nothing = Conflict(between=("backbone",), why=f"{error.named} fits nothing", hint=hint)
        return None, bugs or (nothing, *error.reasons)
    except Exception as error:
        return None, (failed(error),)
