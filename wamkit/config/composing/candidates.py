"""The parts that are tried for a place that is left open, the likeliest first, each with why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from ...errors import WamkitError
from ..check import missing_files
from ..compositions import default
from ..parts import (
    KINDS,
    ActionHeadConfig,
    BackboneConfig,
    Conflict,
    ParadigmConfig,
    Part,
    TextEncoderConfig,
    VAEConfig,
)
from ..programs import program_of
from ..registry import registry
from ..spec import parse
from .draft import LEARNED, Draft
from .robot_defaults import fill_robot

TOY_SIZE = "tiny"
"""The variant that families have for tests; it is never chosen unasked."""
Candidate = tuple[dict[str, Any], str]
"""The table of a part, and the reason for it."""


def choose_parts(draft: Draft, kind: str, because: str = "") -> None:
    """Put the part into `draft` that fits best, with its reason; `because` is put before it."""
    best, fewest = None, None
    for table, reason in candidates(draft, kind):
        _, left = try_part(draft, kind, table)
        if fewest is None or len(left) < fewest:
            best, fewest = (table, reason), len(left)
        if not left:
            break
    if best is None:
        return  # nothing of this kind is installed: the check says so
    table, reason = best
    draft.raw[kind] = {**table, **draft.settings.get(kind, {})}
    label = ":".join(str(table[key]) for key in ("name", "variant") if key in table)
    draft.note(kind, label, "; ".join(filter(None, (because, reason))))


def try_part(draft: Draft, kind: str, table: dict[str, Any]) -> tuple[Draft, list[Conflict]]:
    """A copy of the draft with this part and everything that follows from it; what stays wrong."""
    trial = draft.copy()
    trial.raw[kind] = {**table, **draft.settings.get(kind, {})}
    fill_robot(trial)
    return trial, trial.mend()


def variants_of(cls: type[Part]) -> list[str]:
    """The published variants of a part, the usual one first; empty if it has none."""
    field = cls.model_fields.get("variant")
    if field is None or get_origin(field.annotation) is not Literal:
        return []
    named = [str(v) for v in get_args(field.annotation)]
    return sorted(named, key=lambda v: (v != field.default, named.index(v)))


def candidates(draft: Draft, kind: str) -> Iterator[Candidate]:
    """Tables of parts of a kind for a draft, the likeliest first, each with the reason for it."""
    wanted = [
        (table, f"{part.name} needs it")
        for other in KINDS
        if other != kind and (part := draft.part(other)) is not None
        for name, table in part.default_parts().items()
        if name == kind
    ]
    yield from wanted
    yield from {
        "backbone": _backbones,
        "vae": _vaes,
        "text_encoder": _text_encoders,
        "action_head": _action_heads,
        "paradigm": _paradigms,
    }[kind](draft)


def _backbones(draft: Draft) -> Iterator[Candidate]:
    vae, text = draft.part("vae"), draft.part("text_encoder")
    spaces = {
        "vae": {vae.name, vae.latent_space} if isinstance(vae, VAEConfig) else set(),
        "text_encoder": {text.name, text.embedding_space}
        if isinstance(text, TextEncoderConfig)
        else set(),
    }
    rows = []
    for cls in _installed("backbone"):
        for place, variant in enumerate(variants_of(cls) or [None]):  # type: ignore[list-item]
            if variant == TOY_SIZE:
                continue
            table = {"name": _name(cls), **({"variant": variant} if variant else {})}
            part = cls.model_validate(table)
            traits = part.traits  # type: ignore[attr-defined]
            known = {k: set(getattr(traits.trained_with, k)) for k in spaces}
            matches = [k for k, found in spaces.items() if found & known[k]]
            is_video = traits.imagines and traits.frames == "many"
            published, free = any(known.values()), cls.license == Part.license
            size = traits.depth * traits.width**2
            order = (-len(matches), not is_video, not published, not free, place, size)
            if matches:
                names = " and ".join(str(getattr(draft.part(k), "name", k)) for k in matches)
                reason = f"was trained with {names}"
            elif published:
                what = "video" if is_video else "image"
                reason = f"a {what} model with published weights ({cls.license})"
            else:
                reason = "a model without published weights that fits the rest"
            rows.append((order, table, reason))
    for _, table, reason in sorted(rows, key=lambda row: (row[0], row[1]["name"])):
        yield table, reason


def _vaes(draft: Draft) -> Iterator[Candidate]:
    yield from _companions(draft, "vae", "latent_space", "channels", "latent_channels")


def _text_encoders(draft: Draft) -> Iterator[Candidate]:
    yield from _companions(draft, "text_encoder", "embedding_space", "width", "text_width")


def _companions(draft: Draft, kind: str, space: str, size: str, wanted: str) -> Iterator[Candidate]:
    """Parts that go with the backbone: those it knows, those of the same space, those that fit."""
    backbone = draft.part("backbone")
    if not isinstance(backbone, BackboneConfig):
        return
    traits = backbone.traits
    known = getattr(traits.trained_with, kind)
    rows = []
    for cls in _installed(kind):
        part: Any = default(cls)
        means = getattr(part, space)
        first = known.index(part.name) if part.name in known else len(known)
        fits = getattr(part, size) in (getattr(traits, wanted), 0)
        order = (first, means not in known, not fits, means is not None, bool(missing_files(part)))
        rows.append((order, part.name, _why_companion(backbone, kind, part, means)))
    rows.sort()
    for _, name, reason in rows:
        yield {"name": name}, reason
    for _, name, reason in rows:
        yield {"name": name, LEARNED: "linear"}, f"{reason}; a projection to it is learned"


def _why_companion(backbone: BackboneConfig, kind: str, part: Part, means: str | None) -> str:
    label = " ".join(filter(None, (backbone.name, getattr(backbone, "variant", None))))
    known = getattr(backbone.traits.trained_with, kind)
    if part.name in known:
        return f"{label} was trained with it"
    if means in known:
        return f"works in the space of {means}, which {label} was trained with"
    absent = f"{' or '.join(known)}, which {label} was trained with, is not installed: "
    lead = absent if known and not set(known) & set(registry().names(kind)) else ""
    if means is None:
        return f"{lead}it needs no published weights"
    return f"{lead}nothing that {label} was trained with fits better"


def _action_heads(draft: Draft) -> Iterator[Candidate]:
    def order(cls: type[ActionHeadConfig]) -> tuple[Any, ...]:
        return (cls.is_regression, not cls.exposes_tokens, cls.uses_backbone_blocks, _name(cls))

    for cls in sorted(_installed("action_head"), key=order):  # type: ignore[arg-type]
        if cls.exposes_tokens:  # type: ignore[attr-defined]
            own = "" if cls.uses_backbone_blocks else " and weights"  # type: ignore[attr-defined]
            reason = f"has tokens{own} of its own, which most paradigms can use"
        else:
            reason = "reads hidden states of the backbone"
        yield {"name": _name(cls)}, reason


def _paradigms(draft: Draft) -> Iterator[Candidate]:
    """Those that fit, the one first that passes the fewest tokens when the robot acts."""
    backbone = draft.part("backbone")
    edits = isinstance(backbone, BackboneConfig) and backbone.traits.frames == "one"
    rows = []
    for cls in _installed("paradigm"):
        table = {"name": _name(cls)}
        trial, left = try_part(draft, "paradigm", table)
        part = default(cls)
        single = isinstance(part, ParadigmConfig) and part.max_target_frames == 1
        cost = _cost(trial)
        rows.append(((len(left), edits != single, cost is None, cost or 0), table, cost))
    rows.sort(key=lambda row: (row[0], row[1]["name"]))
    lead = "edits images as the backbone does, and " if edits else ""
    for _, table, cost in rows:
        counted = "" if cost is None else f", {cost:,}"
        yield table, f"{lead}passes the fewest tokens for a chunk when the robot acts{counted}"


def _cost(draft: Draft) -> int | None:
    """Tokens that pass the network for one chunk; None if that cannot be counted."""
    try:
        spec = parse(draft.raw)
        tokens = spec.tokens()
        return sum(
            stage.passes * sum(tokens.get(role.rstrip("'"), 0) for role in stage.roles)
            for stage in program_of(spec)
        )
    except WamkitError:
        return None


def _installed(kind: str) -> list[type[Part]]:
    return [cls for cls in registry() if cls.kind == kind]


def _name(cls: type[Part]) -> str:
    return str(cls.model_fields["name"].default)
