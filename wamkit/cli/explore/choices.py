"""The parts and the published systems that the page offers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

from ...config.compositions import default
from ...config.parts import KINDS, Part
from ...config.registry import registry
from ...config.spec import PolicySpec, parse, parse_part, read
from ...errors import WamkitError
from ...files import strict_json
from .brought import followed

PACKAGED = Path(__file__).parent / "examples"  # of a wheel
SOURCE = Path(__file__).parents[3] / "examples"
LEFT_OUT = ("weights", "lora", "lora_scale", "origin", "embeddings_file", "conditioner_weights")
"""Keys that name files, which change nothing on the page."""
WITHOUT_SPEC = ("Faster-WAM", "EasyWAM", "OpenWAM", "GigaWorld-Policy-0.5", "LaWAM")
"""Systems of docs/systems.md that no spec says yet as they are."""
FOR_TESTS = "tiny"
"""The variant of a family that has no published weights."""


@dataclass(frozen=True)
class Choice:
    """A part as the page offers it."""

    part: Part
    table: Mapping[str, Any]
    """As it is written in a spec."""
    origin: str = ""
    """The system that it is from, if it is no part's default."""

    @cached_property
    def key(self) -> str:
        """What tells it from all other parts: what a spec says of it."""
        text = strict_json.dumps([self.part.kind, self.table])
        return sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Preset:
    """A spec that the page can begin with."""

    name: str
    raw: Mapping[str, Any]
    about: str
    parts: Mapping[str, Choice]
    brought: tuple[str, ...] = ()
    """Options of the spec that the page does not follow: neither `raw` nor `parts` has them."""
    whole: Mapping[str, Any] | None = None
    """The spec with them, if it has any."""


def choices(spec: Path | None = None) -> tuple[dict[str, list[Choice]], list[Preset]]:
    """The parts of every kind, and the systems; `spec` is one more of these, and the first."""
    offered: dict[str, list[Choice]] = {kind: [] for kind in KINDS}
    for cls in registry():
        if cls.kind in KINDS:
            offered[cls.kind] += _variants(cls)
    presets = [_preset(file) for file in example_files()]
    if spec is not None:
        presets.insert(0, _preset(spec))
    for preset in presets:
        for kind, choice in preset.parts.items():
            if all(choice.key != other.key for other in offered[kind]):
                offered[kind].append(choice)
    for backbone in offered["backbone"]:
        for kind, table in backbone.part.default_parts().items():
            needed = Choice(parse_part(kind, table), table, backbone.part.name)  # type: ignore[attr-defined]
            if all(needed.key != other.key for other in offered[kind]):
                offered[kind].append(needed)
    return offered, presets


def example_files() -> list[Path]:
    """The specs of published systems and of new combinations."""
    folder = PACKAGED if PACKAGED.is_dir() else SOURCE
    return sorted(folder.glob("*.toml"))


def _variants(cls: type[Part]) -> Iterator[Choice]:
    """A part as its name alone makes it, and every variant but the one for tests."""
    usual = default(cls)
    name, field = usual.name, cls.model_fields.get("variant")
    if field is None:
        yield Choice(usual, {"name": name})
        return
    own = usual.variant  # type: ignore[attr-defined]
    for variant in sorted(get_args(field.annotation), key=lambda v: v != own):
        if variant != FOR_TESTS:
            table = {"name": name, "variant": variant}
            yield Choice(parse_part(cls.kind, table), table)


def _preset(file: Path) -> Preset:
    raw = read(file)
    parse(raw, str(file))
    kept, names = followed(raw)
    parts = {}
    for kind in KINDS:
        table = part_table(kept[kind])
        parts[kind] = Choice(parse_part(kind, table), table, file.stem)
    return Preset(file.stem, kept, _about(file), parts, tuple(names), raw if names else None)


def part_table(given: Any) -> dict[str, Any]:
    """What a spec says of a part, without the files it names."""
    table = {"name": given} if isinstance(given, str) else dict(given)
    return {key: value for key, value in table.items() if key not in LEFT_OUT}


def spec_of(raw: Mapping[str, Any]) -> PolicySpec:
    """A spec as read, without the files it names."""
    parts = {kind: parse_part(kind, part_table(raw[kind])) for kind in KINDS}
    return PolicySpec.model_validate({**raw, **parts})


def _about(file: Path) -> str:
    """The first paragraph of a spec's comment."""
    if file.suffix != ".toml":
        return ""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        lines.append(text)
    return " ".join(lines)


def expect_spec(spec: Path) -> None:
    """Raise WamkitError if a spec has mistakes that keep it from being shown."""
    if not spec.exists():
        raise WamkitError(f"no spec at {spec}", "name a .toml, .yaml or .json file")
    parse(read(spec), str(spec))
