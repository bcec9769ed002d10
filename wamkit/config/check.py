"""All reasons why a spec cannot be built, before a weight is loaded and without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from ..errors import WamkitError
from ..files.hub import cached_path
from ..files.install import install_hint
from ..files.locate import split_prefix
from ..files.variables import BLOCK, DEBUG
from .configs import config_conflicts, unseen
from .episodes import episode_conflicts
from .parts import KINDS, Caution, Conflict, Finding, Part
from .prefix import prefix_conflicts
from .programs import level_conflicts
from .prompts import has_place
from .registry import registry
from .relative import relative_conflicts, state_conflicts
from .shared_clip import shared_clip_conflicts
from .spec import PolicySpec, draft, read
from .tiling import resize_hint, retile
from .trained import naming_hint, strange_text_encoder, strange_vae
from .view_encoding import encoding_conflicts
from .views import memory_conflicts, observed_images_conflicts


class _AbsentError(Exception):
    """A rule needs a section that is itself in conflict."""


class _Draft:
    """A spec of which some sections may be wrong; a rule that needs one of those is skipped."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        derived = PolicySpec.__dict__.get(name)
        if isinstance(derived, property) and derived.fget is not None:
            return derived.fget(self)
        raise _AbsentError(name)


def check(spec: PolicySpec | str | Path | Mapping[str, Any]) -> list[Conflict]:
    """Every conflict in `spec`: mistakes in its text, and parts that do not fit each other.

    `spec` is a PolicySpec, a path, or raw tables. An empty list means that it can be built.
    Raises WamkitError only if a file cannot be read at all.
    """
    if isinstance(spec, PolicySpec):
        return list(_rules(spec))
    partial, conflicts = _fill_defaults(spec)
    return conflicts + list(_rules(partial))


def warnings_of(spec: PolicySpec | str | Path | Mapping[str, Any]) -> list[Caution]:
    """Warnings about parts that fit in `spec` but may not work as expected; partial if broken.

    `spec` is as for `check`. A warning changes no result and no exit code.
    """
    partial = spec if isinstance(spec, PolicySpec) else _fill_defaults(spec)[0]
    rules: list[Callable[[Any], Iterator[Caution]]] = [strange_vae, strange_text_encoder]
    for kind in KINDS:
        rules.append(lambda s, k=kind: getattr(s, k).cautions(s))  # type: ignore[misc]
        rules.append(lambda s, k=kind: unseen(getattr(s, k)))  # type: ignore[misc]
    return list(_collect(rules, partial))


def _fill_defaults(spec: str | Path | Mapping[str, Any]) -> tuple[Any, list[Conflict]]:
    """A draft of a spec with its defaults, and the mistakes in its text."""
    values, conflicts = draft(spec if isinstance(spec, Mapping) else read(spec))
    partial: Any = _Draft(values)
    for kind in ("vae", "backbone", "text_encoder", "action_head", "paradigm"):
        if kind in values:
            try:
                values[kind] = values[kind].resolve(partial)
            except _AbsentError:
                continue
            except WamkitError:
                raise
            except Exception as error:
                conflicts.append(failed(error))
                continue
            partial = _Draft(values)
    return partial, conflicts


F = TypeVar("F", bound=Finding)


def _collect(rules: Iterable[Callable[[Any], Iterator[F]]], spec: Any) -> Iterator[F]:
    """Findings of the rules; rules that need a section in conflict are skipped."""
    for rule in rules:
        try:
            yield from rule(spec)
        except Exception:  # or a plugin's bug, of which `check` tells
            continue


def _rules(spec: Any) -> Iterator[Conflict]:
    rules: list[Callable[[Any], Iterator[Conflict]]] = [
        _cameras,
        _channels,
        _guides,
        _text,
        _canvas,
        encoding_conflicts,
        episode_conflicts,
        _clip,
        _future,
        memory_conflicts,
        level_conflicts,
        _coarser,
        shared_clip_conflicts,
        _embedding_conflicts,
        state_conflicts,
        relative_conflicts,
        prefix_conflicts,
        _modules,
        _folders,
        _configs,
    ]
    for kind in KINDS:
        rules.append(lambda s, k=kind: getattr(s, k).conflicts(s))  # type: ignore[misc]
    rules.append(_facts)
    found = 0
    for rule in rules:
        if rule is _facts and found:
            continue
        try:
            for conflict in rule(spec):
                found += 1
                yield conflict
        except _AbsentError:
            continue
        except WamkitError:
            raise
        except Exception as error:
            yield failed(error)


def _facts(spec: PolicySpec) -> Iterator[Conflict]:
    """Ask for what `explain` and `build` will ask for, so that a plugin's bug shows here."""
    try:
        spec.tokens()
        spec.paradigm.program(spec)
    except (WamkitError, NotImplementedError):  # said where it is asked for in earnest
        return
    yield from ()


def failed(error: Exception) -> Conflict:
    """The conflict of a plugin whose rule failed; `error` again if no plugin is to blame."""
    plugin = registry().blame(error)
    if plugin is None or os.environ.get(DEBUG):
        raise error
    return Conflict(
        between=(f"plugin {plugin.name}",),
        why=f"a bug in {plugin.name} (from {plugin.distribution} {plugin.version}): "
        f"{type(error).__name__}: {error}",
        hint=f"tell its authors; {DEBUG}=1 shows where it happened, and {BLOCK}={plugin.name} "
        "leaves it out",
    )


def _cameras(spec: PolicySpec) -> Iterator[Conflict]:
    yield from spec.cameras.conflicts()


def _channels(spec: PolicySpec) -> Iterator[Conflict]:
    theirs, ours = spec.vae.channels, spec.backbone.traits.latent_channels
    if theirs != ours and spec.vae.adapter == "none":
        yield Conflict(
            between=("vae", "backbone"),
            why=f"{spec.vae.name} makes latents of {theirs} channels, "
            f"{spec.backbone.name} denoises latents of {ours}",
            hint="choose the VAE the backbone was trained with"
            f"{naming_hint(spec.backbone, 'vae')}, or "
            'set vae.adapter = "linear" to learn projections between the two',
        )


def _guides(spec: PolicySpec) -> Iterator[Conflict]:
    traits = spec.backbone.traits
    made = spec.vae.stride[0] + spec.vae.channels
    if traits.cond_channels and traits.cond_channels != made:
        yield Conflict(
            between=("backbone", "vae"),
            why=f"this variant of {spec.backbone.name} is guided by {traits.cond_channels} "
            f"channels, {spec.vae.name} makes {spec.vae.stride[0]} of mask and "
            f"{spec.vae.channels} of latents",
            hint=f"choose the VAE the backbone was trained with{naming_hint(spec.backbone, 'vae')}",
        )


def _text(spec: PolicySpec) -> Iterator[Conflict]:
    theirs, ours = spec.text_encoder.width, spec.backbone.traits.text_width
    if theirs != ours and spec.text_encoder.adapter == "none":
        yield Conflict(
            between=("text_encoder", "backbone"),
            why=f"{spec.text_encoder.name} makes embeddings of width {theirs}, "
            f"{spec.backbone.name} reads width {ours}",
            hint='set text_encoder.adapter = "linear" to learn a projection, or choose the encoder '
            f"the backbone was trained with{naming_hint(spec.backbone, 'text_encoder')}",
        )
    if spec.backbone.traits.text == "none" and not spec.action_head.reads_text:
        yield Conflict(
            between=("backbone", "action_head"),
            why=f"{spec.backbone.name} reads no text, nor does {spec.action_head.name}: the "
            "instruction would change nothing",
            hint="choose an action head that attends to the instruction, such as mot with "
            'action_head.text = "cross"',
        )
    if not has_place(spec.text_encoder.prompt_template):
        yield Conflict(
            between=("text_encoder.prompt_template",),
            why=f"{spec.text_encoder.prompt_template!r} has no place for the instruction",
            hint="write {instruction} where the instruction belongs",
        )


def _canvas(spec: PolicySpec) -> Iterator[Conflict]:
    stride, patch = spec.vae.stride, spec.backbone.traits.patch_size
    token = stride[1] * patch[1], stride[2] * patch[2]
    fits = retile(spec.cameras, token).canvas
    for axis, size, s, p, new in zip(
        ("high", "wide"), spec.cameras.canvas, stride[1:], patch[1:], fits, strict=True
    ):
        if size % (s * p):
            yield Conflict(
                between=("cameras", "vae", "backbone"),
                why=f"the canvas is {size} pixels {axis}, which {spec.vae.name} (stride {s}) and "
                f"{spec.backbone.name} (patch {p}) cannot cut into tokens of {s * p} pixels",
                hint=f"change the sizes of the views so that the canvas is {new} pixels {axis}: "
                f"{resize_hint(spec.cameras, token)}",
            )


def _clip(spec: PolicySpec) -> Iterator[Conflict]:
    stride = spec.time_stride
    if spec.video.observed_latents == "images":
        yield from observed_images_conflicts(spec)
        return
    for name, count in (
        ("num_frames", spec.video.num_frames),
        ("num_observed", spec.video.num_observed),
    ):
        if (count - 1) % stride:
            low = 1 + (count - 1) // stride * stride
            yield Conflict(
                between=(f"video.{name}", "vae"),
                why=f"{count} images cannot be cut into one and groups of {stride}, as "
                f"{spec.vae.name} needs",
                hint=f"set video.{name} = {low} or {low + stride}",
            )
    if spec.video.num_observed >= max(2, spec.video.num_frames):
        yield Conflict(
            between=("video.num_observed", "video.num_frames"),
            why=f"{spec.video.num_observed} of {spec.video.num_frames} images are observed, "
            "none is left "
            "to imagine",
            hint=f"set video.num_frames = {spec.video.num_observed + stride}, or "
            f"video.num_observed = 1",
        )


def _future(spec: PolicySpec) -> Iterator[Conflict]:
    traits, (_, imagined) = spec.backbone.traits, spec.latent_frames
    context, stride = spec.video.num_observed, spec.time_stride
    if imagined and not traits.imagines:
        yield Conflict(
            between=("backbone", "video.num_frames"),
            why=f"{spec.backbone.name} only encodes images; it cannot imagine "
            f"{spec.video.num_frames - context} images",
            hint=f"set video.num_frames = {context}, or choose a backbone that was trained to "
            "denoise",
        )
    elif imagined > 1 and traits.frames == "one":
        hint = f"set video.num_frames = {context + stride}, and video.frame_stride to when that "
        hint += "image is"
        if imagined == spec.cameras.apart:
            hint = (
                'set cameras.layout = "side_by_side", so that the views of a moment are one frame'
            )
        yield Conflict(
            between=("backbone", "video.num_frames"),
            why=f"{spec.backbone.name} edits images: it denoises one frame a pass, not {imagined}",
            hint=hint,
        )


def _coarser(spec: PolicySpec) -> Iterator[Conflict]:
    times, traits = spec.video.target_downscale, spec.backbone.traits
    if times == 1:
        return
    stride, patch = spec.vae.stride, traits.patch_size
    token = [times * s * p for s, p in zip(stride[1:], patch[1:], strict=True)]
    canvas = spec.cameras.canvas
    if any(n % t for n, t in zip(canvas, token, strict=True)):
        high, wide = retile(spec.cameras, (token[0], token[1])).canvas
        yield Conflict(
            between=("video.target_downscale", "cameras"),
            why=f"images of {canvas[0]}x{canvas[1]} that are made {times} times smaller cannot "
            f"be cut into tokens of {stride[1] * patch[1]}x{stride[2] * patch[2]} pixels",
            hint=f"change the views so that the canvas is {high}x{wide}: "
            f"{resize_hint(spec.cameras, (token[0], token[1]))}, or set video.target_downscale = 1",
        )
    if traits.cond_channels:
        yield Conflict(
            between=("video.target_downscale", "backbone"),
            why=f"this variant of {spec.backbone.name} takes a mask of observed images, "
            "on the grid of the observed frames",
            hint="set video.target_downscale = 1, or choose a variant that takes the first frame "
            "as a clean "
            "latent",
        )


def missing_files(part: Part) -> list[str]:
    """The modules that a part needs and that are not installed."""
    missing = []
    for name in part.requires:
        try:
            found = find_spec(name)
        except (ImportError, ValueError):  # a parent that is not there, a module without a spec
            found = None
        if found is None:
            missing.append(name)
    return missing


def _embedding_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    path = spec.text_encoder.embeddings_file
    if path is None:
        return
    try:
        place = cached_path(path)
    except WamkitError as error:
        yield Conflict(between=("text_encoder.embeddings_file",), why=error.what, hint=error.hint)
        return
    if place is not None and not place.is_file():
        yield Conflict(
            between=("text_encoder.embeddings_file",),
            why=f"no file is at {path}",
            hint="write it: `wamkit precompute text SPEC --prompts FILE --out FILE`",
            missing=True,
        )


def _modules(spec: Any) -> Iterator[Conflict]:
    for kind in KINDS:
        try:
            part = getattr(spec, kind)
        except _AbsentError:
            continue
        stored = getattr(part, "embeddings_file", None) is not None  # then the part is never built
        missing = [] if stored else missing_files(part)
        if missing:
            yield Conflict(
                between=(kind,),
                why=f"{part.name} needs {', '.join(missing)}, which is not installed",
                hint=install_hint(modules=missing),
                missing=True,
            )


def _folders(spec: Any) -> Iterator[Conflict]:
    for kind in KINDS:
        try:
            part = getattr(spec, kind)
        except _AbsentError:
            continue
        own_library = getattr(part, "external_weights", False)
        for key in ("weights", "lora"):
            if (path := getattr(part, key, None)) is None:
                continue
            if key == "lora" and own_library:
                yield Conflict(
                    between=(f"{kind}.lora",),
                    why=f"the weights of {part.name} are read by a library that merges no LoRA",
                    hint="merge the LoRA with the program that made it, and name the result",
                )
                continue
            yield from _missing_path(f"{kind}.{key}", path)


def _missing_path(setting: str, path: str) -> Iterator[Conflict]:
    try:
        place = cached_path(split_prefix(path)[0])
    except WamkitError as error:
        yield Conflict(between=(setting,), why=error.what, hint=error.hint)
        return
    if place is not None and not place.exists():
        yield Conflict(
            between=(setting,),
            why=f"nothing is at {path}",
            hint="name a folder or a safetensors file, or leave the key out for random weights",
            missing=True,
        )


def _configs(spec: Any) -> Iterator[Conflict]:
    for kind in KINDS:
        try:
            yield from config_conflicts(getattr(spec, kind))
        except _AbsentError:
            continue
