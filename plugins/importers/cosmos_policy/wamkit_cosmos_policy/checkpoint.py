"""Read a checkpoint of Cosmos Policy: `net.*`, flat statistics, and pickled text embeddings.

Written from `cosmos_utils.py`, `dataset_utils.py` and the experiment configurations of
github.com/NVlabs/cosmos-policy, commit 18a2acc.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wamkit.checkpoints.source import Source
from wamkit.config.importing import Imported, Selection
from wamkit.errors import WamkitError

from .specs import SPECS

if TYPE_CHECKING:
    from . import CosmosPolicy

FOLDER = "model"
"""Where a released DCP checkpoint lies below its repository."""
STATISTICS = ("*dataset_statistics.json", f"{FOLDER}/*dataset_statistics.json")
EMBEDDINGS = ("*t5_embeddings.pkl", f"{FOLDER}/*t5_embeddings.pkl")
PREDICT2 = "hf:nvidia/Cosmos-Predict2-2B-Video2World"
TITLES = {"libero": "LIBERO", "robocasa": "RoboCasa", "aloha": "ALOHA"}
DROPPED = {
    r"^net_ema\.": "averaged weights, which published evaluations do not use",
    r"_extra_state$": "state of Transformer Engine",
    r"^(net\.)?accum_": "counters of the training run",
    r"(^|\.)pos_embedder\.": "tables of positions, which are computed",
}
NOTES: Mapping[str, tuple[str, ...]] = {
    "libero": (
        "Cameras show what LIBERO renders, upside down: the policy flips images itself.",
        "State: gripper 2, position 3, quaternion 4. Published evaluation: all 16 actions are run.",
    ),
    "robocasa": (
        "Cameras show what RoboCasa renders, upside down: the policy flips images itself.",
        "State: gripper 2, position 3, quaternion 4. Published evaluation: 16 of 32 actions are "
        "run, each followed by 0, 0, 0, 0, -1 for the base, which RoboCasa moves too.",
    ),
    "aloha": (
        "Actions and state are joint positions, 14 of two arms. Published evaluation: all 50 "
        "actions are run.",
    ),
}


def is_cosmos_policy(source: Source) -> bool:
    """Whether a checkpoint is of Cosmos Policy: Cosmos' names, and statistics or a name of it."""
    folder = _folder(source)
    names = source.tensors_in(folder) if folder else source.tensor_names
    if not any(re.search(r"(^|\.)t_embedding_norm\.weight$", name) for name in names):
        return False
    named = re.sub(r"[^a-z]", "", str(source.path).lower())
    return "cosmospolicy" in named or source.find(*STATISTICS) is not None


def read(importer: CosmosPolicy, source: Source) -> Imported:
    """What becomes of a checkpoint of Cosmos Policy. Raises WamkitError if a fact is missing."""
    statistics, notes = _statistics(source)
    suite, is_guess = _suite(importer, source, statistics)
    spec = {key: dict(v) if isinstance(v, dict) else v for key, v in SPECS[suite].items()}
    folder = _folder(source)
    spec["backbone"] |= _sizes(source.tensors_in(folder))
    if is_guess:
        notes.append(
            "By its 14 actions this is taken for ALOHA: actions.control_hz = "
            f"{spec['actions']['control_hz']} and kind = absolute are guesses."
        )
    embeddings = source.find(*EMBEDDINGS)
    if embeddings is not None:
        notes.append(
            f"{embeddings.name} holds embeddings of the benchmark's prompts: `wamkit precompute "
            "text SPEC --pickle FILE --out text.safetensors` makes them text_encoder."
            "embeddings_file, so that T5 need not be loaded."
        )
    return Imported(
        spec=spec,
        weights={"backbone": Selection(r"^(net\.)?", folder=folder)},
        dropped=DROPPED,
        elsewhere={"vae": PREDICT2, "text_encoder": PREDICT2},
        statistics=statistics,
        system=f"Cosmos Policy ({TITLES[suite]})",
        license="NVIDIA Open Model License",
        notes=(*NOTES[suite], *notes),
    )


def _folder(source: Source) -> str:
    """The subfolder with the weights, "" if they are in the place itself."""
    inner = source.place.is_dir() and (source.place / FOLDER / ".metadata").is_file()
    return FOLDER if inner else ""


def _suite(
    importer: CosmosPolicy, source: Source, statistics: Mapping[str, Any]
) -> tuple[str, bool]:
    """Whose robot it is for, and whether that is a guess by the size of its actions."""
    if importer.suite != "auto":
        return importer.suite, False
    file = source.find(*STATISTICS)
    text = f"{source.path} {source.place.name} {file.name if file else ''}".lower()
    named = [suite for suite in SPECS if suite in text]
    if len(named) == 1:
        return named[0], False
    if statistics and len(statistics["action"]["min"]) == 14:
        return "aloha", True
    raise WamkitError(
        f"nothing tells whose robot {source.path} is for: {', '.join(SPECS)}",
        "say it: --set importer.suite=libero",
    )


def _sizes(tensors: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of the network, where they are not those of the 2B model."""
    shapes = {name.removeprefix("net."): entry.shape for name, entry in tensors.items()}
    try:
        width = shapes["t_embedding_norm.weight"][0]
        head = shapes["blocks.0.self_attn.q_norm.weight"][0]
        found = {
            "layers": 1 + max(int(n.split(".")[1]) for n in shapes if n.startswith("blocks.")),
            "num_heads": width // head,
            "head_dim": head,
            "mlp_dim": shapes["blocks.0.mlp.layer1.weight"][0],
            "modulation_rank": shapes["blocks.0.adaln_modulation_mlp.1.weight"][0],
            "text_width": shapes["blocks.0.cross_attn.k_proj.weight"][1],
        }
    except (KeyError, IndexError, ValueError) as error:
        raise WamkitError(
            f"the checkpoint lacks a tensor of Cosmos-Predict2: {error}",
            "copy the whole file again",
        ) from None
    usual = {"layers": 28, "num_heads": 16, "head_dim": 128, "mlp_dim": 8192}
    usual |= {"modulation_rank": 256, "text_width": 1024}
    return {name: size for name, size in found.items() if size != usual[name]}


def _statistics(source: Source) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """The rows of the flat table next to the weights, for "action" and "state"."""
    file = source.find(*STATISTICS)
    if file is None:
        return {}, ["There were no statistics next to the checkpoint: actions stay normalized."]
    raw = source.json(*STATISTICS)
    if not isinstance(raw, dict):
        raise WamkitError(f"{file} is no table of statistics", "copy the whole file again")
    found = {}
    for ours, theirs in (("action", "actions"), ("state", "proprio")):
        rows = {row: raw.get(f"{theirs}_{row}") for row in ("min", "max", "mean", "std")}
        if lost := [
            f"{theirs}_{row}" for row, values in rows.items() if not isinstance(values, list)
        ]:
            raise WamkitError(f"{file} lacks {', '.join(lost)}", "copy the whole file again")
        # only the range is used; quantiles are not in the file
        found[ours] = {**rows, "q01": rows["min"], "q99": rows["max"]}
    return found, []  # type: ignore[return-value]
