"""Where paper becomes metal: a spec to a policy, a part's table to the part."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .check import check, warnings_of
from .errors import SpecError, WamkitError, WamkitWarning
from .parts import ActionHeadConfig, Kind, Part
from .spec import PolicySpec, parse, parse_part, read

if TYPE_CHECKING:
    from .policy import Policy


def build(
    spec: PolicySpec | str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    *,
    tiny: bool = False,
    device: str = "cpu",
    mode: str = "eager",
) -> Policy:
    """A policy from a spec, the path of one, or raw tables.

    `overrides` are strings such as "schedules.action.steps=5"; `tiny` builds the same composition
    at toy size. Parts without published weights get random ones, the same for the same `seed` of
    the spec. `mode` is how it runs: "eager", "compile", "graph" or "compile+graph"
    (`wamkit.modes`). Raises SpecError with every conflict before any weight is loaded, and warns
    (`WamkitWarning`) of what `warnings_of` finds.
    """
    from .policy import Policy

    chosen = resolve(spec, overrides, tiny=tiny)
    if not isinstance(spec, PolicySpec):  # who made one has been told
        for caution in warnings_of(chosen):
            warnings.warn(str(caution), WamkitWarning, stacklevel=2)
    return Policy.from_spec(chosen, device=device, mode=mode)


def resolve(
    spec: PolicySpec | str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    *,
    tiny: bool = False,
) -> PolicySpec:
    """The checked spec, with every default written out. Raises SpecError if it has conflicts."""
    source = str(spec) if isinstance(spec, str | Path) else "the spec"
    if not isinstance(spec, PolicySpec):
        from .spec import override

        raw = read(spec, overrides) if isinstance(spec, str | Path) else override(spec, overrides)
        if conflicts := check(raw) if not tiny else []:
            raise SpecError(conflicts, source)
        spec = parse(raw, source)
    elif list(overrides):
        raise WamkitError(
            "overrides apply to a path or to raw tables, not to a PolicySpec",
            "use spec.model_copy(update=...)",
        )
    if tiny:
        spec, _ = spec.tiny()
    if conflicts := check(spec):
        raise SpecError(conflicts, source)
    return spec


def load_part(kind: Kind, config: Mapping[str, Any] | str | Part) -> Any:
    """One part by itself, built from its table, its name or its configuration.

    `kind` is backbone, vae, text_encoder or paradigm; an action head needs the sizes of the rest
    and is built with `build`. Raises SpecError if the table is wrong.
    """
    part = config if isinstance(config, Part) else parse_part(kind, config)
    if isinstance(part, ActionHeadConfig):
        raise WamkitError(
            "an action head is built from the sizes of a whole policy",
            "use wamkit.build(spec).action_head, or config.build(sizes)",
        )
    return part.build()  # type: ignore[attr-defined]
