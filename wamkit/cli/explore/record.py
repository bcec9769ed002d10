"""Counts that are kept with wamkit, because they take minutes: of passes and of the VAEs.

    python -m wamkit.cli.explore.record

writes them anew, for all installed parts and the specs in `examples`. A part that is not among them
is counted when a page is made.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...config.check import missing_files
from ...files import strict_json
from ...files.durable import write_bytes
from .brought import whole, whole_key
from .choices import Choice, Preset, choices, spec_of

GROUPS = ("pairs", "vaes", "parameters", "systems")
SMALL = 50_000_000
"""Parameters of a backbone below which it is counted in float32 too."""
FILE = Path(__file__).parent / "counts.json.gz"


def recorded() -> dict[str, Any]:
    """What is kept: pairs, VAEs and parameters by the keys of parts, and systems by their own."""
    if not FILE.is_file():
        return {group: {} for group in GROUPS}
    found: dict[str, Any] = strict_json.loads(gzip.decompress(FILE.read_bytes()).decode())
    return {group: {} for group in GROUPS} | found


def counted(
    offered: Mapping[str, list[Choice]], known: Mapping[str, Any], pairs: Sequence[Pair]
) -> Iterator[tuple[str, str, Any]]:
    """What is not `known` yet of the parts offered and of some pairs, one after the other."""
    import torch

    from ...bench.counts.encoding import encoding
    from ...bench.counts.passes import Measured, measure
    from .._params import parameters
    from .rules import fitted

    for kind in ("backbone", "vae", "text_encoder"):
        for choice in offered[kind]:
            if choice.key not in known["parameters"] and not missing_files(choice.part):
                yield "parameters", choice.key, parameters(fitted(choice.part))
    for vae in offered["vae"]:
        if vae.key not in known["vaes"] and not missing_files(vae.part):
            yield "vaes", vae.key, encoding(vae.part)  # type: ignore[arg-type]
    done: dict[str, Any] = {}
    networks: dict[str, list[Measured]] = {}
    for backbone, head in pairs:
        name = f"{backbone.key} {head.key}"
        if name in known["pairs"] or missing_files(backbone.part) or not may_join(head, backbone):
            continue
        same = f"{_sizes(backbone, known)} {head.key}"
        if same not in done:
            if backbone.key not in networks:
                part: Any = fitted(backbone.part)
                small = known["parameters"].get(backbone.key, SMALL) < SMALL
                dtypes = (torch.bfloat16, torch.float32) if small else (torch.bfloat16,)
                networks = {backbone.key: [Measured(part, dtype) for dtype in dtypes]}
            narrow, *wide = networks[backbone.key]
            done[same] = asdict(measure(narrow, head.part, *wide))  # type: ignore[arg-type]
        yield "pairs", name, done[same]


Pair = tuple[Choice, Choice]
"""A backbone and an action head."""


def wanted(offered: Mapping[str, list[Choice]], presets: Sequence[Preset]) -> list[Pair]:
    """The pairs that are kept.

    Those of systems, every head as it is by default besides every backbone, and the heads of
    systems besides backbones as they are by default.
    """
    heads = [head for head in offered["action_head"] if not head.origin]
    usual = {b.part.name: b for b in reversed(offered["backbone"]) if not b.origin}
    tiers = (
        [(p.parts["backbone"], p.parts["action_head"]) for p in presets],
        [(b, h) for b in usual.values() for h in heads],
        [(b, h) for b in usual.values() for h in offered["action_head"]],
        [(b, h) for b in offered["backbone"] for h in heads],
    )
    order = [b.key for b in offered["backbone"]]
    first: dict[str, Pair] = {}
    for pairs in tiers:
        for pair in sorted(pairs, key=lambda pair: order.index(pair[0].key)):
            first.setdefault(f"{pair[0].key} {pair[1].key}", pair)
    return list(first.values())


def _sizes(backbone: Choice, known: Mapping[str, Any]) -> str:
    """What variants of a family that differ in nothing that costs have in common."""
    part: Any = backbone.part
    traits = part.traits.model_dump(mode="json", exclude={"trained_with"})
    return strict_json.dumps([part.name, traits, known["parameters"].get(backbone.key)])


def may_join(head: Choice, backbone: Choice) -> bool:
    """Whether a head can be built with a backbone at all."""
    from .rules import pair_conflicts

    return not pair_conflicts(head.part, backbone.part)


def main() -> None:
    """Count everything anew, and write the file; what a stopped run has counted is kept."""
    import sys

    found = recorded() if "--continue" in sys.argv else {group: {} for group in GROUPS}
    offered, presets = choices()
    for group, key, value in counted(offered, found, wanted(offered, presets)):
        found[group][key] = value
        print(group, key, len(found[group]), file=sys.stderr, flush=True)
        if value and isinstance(value, dict) and value.get("unsolved"):
            print("   no polynomial:", value["unsolved"], file=sys.stderr)
        if len(found["pairs"]) % 10 == 0:
            _write(found)
    for preset in presets:
        if preset.whole and whole_key(preset.whole) not in found["systems"]:
            found["systems"][whole_key(preset.whole)] = whole(spec_of(preset.whole))
    _write(found)


def _write(found: Mapping[str, Any]) -> None:
    text = strict_json.dumps(found, separators=(",", ":"))
    write_bytes(FILE, gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
