"""A saved policy: a folder with the spec, one safetensors file a part, statistics and a card.

spec.yaml              the composition, with every default written out
backbone.safetensors   one file for each part that has weights, and for a backbone's conditioner
statistics.json        what actions and states are normalized by
README.md              model card: parts, sources, licenses
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .. import __version__
from ..checkpoints import safetensors as weights
from ..config.parts import KINDS
from ..config.runs import find, through
from ..config.spec import PolicySpec
from ..config.trust import named_paths, remember
from ..errors import WamkitError
from ..files import strict_json, strict_yaml
from ..files.durable import recover, replacing_folder
from ..files.hub import POLICY as POLICY_FILES
from ..files.hub import is_remote, local_path, pin_revision
from ..files.paths import expand_home
from ..files.printable import escape_markdown
from .actions import read_statistics
from .build import resolve
from .card_parts import act_command, card_header, describe_view
from .devices import expect_device
from .normalization import Statistics

if TYPE_CHECKING:
    from .policy import Policy

SPEC, STATISTICS, CARD = "spec.yaml", "statistics.json", "README.md"
ADAPTERS = ("text_adapter", "latent_adapter")
OTHERS = (*ADAPTERS, "conditioner")
FILES = {SPEC, STATISTICS, CARD, *(f"{kind}.safetensors" for kind in (*KINDS, *OTHERS))}
"""What `save` writes, and replaces."""


def save(policy: Policy, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> Path:
    """Write `policy` to `folder` atomically (`wamkit.files.durable`).

    A saved policy that is already there is replaced, at once. With `state`, weights of the
    whole policy by name, those are written in place of the policy's own. Raises WamkitError if the
    folder holds anything else, if the file system refuses, or if the policy's weights were rounded
    (`wamkit.acceleration.quantize`).
    """
    goal = check_writable(folder)
    if policy.quantized != "none":
        raise WamkitError(
            f"this policy is {policy.quantized}: only unquantized weights are saved",
            "load it again and save that; quantize a policy each time it is loaded",
        )
    modules = {kind: module_to_save(policy, kind) for kind in (*KINDS, *OTHERS)}
    own = {kind: m.state_dict() for kind, m in modules.items() if m is not None}
    if state is not None:
        own = {kind: {n: state[f"{kind}.{n}"] for n in names} for kind, names in own.items()}
    write_folder(goal, policy.spec, own.items(), policy.statistics, model_card(policy))
    return goal


def write_folder(
    goal: Path,
    spec: PolicySpec,
    parts: Iterable[tuple[str, Mapping[str, Tensor]]],
    statistics: Mapping[str, Statistics],
    card: str,
) -> None:
    """Write the folder of a policy atomically, and trust the paths that its spec keeps.

    Args:
        goal: Its absolute path, checked by `check_writable`.
        spec: Of the policy; paths to weights that the folder holds are left out.
        parts: Kind of part and its tensors by name; each is written before the next is asked for.
        statistics: Of "action" and "state".
        card: The model card, Markdown.

    Raises:
        NotWrittenError: The file system refuses; nothing is left half-written.
    """
    kept = strip_paths(spec).dump()
    remember(named_paths(kept).values())
    with replacing_folder(goal) as part:
        for kind, tensors in parts:
            weights.write(tensors, part / f"{kind}.safetensors")
        tables = {name: asdict(value) for name, value in statistics.items()}
        (part / STATISTICS).write_text(strict_json.dumps(tables, indent=1) + "\n")
        (part / CARD).write_text(card)
        (part / SPEC).write_text(strict_yaml.dumps(kept))


def check_writable(folder: str | Path) -> Path:
    """Return the absolute path of `folder` if a policy may be saved there; else WamkitError.

    The folder may be missing, or hold only a saved policy.
    """
    goal = recover(expand_home(folder).absolute())
    inside = sorted(p.name for p in goal.iterdir()) if goal.is_dir() else []
    if (goal.exists() and not goal.is_dir()) or (inside and SPEC not in inside):
        raise WamkitError(f"{goal} exists and is not a saved policy", "choose another folder")
    if others := [name for name in inside if name not in FILES]:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise WamkitError(
            f"{goal} holds more than a saved policy, which would be lost with it: "
            f"{', '.join(others[:5])}{more}",
            "choose another folder, or move its files",
        )
    return goal


def load(folder: str | Path, overrides: Iterable[str] = (), *, device: str = "cpu") -> Policy:
    """Read a policy written by `save`, through the same loaders as published weights.

    `overrides` change the spec, for example its steps; the sizes of the weights must still match
    the files. Of a run or its checkpoints the policy is loaded that `wamkit.config.runs.find`
    chooses.
    """
    from .policy import Policy

    expect_device(device, has_values=False)
    home = through(local_path(folder, files=POLICY_FILES))
    if not home.is_dir():
        raise WamkitError(f"no saved policy at {home}", "name the folder that `save` wrote")
    home = find(home).policy
    spec = resolve(home, overrides)
    found = with_files(spec, home)
    statistics = read_statistics(home / STATISTICS)
    policy = Policy.from_spec(found, statistics=statistics)
    for name in ADAPTERS:
        if (adapter := module_to_save(policy, name)) is not None:
            weights.load(adapter.to("meta"), home / f"{name}.safetensors")
    policy.spec = spec
    policy.to(device)
    return policy


def with_files(spec: PolicySpec, home: Path) -> PolicySpec:
    """The spec of the policy saved in `home`, with every part's weights from its file there.

    The spec in the folder names none of them, and alone means random weights. Raises WamkitError
    if a file is missing, or belongs to no part.
    """
    from .policy import Policy

    files = {}
    for kind in KINDS:
        file = home / f"{kind}.safetensors"
        if file.is_file():
            files[kind] = getattr(spec, kind).model_copy(update={"weights": str(file)})
    if (file := home / "conditioner.safetensors").is_file():
        own = files.get("backbone", spec.backbone)
        files["backbone"] = own.model_copy(update={"conditioner_weights": str(file)})
    known = {f"{kind}.safetensors" for kind in (*KINDS, *OTHERS)}
    if extra := sorted(f.name for f in home.glob("*.safetensors") if f.name not in known):
        raise WamkitError(
            f"{home} holds files that belong to no part: {', '.join(extra)}", "remove them"
        )
    shape = Policy.from_spec(strip_paths(spec), device="meta")
    for kind in (*KINDS, *OTHERS):
        wanted, there = (
            module_to_save(shape, kind) is not None,
            (home / f"{kind}.safetensors").is_file(),
        )
        if wanted and not there:
            raise WamkitError(f"{home} lacks {kind}.safetensors", "copy the whole folder again")
        if there and not wanted:
            raise WamkitError(
                f"{home} holds {kind}.safetensors, and by its {SPEC} {_without(spec, kind)}",
                "remove the file, or copy the whole folder again",
            )
    return spec.model_copy(update=files)


def _without(spec: PolicySpec, kind: str) -> str:
    """Message for a part whose weights are not in the folder of its policy."""
    if kind not in KINDS:
        return f"the policy has no {kind}"
    part = getattr(spec, kind)
    if getattr(part, "external_weights", False) and part.embeddings_file is None:
        return f"the {kind} {part.name} is read from a folder of its own"
    return f"the {kind} {part.name} has no weights"


def module_to_save(policy: Policy, kind: str) -> nn.Module | None:
    """The module whose weights go into the folder; None for parts without any of their own."""
    module = getattr(policy, kind)
    if kind == "text_encoder" and policy.spec.text_encoder.external_weights:
        return None
    return module if isinstance(module, nn.Module) and module.state_dict() else None


def strip_paths(spec: PolicySpec) -> PolicySpec:
    """The spec without paths to weights that the folder itself holds.

    What stays on the hub is named with the commit that was read.
    """
    update = {}
    for kind in KINDS:
        part = getattr(spec, kind)
        named = ("weights", "conditioner_weights", "lora", "lora_scale")
        fields = [f for f in named if getattr(part, f, None) is not None]
        if not fields:
            continue
        if getattr(part, "external_weights", False):
            here = not is_remote(part.weights)
            path = str(expand_home(part.weights).absolute()) if here else pin_revision(part.weights)
            update[kind] = part.model_copy(update={"weights": path})
        else:
            update[kind] = part.model_copy(update=dict.fromkeys(fields))
    return spec.model_copy(update=update)


def model_card(policy: Policy) -> str:
    """A model card in Markdown: parts, origins, licenses, inputs and outputs."""
    spec = policy.spec
    rows = []
    for kind in KINDS:
        part = getattr(spec, kind)
        module = getattr(policy, kind)
        count = weights.parameters(module) if isinstance(module, nn.Module) else 0
        came = getattr(part, "weights", None) or ("random weights" if count else "no weights")
        cells = (kind, part.name, f"{count:,}", pin_revision(str(came)), part.source, part.license)
        rows.append(f"| {' | '.join(map(escape_markdown, cells))} |")
    table = "\n".join(rows)
    cameras = "; ".join(map(describe_view, spec.cameras.views))
    groups = ", ".join(f"{g.name} ({g.size}, {g.kind})" for g in spec.actions.groups)
    units = "physical units" if policy.actions.statistics else "normalized units: no statistics yet"
    return f"""{card_header()}
# {spec.backbone.name} + {spec.action_head.name}, {spec.paradigm.name}

Saved by wamkit {__version__}. Load it with `wamkit.Policy.load(folder)`, or try it:

    {act_command(spec)}

| part | name | parameters | weights came from | source | license |
|---|---|---|---|---|---|
{table}

- Cameras: {cameras}, laid out {spec.cameras.layout} on a canvas of \
{spec.cameras.canvas[0]}x{spec.cameras.canvas[1]} pixels.
- State: {spec.state.size} values. Actions: {spec.actions.chunk_size} x {spec.actions.size} at \
{spec.actions.control_hz:g} Hz ({groups}), in {units}.
"""
