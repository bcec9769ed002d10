"""Where paper becomes metal: a spec to a policy, a part's table to the part."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.check import check, warnings_of
from ..config.parts import KINDS, ActionHeadConfig, Kind, Part
from ..config.spec import PolicySpec, parse, parse_part, read
from ..errors import SpecError, WamkitError, WamkitWarning
from ..files import hub
from ..files.hub import is_remote
from ..files.locate import split_prefix
from ..files.shards import PICKLED, SUFFIX

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
    """Build a policy from a spec, the path of one or of a saved policy, or raw tables.

    `overrides` are strings such as "schedules.action.steps=5"; `tiny` builds the same composition
    at toy size. Parts without published weights get random ones, the same for the same `seed` of
    the spec. `mode` is how it runs: "eager", "compile", "graph" or "compile+graph"
    (`wamkit.policy.run_mode`). Raises SpecError with every conflict before any weight is loaded,
    and warns (`WamkitWarning`) of what `warnings_of` finds.
    """
    from ..config.runs import is_folder
    from .policy import Policy

    if isinstance(spec, str | Path) and is_folder(spec):
        if not tiny:
            policy = Policy.load(spec, overrides, device=device)
            policy.set_mode(mode)
            return policy
        warnings.warn(
            f"the weights of {spec} do not fit toy size and are left out",
            WamkitWarning,
            stacklevel=2,
        )
    chosen = resolve(spec, overrides, tiny=tiny, fetch=not tiny)
    if not isinstance(spec, PolicySpec):  # it was checked when it was made
        for caution in warnings_of(chosen):
            warnings.warn(str(caution), WamkitWarning, stacklevel=2)
    policy = Policy.from_spec(chosen, device=device, mode=mode)
    for kind in KINDS:
        _expect_used(getattr(chosen, kind), getattr(policy, kind))
    return policy


def resolve(
    spec: PolicySpec | str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    *,
    tiny: bool = False,
    fetch: bool = False,
) -> PolicySpec:
    """The checked spec, with every default written out. Raises SpecError if it has conflicts.

    With `fetch`, config.json of weights on the hub is fetched before, so that sizes are theirs.
    """
    source = str(spec) if isinstance(spec, str | Path) else "the spec"
    if not isinstance(spec, PolicySpec):
        from ..config.spec import override

        raw = read(spec, overrides) if isinstance(spec, str | Path) else override(spec, overrides)
        if fetch:
            fetch_configs(raw)
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


def fetch_configs(raw: Mapping[str, Any]) -> None:
    """Fetch the configs of weights on the hub that raw tables name, if they are not cached.

    Raises WamkitError if it cannot be had.
    """
    for kind in KINDS:
        table = raw.get(kind)
        if not isinstance(table, Mapping):
            continue
        weights = table.get("weights")
        if isinstance(weights, str) and is_remote(weights) and table.get("embeddings_file") is None:
            place = split_prefix(weights)[0]
            if Path(place.partition("@")[0]).suffix not in (SUFFIX, *PICKLED):
                hub.fetch_configs(place)


def load_part(kind: Kind, config: Mapping[str, Any] | str | Part) -> Any:
    """One part by itself, built from its table, its name or its configuration.

    `kind` is backbone, vae, text_encoder or paradigm; an action head needs the sizes of the rest
    and is built with `build`. Raises SpecError if the table is wrong.
    """
    if isinstance(config, Mapping):
        fetch_configs({kind: config})
    part = config if isinstance(config, Part) else parse_part(kind, config)
    if isinstance(part, ActionHeadConfig):
        raise WamkitError(
            "an action head is built from the sizes of a whole policy",
            "use wamkit.build(spec).action_head, or config.build(sizes)",
        )
    module = part.build()  # type: ignore[attr-defined]
    _expect_used(part, module)
    return module


def _expect_used(part: Part, module: Any) -> None:
    """Raise WamkitError if weights are named for a part that has none."""
    named = getattr(part, "weights", None)
    if named is None or getattr(part, "embeddings_file", None) is not None:
        return
    state = getattr(module, "state_dict", None)
    if state is None or not state():
        raise WamkitError(
            f"{part.kind}.weights names {named}, and {part.name} has no weights",
            f"leave {part.kind}.weights out, or name another {part.kind}",
        )
