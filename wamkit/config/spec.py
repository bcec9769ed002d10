"""A policy on paper: five parts and the robot's side, read from TOML, YAML or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce
from math import gcd
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, create_model

from ..errors import SpecError, WamkitError, did_you_mean, shortened
from ..files.documents import read_table
from ..files.paths import expand_home
from .cameras import CameraConfig
from .configs import config_conflicts
from .describe import describe
from .extends import EXTENDS, START, UNSET, Extended, refuse_extends, resolve_extends
from .json_schema import allow_extends
from .mistakes import MANY, explain_mistakes, home_of, keys_of, rest
from .noise_schedule import Schedules
from .overrides import override as override
from .part_rules import BASES, schema_fault
from .parts import (
    KINDS,
    ActionHeadConfig,
    BackboneConfig,
    Conflict,
    HeadContext,
    ParadigmConfig,
    Part,
    TextEncoderConfig,
    VAEConfig,
)
from .registry import registry
from .robot import ActionConfig, StateConfig, VideoConfig
from .seeds import MOST
from .trust import expect_trusted
from .values import Table


class PolicySpec(Table):
    """The complete configuration of a policy. `wamkit.build` builds it."""

    backbone: SerializeAsAny[BackboneConfig]
    """The video model; its keys: `wamkit show backbone NAME`."""
    vae: SerializeAsAny[VAEConfig]
    """What encodes images to latents; its keys: `wamkit show vae NAME`."""
    text_encoder: SerializeAsAny[TextEncoderConfig]
    """What embeds the prompt; its keys: `wamkit show text_encoder NAME`."""
    action_head: SerializeAsAny[ActionHeadConfig]
    """What predicts actions; its keys: `wamkit show action_head NAME`."""
    paradigm: SerializeAsAny[ParadigmConfig]
    """What is learned and how a chunk is inferred; its keys: `wamkit show paradigm NAME`."""
    actions: ActionConfig
    """The action chunk: `wamkit show actions`."""
    state: StateConfig = Field(default_factory=StateConfig)
    """The robot's own measurements: `wamkit show state`."""
    cameras: CameraConfig
    """The views and their layout: `wamkit show cameras`."""
    video: VideoConfig = Field(default_factory=VideoConfig)
    """The clip that is observed and imagined: `wamkit show video`."""
    schedules: Schedules = Field(default_factory=Schedules)
    """Noise levels and solvers: `wamkit show schedules`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone and the action head; noise levels and losses are always float32."""
    seed: int = Field(0, ge=0, le=MOST)
    """Of random weights, where no published ones are named."""
    conventions: str = ""
    """Conventions that the policy was trained with, by the name that an environment has for them,
    such as LIBERO's `fastwam`: orientation of images, sign of the gripper, order of the state.
    `wamkit eval` sets them in every environment that has the option `conventions`, unless --env-arg
    does. Left out: the environment's usual ones."""
    format: Literal[1] = 1
    """Of the spec itself."""

    @property
    def sizes(self) -> HeadContext:
        """Build context of the action head."""
        return HeadContext(
            backbone=self.backbone,
            chunk=self.actions.chunk_size,
            action=self.actions.size,
            state=self.state.size,
            latent=(self.vae.channels, *self.latent_size),
            frames=self.latent_frames,
            predicts=self.predicts,
        )

    @property
    def predicts(self) -> tuple[str, ...]:
        """The vectors that are denoised; a next state only if there is a state."""
        wanted = self.paradigm.predicts
        return tuple(part for part in wanted if part != "next_state" or self.state.size)

    @property
    def num_images(self) -> int:
        """Images in a training sample: observed ones, and the future of every block."""
        return self._images(self.paradigm.chunks_per_sample) - (
            self.lead_frames * self.vae.stride[0]
        )

    @property
    def guided_images(self) -> int:
        """Images that conditioning latents are made for, at the beginning of an episode."""
        return self._images(self.paradigm.guided_chunks)

    def _images(self, chunks: int) -> int:
        """Observed images, and the future of so many chunks."""
        new = self.video.num_frames - self.video.num_observed
        return self.video.num_observed + chunks * new

    @property
    def steps(self) -> int:
        """Actions in a training sample."""
        return self.paradigm.chunks_per_sample * self.actions.chunk_size - self.lead_steps

    @property
    def lead_frames(self) -> int:
        """Latent frames of the first chunk that are the observed ones (`observed_in_block`)."""
        return self.latent_frames[0] // self.cameras.apart if self.paradigm.observed_in_block else 0

    @property
    def lead_steps(self) -> int:
        """Actions of the first chunk that led to them, which nobody knows."""
        imagined = max(self.latent_frames[1] // self.cameras.apart, 1)
        return self.actions.chunk_size * self.lead_frames // imagined

    @property
    def time_stride(self) -> int:
        """Images of a view that make one latent frame, after the first."""
        return 1 if self.cameras.clip == "shared" else self.vae.stride[0]

    @property
    def latent_frames(self) -> tuple[int, int]:
        """Latent frames that are observed, and that are imagined for one chunk."""
        stride, views = self.time_stride, self.cameras.apart
        observed = self.video.latents(self.video.num_observed, stride)
        imagined = self.video.latents(self.video.num_frames, stride) - observed
        return views * observed, views * imagined

    @property
    def leading_frames(self) -> int:
        """Latent frames of a black image before the observed ones, for heads that read one."""
        return self.action_head.leading_frames

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of a latent frame."""
        (height, width), (_, h, w) = self.cameras.canvas, self.vae.stride
        return height // h, width // w

    @property
    def target_size(self) -> tuple[int, int]:
        """Height and width of an imagined latent frame."""
        (height, width), scale = self.latent_size, self.video.target_downscale
        return height // scale, width // scale

    def tokens(self) -> dict[str, int]:
        """Tokens of each role in one full pass over one chunk."""
        traits, (observed, imagined) = self.backbone.traits, self.latent_frames
        numbers = self.action_head.tokens(self.sizes)
        return {
            "text": self.text_encoder.max_tokens,
            "context": traits.tokens(observed, *self.latent_size) + numbers.get("context", 0),
            "target": traits.tokens(imagined, *self.target_size),
            **{role: numbers.get(role, 0) for role in ("state", "action", "next_state", "value")},
        }

    def fitted(self) -> PolicySpec:
        """This spec with every value that was left open written out."""
        spec = self
        for kind in ("vae", "backbone", "text_encoder", "action_head", "paradigm"):
            spec = spec.model_copy(update={kind: getattr(spec, kind).resolve(spec)})
        return spec

    def tiny(self) -> tuple[PolicySpec, dict[str, str]]:
        """The same composition at toy size, and what became of each part (kind -> a few words)."""
        parts: dict[str, Any] = {}
        changes: dict[str, str] = {}
        for kind in KINDS:
            old = getattr(self, kind)
            new = old.tiny()
            parts[kind] = new if isinstance(new, Part) else parse_part(kind, new)
            if parts[kind].name != old.name:
                changes[kind] = f"{old.name} -> {parts[kind].name}"
            elif parts[kind] != old:
                changes[kind] = f"{old.name}, tiny"
        stride = parts["vae"].stride
        patch = parts["backbone"].traits.patch_size
        cameras = _shrunk(self.cameras, (stride[1] * patch[1], stride[2] * patch[2]))
        if cameras != self.cameras:
            old, new = self.cameras.canvas, cameras.canvas
            changes["cameras"] = f"canvas {old[0]}x{old[1]} -> {new[0]}x{new[1]}"
        return self.model_copy(update={**parts, "cameras": cameras}).fitted(), changes

    def dump(self) -> dict[str, Any]:
        """Plain data with every default written out; `parse` reads it back."""
        return self.model_dump(mode="json")


def _shrunk(cameras: CameraConfig, token: tuple[int, int]) -> CameraConfig:
    """The same layout with the smallest view two tokens high and wide; proportions are kept.

    Sizes that would grow stay as they are.
    """
    views = cameras.views
    common = [gcd(*(view.size[axis] for view in views)) for axis in (0, 1)]
    sizes = [
        tuple(n // c * 2 * t for n, c, t in zip(v.size, common, token, strict=True)) for v in views
    ]
    if any(
        new > old
        for v, size in zip(views, sizes, strict=True)
        for old, new in zip(v.size, size, strict=True)
    ):
        return cameras
    changed = (v.model_copy(update={"size": size}) for v, size in zip(views, sizes, strict=True))
    return cameras.model_copy(update={"views": tuple(changed)})


SECTIONS: dict[str, type[BaseModel]] = {
    "actions": ActionConfig,
    "state": StateConfig,
    "cameras": CameraConfig,
    "video": VideoConfig,
    "schedules": Schedules,
}
SCALARS = ("dtype", "seed", "conventions", "format")


def read(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The raw tables of a spec file, or of a saved policy, with `key=value` overrides.

    A spec that extends another is merged with it (`wamkit.config.extends`). Of a run or its
    checkpoints it is the policy that `wamkit.config.runs.find` chooses. Raises WamkitError if there
    is no such file, if it is not TOML, YAML or JSON, if the base it extends cannot be used, or if a
    saved policy names paths outside its folder that are not trusted (`wamkit.config.trust`).
    """
    from .runs import find, is_folder

    file, home = expand_home(path), None
    if is_folder(file):
        home = find(file).policy
        file = home / "spec.yaml"
    if not file.is_file():
        near = [str(p) for p in file.parent.glob("*") if p.suffix in {".toml", ".yaml", ".yml"}]
        raise WamkitError(
            f"no spec at {path}",
            did_you_mean(str(file), near, "name a .toml, .yaml or .json file, or a saved policy"),
        )
    raw = read_table(file, "spec", START)
    if home is None:
        raw = resolve_extends(raw, file)
        if isinstance(raw, Extended):
            return raw.apply_overrides(overrides)
        return override(raw, overrides)
    refuse_extends(raw, file)
    used = override(raw, overrides)
    expect_trusted(raw, used, home)
    return used


def parse(raw: Mapping[str, Any], source: str = "the spec") -> PolicySpec:
    """Validate raw tables into a spec. Raises SpecError with every mistake in them."""
    values, conflicts = draft(raw)
    if conflicts:
        raise SpecError(conflicts, source)
    return PolicySpec(**values).fitted()


def draft(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Conflict]]:
    """Those sections of `raw` that are right, and a conflict for everything that is wrong.

    Of a spec that extends another, a conflict says in which file and line the mistake stands.
    """
    values, conflicts = _draft(raw)
    return values, raw.add_origins(conflicts) if isinstance(raw, Extended) else conflicts


def _draft(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Conflict]]:
    values: dict[str, Any] = {}
    conflicts: list[Conflict] = []
    known = [*KINDS, *SECTIONS, *SCALARS]
    unknown = [key for key in raw if key not in known]
    if len(unknown) > MANY:
        conflicts.append(rest("the spec", len(unknown) - MANY))
    for key in raw:
        if key in unknown[:MANY]:
            place, listed = home_of(key, SECTIONS), f"known are {', '.join(known)}"
            if key in (EXTENDS, UNSET):
                hint = f"`{EXTENDS}`, and `{UNSET}` with it, are read in .toml files of specs"
            elif place is not None and place.rpartition(".")[2] == key:
                hint = f"it belongs elsewhere: {place}"
            else:
                near = f"did you mean {place}?" if place else listed
                hint = did_you_mean(key, [*known, EXTENDS], near)
            conflicts.append(
                Conflict(between=(shortened(key),), why="no such section in a spec", hint=hint)
            )
    for kind in KINDS:
        if kind not in raw:
            names = ", ".join(registry().names(kind))
            conflicts.append(
                Conflict(
                    between=(kind,),
                    why="the spec does not name one",
                    hint=f"add a table [{kind}] with name = one of {names}",
                )
            )
            continue
        try:
            values[kind] = _part(kind, raw[kind])
        except SpecError as error:
            conflicts += error.conflicts
    for key, cls in SECTIONS.items():
        required = PolicySpec.model_fields[key].is_required()
        if key not in raw and required:
            conflicts.append(
                Conflict(
                    between=(key,),
                    why="the spec has no such table",
                    hint=f"add [{key}] with {keys_of(cls)}",
                )
            )
        elif key in raw:
            try:
                values[key] = cls.model_validate(raw[key])
            except ValidationError as error:
                conflicts += explain_mistakes(error, key, cls, SECTIONS)
        else:
            values[key] = PolicySpec.model_fields[key].get_default(call_default_factory=True)
    for key in SCALARS:
        if key in raw:
            values[key] = raw[key]
    try:
        _scalars().model_validate({k: raw[k] for k in SCALARS if k in raw})
    except ValidationError as error:
        conflicts += explain_mistakes(error, "", PolicySpec)
    return values, conflicts


@lru_cache(maxsize=1)
def _scalars() -> type[BaseModel]:
    """The form of the values that stand in no section."""
    fields = {
        k: (PolicySpec.model_fields[k].annotation, PolicySpec.model_fields[k]) for k in SCALARS
    }
    made: type[BaseModel] = create_model("Scalars", __base__=Table, **fields)  # type: ignore[call-overload]
    return made


def parse_part(kind: str, raw: Any) -> Part:
    """One part from its table. Raises SpecError with every mistake in it.

    What contradicts the config.json of its weights is one.
    """
    part = _part(kind, raw)
    if conflicts := list(config_conflicts(part)):
        raise SpecError(conflicts, kind)
    return part


def _part(kind: str, raw: Any) -> Part:
    """A part that may contradict its weights: that is a matter of the check."""
    if isinstance(raw, str):
        raw = {"name": raw}
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str):
        hint = f'write name = "..." with one of {", ".join(registry().names(kind))}'
        raise SpecError([Conflict(between=(kind,), why="it has no name", hint=hint)], kind)
    try:
        cls = registry().get(kind, raw["name"])
    except WamkitError as error:
        raise SpecError(
            [Conflict(between=(f"{kind}.name",), why=error.what, hint=error.hint)], kind
        ) from None
    try:
        return cls.model_validate(dict(raw))
    except ValidationError as error:
        raise SpecError(explain_mistakes(error, kind, cls, SECTIONS), kind) from None


def schema() -> dict[str, Any]:
    """JSON schema of every spec that can be written with the parts installed.

    A part that has no JSON schema (`schema_fault`) is left out.
    """
    fields: dict[str, Any] = {}
    for kind in KINDS:
        known = registry().parts[kind].values()
        classes: list[Any] = [cls for cls in known if not schema_fault(cls)]
        classes = classes or [BASES[kind]]
        union: Any = reduce(or_, classes)
        discriminated = Annotated[union, Field(discriminator="name")] if len(classes) > 1 else union
        fields[kind] = (discriminated, ...)
    model = create_model("Spec", __base__=PolicySpec, **fields)
    describe(model)
    names = {section: cls.__name__ for section, cls in SECTIONS.items()}
    return allow_extends(model.model_json_schema(), KINDS, names)
