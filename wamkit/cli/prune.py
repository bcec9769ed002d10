"""`wamkit prune`: a smaller backbone out of a spec's, and the spec of the policy around it."""

from __future__ import annotations

import json as _json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config.runs import is_folder
from ..config.spec import parse, read
from ..config.trust import named_paths, remember
from ..errors import SpecError, WamkitError
from ..files.durable import recover, replacing_folder
from ..files.paths import expand_home
from ..policy.build import fetch_configs
from ._options import Json, Overrides, Spec, Tiny
from ._output import emit, note, say, spinner
from ._sources import resolve_source
from .check import conflicts_of

EXAMPLE = "wamkit prune fastwam.toml --layers efficient-wam --num-heads 16 --mlp-dim 8192 --out s"

WEIGHTS, SPEC = "backbone.safetensors", "spec.yaml"


def command(
    spec: Spec,
    out: Annotated[Path, typer.Option(help="Folder to write: weights and a spec.")],
    layers: Annotated[
        str,
        typer.Option(
            help="How many blocks, evenly spaced; or which, counted from 0, with commas between "
            "them; or efficient-wam."
        ),
    ],
    num_heads: Annotated[
        int | None, typer.Option(min=1, help="Number of heads; by default all.")
    ] = None,
    mlp_dim: Annotated[
        int | None, typer.Option(min=1, help="Units of each feed-forward; by default all.")
    ] = None,
    overrides: Overrides = None,
    tiny: Tiny = False,
    json: Json = False,
) -> None:
    """Cut a narrower and shallower student out of the backbone of a spec.

    The head size stays, so that the width becomes heads times head size. Writes
    backbone.safetensors and spec.yaml, the same composition around the student.
    """
    spec = resolve_source(spec)
    if not tiny:
        fetch_configs(read(spec, overrides or []))
    found = [c for c in conflicts_of(spec, overrides or [], tiny=tiny) if not c.missing]
    if found:
        raise SpecError(found, str(spec))
    whole = parse(read(spec, overrides or []), str(spec))
    if tiny:
        whole, _ = whole.tiny()
    out = recover(expand_home(out))
    _free(out)
    saved = is_folder(spec)
    if saved and not tiny:
        from ..policy.saving import with_files

        whole = with_files(whole, spec.absolute())
    elif saved:
        note(f"the weights of {spec} do not fit toy size and are left out")
    from ..checkpoints import safetensors as weights
    from ..checkpoints.prune import prune_weights, student_of
    from ..checkpoints.random_weights import build_seeded

    traits = whole.backbone.traits
    chosen = chosen_layers(layers, traits.depth)
    wanted = num_heads or traits.num_heads, mlp_dim or traits.mlp_dim
    config = student_of(whole.backbone, chosen, *wanted)
    with spinner("slicing"):
        teacher = build_seeded(whole, "backbone", whole.backbone.build, "cpu")
        student = prune_weights(teacher, whole.backbone, chosen, *wanted)
    counts = weights.parameters(teacher), weights.parameters(student)
    config = config.model_copy(update={"weights": str((out / WEIGHTS).absolute())})
    update: dict[str, Any] = {"backbone": config}
    if whole.action_head.weights is not None:
        update["action_head"] = whole.action_head.model_copy(update={"weights": None})
        note("the action head's weights were made for the whole backbone, and are left out")
    if saved and not tiny:
        from ..policy.actions import read_statistics
        from ..policy.saving import STATISTICS

        left = [file.name for file in sorted(spec.glob("*_adapter.safetensors"))]
        if read_statistics(spec / STATISTICS):
            left.append(STATISTICS)
        if left:
            note(f"a spec cannot name {' and '.join(left)}, which are left out")
    from ..files import strict_yaml

    goal = out / SPEC
    with spinner("writing"), replacing_folder(out) as part:
        weights.save(student, part / WEIGHTS)
        made = whole.model_copy(update=update).dump()
        (part / SPEC).write_text(strict_yaml.dumps(made))
    remember(named_paths(made).values())
    if whole.backbone.weights is None:
        note("the backbone has random weights, and so has the student")
    if json:
        emit({"spec": str(goal), "layers": chosen, "parameters": list(counts)})
        return
    say(
        f"kept blocks {_json.dumps(chosen)} of {traits.depth}, {wanted[0]} of {traits.num_heads} "
        "heads"
    )
    say(f"{counts[0]:,} parameters became {counts[1]:,}")
    say(f"wrote {goal}; try `wamkit explain {goal}`", whole=True)


def chosen_layers(text: str, depth: int) -> list[int]:
    """The blocks that `--layers` asks for. Raises WamkitError if it is none of its forms."""
    from ..checkpoints.prune import PUBLISHED, evenly_spaced

    if text in PUBLISHED:
        return list(PUBLISHED[text])
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    if not pieces or not all(piece.isdigit() for piece in pieces):
        raise WamkitError(
            f"--layers {text!r} is no number of blocks and no list of them",
            f"for example --layers 12, --layers 0,2,4 or --layers {next(iter(PUBLISHED))}",
        )
    return [int(p) for p in pieces] if len(pieces) > 1 else evenly_spaced(int(pieces[0]), depth)


def _free(out: Path) -> None:
    """Raise WamkitError if `out` holds other files than those of an earlier prune."""
    inside = {p.name for p in out.iterdir()} if out.is_dir() else set()
    if (out.exists() and not out.is_dir()) or inside - {WEIGHTS, SPEC}:
        raise WamkitError(f"{out} exists and holds other things", "choose another folder")
