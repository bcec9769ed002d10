"""Why parts do not fit each other, computed in advance: the reasons that are a plugin's own.

Rules about sizes are formulas, which the page computes (`js/rules.js`, `js/views.js`). What a part
says in its `conflicts` is asked for here, at sizes that no reason would name by chance; each size
that a reason names then becomes a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from ...config.compositions import default
from ...config.parts import ActionHeadConfig, BackboneConfig, Conflict, ParadigmConfig, Part
from ...config.programs import level_conflicts
from ...config.registry import registry
from ...config.spec import PolicySpec
from ...errors import WamkitError

NARROW = 7  # a state that is narrower than an action
CHUNK, ACTION, STATE, VIDEO_STEPS, ACTION_STEPS = 977, 13, 17, 37, 41
OBSERVED, MANY = 211, 307  # latent frames
SMALLEST = 50  # of the sizes of clips that stand for others
MOST_LATENTS = 64
"""Up to how many observed latent frames a reason is looked for."""
CONTEXTS = tuple((imagined, state) for imagined in (0, 1, MANY) for state in (0, STATE))
"""Latent frames that are imagined, none, one or many, and the size of the state."""
MOST_STEPS = 40
"""Up to how many steps of the action a reason is looked for that holds for few alone."""


@cache
def base(backbone: BackboneConfig | None = None) -> PolicySpec:
    """A spec around a backbone, with a VAE and a text encoder that fit it by size if any does.

    Without one, around the first that imagines.
    """
    if backbone is None:
        known: list[Any] = [default(cls) for cls in registry() if cls.kind == "backbone"]
        backbone = next(b for b in known if b.traits.imagines)
    assert backbone is not None
    traits = backbone.traits
    vaes: list[Any] = [default(cls) for cls in registry() if cls.kind == "vae"]
    texts: list[Any] = [default(cls) for cls in registry() if cls.kind == "text_encoder"]
    heads = [default(cls) for cls in registry() if cls.kind == "action_head"]
    paradigms = [default(cls) for cls in registry() if cls.kind == "paradigm"]

    def rank(vae: Any) -> tuple[bool, bool, bool]:
        """A backbone that takes any latents is shown those that belong to no other."""
        open_ = not traits.latent_channels and vae.latent_space is not None
        other = bool(traits.latent_channels) and vae.channels != traits.latent_channels
        return vae.name not in traits.trained_with.vae, other, open_

    vae = min(vaes, key=rank)
    text = min(texts, key=lambda t: t.width != traits.text_width)
    if traits.cond_channels == 0 and traits.latent_channels not in (0, vae.channels):
        vae = vae.model_copy(update={"adapter": "linear"})
    size = [8 * s * p for s, p in zip(vae.stride[1:], traits.patch_size[1:], strict=True)]
    return PolicySpec.model_validate(
        {
            "backbone": backbone,
            "vae": vae,
            "text_encoder": text,
            "action_head": heads[0],
            "paradigm": paradigms[0],
            "actions": {"chunk_size": CHUNK, "groups": [{"name": "arm", "size": ACTION}]},
            "state": {"size": STATE},
            "cameras": {"views": [{"name": "front", "size": size}]},
            "schedules": {"video": {"steps": VIDEO_STEPS}, "action": {"steps": ACTION_STEPS}},
        }
    )


def fitted(part: Any) -> Any:
    """A part with what it leaves open set by others, where it is a backbone or a text encoder."""
    if part.kind == "backbone":
        return base(part).fitted().backbone
    if part.kind == "text_encoder":
        return base().model_copy(update={"text_encoder": part}).fitted().text_encoder
    return part


def at(
    backbone: BackboneConfig,
    head: ActionHeadConfig,
    paradigm: ParadigmConfig,
    imagined: int,
    state: int,
    steps: int = ACTION_STEPS,
    latents: int = OBSERVED,
    vae: Any = None,
    downscale: int = 1,
) -> PolicySpec:
    """A spec of these parts at sizes that stand for others, cut by `vae` or a usual one."""
    usual = base(backbone)
    stride, schedules = (vae or usual.vae).stride[0], usual.schedules
    observed = 1 + (latents - 1) * stride
    video = usual.video.model_copy(
        update={
            "num_observed": observed,
            "num_frames": observed + imagined * stride,
            "target_downscale": downscale,
        }
    )
    action = schedules.action.model_copy(update={"steps": steps})
    return usual.model_copy(
        update={
            "action_head": head,
            "paradigm": paradigm,
            "video": video,
            "state": usual.state.model_copy(update={"size": state}),
            "schedules": schedules.model_copy(update={"action": action}),
        }
    ).fitted()


Rule = Callable[[PolicySpec], Iterator[Conflict]]


def found(
    spec: PolicySpec, *rules: Rule, names: Mapping[int, str] | None = None
) -> list[dict[str, Any]]:
    """What rules say of a spec, with placeholders for its sizes, and for those of `names`."""
    conflicts: list[Conflict] = []
    for rule in rules:
        try:
            conflicts += rule(spec)
        except (WamkitError, NotImplementedError):
            continue
    return [_template(c, spec, names or {}) for c in conflicts if not c.missing]


def _template(conflict: Conflict, spec: PolicySpec, names: Mapping[int, str]) -> dict[str, Any]:
    video, stride = spec.video, spec.time_stride
    sizes = {
        video.num_observed + stride: "after",
        video.num_frames: "frames",
        video.num_observed: "observed",
        spec.latent_frames[1]: "imagined",
        spec.actions.chunk_size: "chunk",
        spec.actions.size: "action",
        spec.state.size: "state",
        spec.schedules.action.steps: "steps",
        spec.schedules.action.steps - 1: "last",
    }
    sizes = {size: name for size, name in sizes.items() if size >= SMALLEST or size == STATE}
    sizes |= {spec.actions.size: "action", spec.schedules.action.steps: "steps"}
    sizes |= {spec.schedules.action.steps - 1: "last"}
    sizes = {size: name for size, name in sizes.items() if size > 1}
    if not spec.latent_frames[1] and video.num_observed >= SMALLEST:
        sizes[video.num_observed] = "frames"
    sizes |= names

    def named(text: str) -> str:
        def place(match: re.Match[str]) -> str:
            name = sizes.get(int(match[0]))
            return match[0] if name is None else "{" + name + "}"

        return re.sub(r"(?<![\w.{])\d+(?![\w.]*\w)", place, text)

    return {
        "between": list(conflict.between),
        "why": named(conflict.why),
        "hint": named(conflict.hint),
    }


def pair_conflicts(head: Part, backbone: Part) -> list[dict[str, Any]]:
    """Why a head cannot be built with a backbone, whatever the sizes."""
    every = [
        found(spec, spec.action_head.conflicts)
        for state in (0, STATE)
        if (spec := at(backbone, head, _paradigm(), MANY, state))  # type: ignore[arg-type]
    ]
    return [conflict for conflict in every[0] if all(conflict in other for other in every)]


@cache
def _paradigm() -> ParadigmConfig:
    return next(default(cls) for cls in registry() if cls.kind == "paradigm")  # type: ignore[return-value]


def head_rules(head: ActionHeadConfig, backbone: BackboneConfig) -> list[list[dict[str, Any]]]:
    """What a head says of a backbone, in each of CONTEXTS.

    A reason that holds only where the state is wider than an action says so.
    """

    def of(imagined: int, state: int) -> list[dict[str, Any]]:
        spec = at(backbone, head, _paradigm(), imagined, state)
        return found(spec, spec.action_head.conflicts)

    rules = []
    for imagined, state in CONTEXTS:
        narrow = [c["between"] for c in of(imagined, min(state, NARROW))]
        rules.append(
            [c if c["between"] in narrow else {**c, "wider": True} for c in of(imagined, state)]
        )
    return rules


def companion_rules(backbone: BackboneConfig, part: Any) -> list[dict[str, Any]]:
    """What a backbone and a VAE or a text encoder say of each other, whatever the sizes."""
    spec = _with_companion(backbone, part, 1)
    reported = getattr(spec, part.kind).conflicts
    own = {str(c) for c in spec.backbone.conflicts(spec)} if part.kind != "vae" else set[str]()
    return found(
        spec, reported, lambda s: (c for c in s.backbone.conflicts(s) if str(c) not in own)
    )


def _with_companion(backbone: BackboneConfig, part: Any, latents: int) -> PolicySpec:
    about = base(backbone)
    vae = part if part.kind == "vae" else None
    usual = at(backbone, about.action_head, about.paradigm, MANY, STATE, latents=latents, vae=vae)
    return usual.model_copy(update={part.kind: part, "backbone": backbone}).fitted()


def clip_rules(backbone: BackboneConfig) -> list[dict[str, Any]]:
    """What a backbone says of many observed latent frames: "above" how many it says so.

    Placeholders are `context`, so many latent frames, and `most`, the images of a view that make
    as many as it takes. Where even one image of each view is too many, the hint is "crowded".
    """
    vaes: list[Any] = [default(cls) for cls in registry() if cls.kind == "vae"]
    vae = next(vae for vae in vaes if vae.stride[0] > 1)

    def of(spec: PolicySpec, names: Mapping[int, str] | None = None) -> list[dict[str, Any]]:
        conflicts = found(spec, spec.backbone.conflicts, names=names)
        return [c for c in conflicts if c["between"] not in few]

    few: list[list[str]] = []
    few = [c["between"] for c in of(_with_companion(backbone, vae, 1))]
    many = _with_companion(backbone, vae, OBSERVED)
    if not of(many):
        return []
    for above in range(1, MOST_LATENTS):
        if of(_with_companion(backbone, vae, above + 1)):
            most = 1 + (above - 1) * vae.stride[0]
            crowded = of(_crowded(_with_companion(backbone, vae, 1), above + 1))
            hints = {" ".join(c["between"]): c["hint"] for c in crowded}
            return [
                {**c, "above": above, "crowded": hints.get(" ".join(c["between"]), c["hint"])}
                for c in of(many, {OBSERVED: "context", most: "most"})
            ]
    return []


def _crowded(spec: PolicySpec, count: int) -> PolicySpec:
    """A spec with so many views, each a latent frame by itself."""
    view = spec.cameras.views[0]
    views = tuple(view.model_copy(update={"name": f"view_{i}"}) for i in range(count))
    cameras = spec.cameras.model_copy(update={"views": views, "layout": "frame_per_view"})
    return spec.model_copy(update={"cameras": cameras})


def paradigm_rules(
    paradigm: ParadigmConfig, head: ActionHeadConfig, backbone: BackboneConfig
) -> list[list[dict[str, Any]]]:
    """What a paradigm says of a head and a backbone, in each of CONTEXTS.

    A reason that holds for so many "steps" of the action alone says so, as does one that holds
    where the schedule of a modality is "tied" to another, or where imagined frames are "smaller".
    """

    def of(imagined: int, state: int, steps: int, downscale: int = 1) -> list[dict[str, Any]]:
        spec = at(backbone, head, paradigm, imagined, state, steps, downscale=downscale)
        return found(spec, level_conflicts, spec.paradigm.conflicts)

    def for_few(imagined: int, state: int) -> list[dict[str, Any]]:
        usual, known = of(imagined, state, ACTION_STEPS), list[dict[str, Any]]()
        for steps in range(1, MOST_STEPS):
            few = [c for c in of(imagined, state, steps) if c not in usual]
            if not few:
                break
            known += [{**c, "steps": steps} for c in few]
        return known

    tied = []
    usual = of(MANY, STATE, ACTION_STEPS)
    for modality in ("video", "action"):
        spec = at(backbone, head, paradigm, MANY, STATE)
        flow = getattr(spec.schedules, modality).model_copy(update={"shared_sigma": True})
        schedules = spec.schedules.model_copy(update={modality: flow})
        spec = spec.model_copy(update={"schedules": schedules})
        more = [c for c in found(spec, spec.paradigm.conflicts) if c not in usual]
        tied += [{**c, "tied": modality} for c in more]
    depends = bool(for_few(MANY, STATE))
    rules = []
    for imagined, state in CONTEXTS:
        usual = of(imagined, state, ACTION_STEPS)
        smaller = [c for c in of(imagined, state, ACTION_STEPS, 2) if c not in usual]
        marked = [{**c, "smaller": True} for c in smaller]
        rules.append(usual + tied + marked + (for_few(imagined, state) if depends else []))
    return rules
