"""Read a checkpoint of DreamZero: `action_head.{model,image_encoder,vae,text_encoder}.*`.

Written from `base_vla.py`, `wan_flow_matching_action_tf.py`, `sim_policy.py` and the Hydra
configurations of github.com/dreamzero0/dreamzero, commit ab790c1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wamkit.checkpoints.setting_values import number, whole_number
from wamkit.checkpoints.source import Source
from wamkit.config.importing import Imported, Selection
from wamkit.errors import WamkitError

from .names import CLIP
from .specs import (
    EVALUATIONS,
    FLOW,
    GROUPS,
    HEAD,
    NEGATIVE,
    PARADIGM,
    PROMPTS,
    RATES,
    SCALING,
    STATES,
    TAGS,
    cameras,
)

if TYPE_CHECKING:
    from . import DreamZero

ROWS = ("min", "max", "mean", "std", "q01", "q99")
MODEL = r"^action_head\.model\."
HEADS = rf"{MODEL}(state_encoder|action_encoder|action_decoder)\."
TOWER = r"^action_head\.image_encoder\.model\.visual\."
VAE = r"^action_head\.vae\.model\."
UMT5 = {
    "wan2.1": "hf:Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    "wan2.2": "hf:Wan-AI/Wan2.2-TI2V-5B-Diffusers",
}


def read(importer: DreamZero, source: Source) -> Imported:
    """What becomes of a checkpoint of DreamZero. Raises WamkitError if a fact is missing."""
    sizes, given = _Sizes(source), _settings(source)
    tag, metadata = _metadata(importer, source)
    robot = importer.robot if importer.robot != "auto" else TAGS[tag]
    stated = given.get("diffusion_model_cfg")
    stated = stated if isinstance(stated, Mapping) else {}
    assumed = {**ASSUMED, "num_heads": sizes.width // 128}
    network = {
        key: whole_number(stated.get(key, value), key, "config.json", least=min(1, value))
        for key, value in assumed.items()
    }
    vae = "wan2.2" if sizes.channels == 48 else "wan2.1"
    block, steps = network["num_frame_per_block"], network["num_action_per_block"]
    views, average = ((160, 320), 2) if vae == "wan2.2" else ((176, 320), 1)
    flow = {**FLOW}
    if importer.evaluations in EVALUATIONS:
        flow["evaluate_steps"] = EVALUATIONS[importer.evaluations]
    shapes = {kind: _shapes(metadata, robot, kind) for kind in ("action", "state")}
    values = sum(shapes["action"].values())
    backbone = sizes.backbone(network["num_heads"])
    paradigm = {**PARADIGM, "chunks": network["max_chunk_size"]}
    if backbone["cond_channels"]:
        paradigm["guides"] = "sample"
    last = sizes.layers_of_tower - 1
    spec = {
        "dtype": "bfloat16",
        "backbone": {
            "name": "wan",
            "variant": "2.2-ti2v-5b" if vae == "wan2.2" else "2.1-i2v-14b",
            **backbone,
            **_adapters(source, given),
        },
        "vae": {"name": vae},
        "text_encoder": {
            "name": "umt5-xxl",
            "max_length": 512,
            "padding": "zeros",
            "prompt_template": PROMPTS[robot],
            "negative_prompt": NEGATIVE,
        },
        "action_head": {**HEAD, **sizes.head()},
        "paradigm": paradigm,
        "actions": {
            "chunk_size": whole_number(
                given.get("action_horizon", steps), "action_horizon", "config.json"
            ),
            "control_hz": RATES[robot],
            "clip": 1.0,
            "scaling": SCALING,
            "groups": list(_groups(robot, shapes)),
        },
        "state": {
            "size": sum(shapes["state"].values()),
            "normalization": "quantile",
            "clip": 1.0,
            "scaling": SCALING,
        },
        "cameras": cameras(robot, views, average),
        "video": {
            "num_frames": 1 + 4 * block,
            "frame_stride": max(1, steps // (4 * block)),
            "new_images": 4,
            "new_clip": "apart",
        },
        "schedules": {
            "video": {**flow, "guidance_scale": 5.0},
            "action": {**flow, "shared_sigma": True, "loss_weight": values / sizes.slots},
        },
    }
    return Imported(
        spec=spec,
        weights={
            "backbone": Selection(rf"{MODEL}(?!{HEADS.removeprefix(MODEL)})", ((MODEL, ""),)),
            "action_head": Selection(HEADS, ((MODEL, ""),)),
            "conditioner": Selection(TOWER, ((TOWER, ""),), (CLIP,)),
            "vae": Selection(VAE, ((VAE, ""),)),
        },
        dropped={
            rf"{TOWER}(transformer\.{last}\.|post_norm\.|head$)": "last layer of the CLIP tower, "
            "which is never computed",
            r"^action_head\.image_encoder\.model\.log_scale$": "scale of CLIP's training loss",
            r"^action_head\.text_encoder\.": "UMT5-XXL, frozen, which is read from a folder with "
            "its tokenizer",
        },
        elsewhere={"text_encoder": UMT5[vae]},
        statistics={kind: _statistics(metadata, shapes[kind], kind) for kind in shapes},
        system=f"DreamZero ({robot}, {'Wan 2.2 5B' if vae == 'wan2.2' else 'Wan 2.1 14B'})",
        license=f"not stated; code {importer.license}",
        notes=(
            *NOTES[robot],
            f"No file states a rate of control: actions.control_hz = {RATES[robot]:g} is that of "
            f"{ROBOTS[robot]}.",
            *(
                f"config.json states no {key}: {value} is assumed, as published."
                for key, value in network.items()
                if key not in stated
            ),
        ),
    )


ROBOTS = {"droid": "DROID", "agibot": "AgiBot"}
ASSUMED = {
    "num_frame_per_block": 2,
    "num_action_per_block": 24,
    "max_chunk_size": PARADIGM["chunks"],
}
"""Key of their `diffusion_model_cfg` -> its value in the release, with heads of 128 values."""
NOTES: Mapping[str, tuple[str, ...]] = {
    "droid": (
        "Images are 180 x 320, those of the wrist twice as wide on the canvas.",
        "After its first chunk the policy is given four images a chunk, as the published server.",
    ),
    "agibot": ("After its first chunk the policy is given four images a chunk.",),
}


class _Sizes:
    """Sizes of the network, from the shapes of its tensors."""

    def __init__(self, source: Source) -> None:
        self._shapes = {name: entry.shape for name, entry in source.tensors.items()}
        model = [n.removeprefix("action_head.model.") for n in self._shapes]
        layers = [re.match(r"blocks\.(\d+)\.modulation$", name) for name in model]
        self.layers = sum(found is not None for found in layers)
        tower = [re.match(rf"{TOWER}transformer\.(\d+)\.norm1\.weight$", n) for n in self._shapes]
        self.layers_of_tower = sum(found is not None for found in tower)
        self.width = self._of("blocks.0.modulation")[-1]
        self.channels = self._of("head.head.weight")[0] // 4
        self.slots = self._of("action_encoder.W1.W")[1]

    def _of(self, name: str) -> tuple[int, ...]:
        try:
            return self._shapes[f"action_head.model.{name}"]
        except KeyError:
            raise WamkitError(
                f"the checkpoint has no action_head.model.{name}",
                "name the folder of a whole checkpoint: adapters alone are not read",
            ) from None

    def backbone(self, num_heads: int) -> dict[str, int]:
        """The backbone's settings. Raises WamkitError if its heads do not divide its width."""
        if num_heads < 1 or self.width % num_heads:
            raise WamkitError(
                f"the network is {self.width} values wide, which {num_heads} heads do not divide",
                "config.json states the number as num_heads: download it again",
            )
        return {
            "layers": self.layers,
            "num_heads": num_heads,
            "head_dim": self.width // num_heads,
            "mlp_dim": self._of("blocks.0.ffn.0.weight")[0],
            "latent_channels": self.channels,
            "cond_channels": self._of("patch_embedding.weight")[1] - self.channels,
            "text_width": self._of("text_embedding.0.weight")[1],
            "cond_embeds_width": self._of("img_emb.proj.0.weight")[0],
        }

    def head(self) -> dict[str, int]:
        """The action head's settings."""
        robots, states, hidden = self._of("state_encoder.layer1.W")
        return {
            "hidden_width": hidden,
            "action_slots": self.slots,
            "state_slots": states,
            "embodiments": robots,
        }


def _settings(source: Source) -> Mapping[str, Any]:
    """The settings of the action head in `config.json`. Raises WamkitError without the file."""
    if source.find("config.json") is None:
        raise WamkitError(
            f"{source.path} has no config.json, which states its heads, blocks and chunks",
            "config.json is missing: download the whole repository",
        )
    found: Any = source.settings("config.json")
    for key in ("action_head_cfg", "config"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _adapters(source: Source, given: Mapping[str, Any]) -> dict[str, float]:
    """The scale of LoRA adapters that were never merged; {} if the settings do not state it."""
    alpha, rank = given.get("lora_alpha"), given.get("lora_rank")
    if alpha is None or rank is None or not any(".lora_A." in name for name in source.tensors):
        return {}
    rank = whole_number(rank, "lora_rank", "config.json")
    return {"lora_scale": number(alpha, "lora_alpha", "config.json") / rank}


def _metadata(importer: DreamZero, source: Source) -> tuple[str, Mapping[str, Any]]:
    """The data set, and what `metadata.json` says of it."""
    found = source.json("experiment_cfg/metadata.json", "metadata.json")
    if not isinstance(found, Mapping) or not found:
        raise WamkitError(
            f"{source.path} has no experiment_cfg/metadata.json, which holds its statistics",
            "download the whole repository",
        )
    wanted = {tag for tag, robot in TAGS.items() if importer.robot in ("auto", robot)}
    tags = [tag for tag in found if tag in wanted]
    if len(tags) != 1:
        raise WamkitError(
            f"metadata.json is of {', '.join(found)}; known are {', '.join(TAGS)}",
            "say whose robot it is: --set importer.robot=droid"
            if len(tags) > 1
            else "the cameras and the prompt of other robots are not known to this importer",
        )
    return tags[0], found[tags[0]]


def _table(metadata: Mapping[str, Any], section: str, kind: str, key: str) -> Mapping[str, Any]:
    found: Any = metadata
    for name in (section, kind, key):
        found = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise WamkitError(
            f"metadata.json has no {section}.{kind}.{key}", "download the whole repository again"
        )
    return found


def _shapes(metadata: Mapping[str, Any], robot: str, kind: str) -> dict[str, int]:
    """Key of an action or a state -> how many values it has, in order."""
    keys: Sequence[str] = STATES[robot]
    if kind == "action":
        keys = tuple(key for key, _ in GROUPS[robot])
    found = {}
    for key in keys:
        shape = _table(metadata, "modalities", kind, key).get("shape")
        name = f"modalities.{kind}.{key}.shape"
        if not isinstance(shape, list) or len(shape) != 1:
            raise WamkitError(
                f"metadata.json: {name} = {shape!r}, expected one size",
                "download the whole repository again",
            )
        found[key] = whole_number(shape[0], name, "metadata.json")
    return found


def _groups(robot: str, shapes: Mapping[str, Mapping[str, int]]) -> Iterator[dict[str, Any]]:
    """Groups of an action; relative ones begin in the state where their key does."""
    starts: dict[str, int] = {}
    for key in shapes["state"]:
        starts[key] = sum(shapes["state"][k] for k in starts)
    for key, relative in GROUPS[robot]:
        group = {"name": key, "size": shapes["action"][key], "normalization": "quantile"}
        yield {**group, "kind": "relative", "state": starts[key]} if relative else group


def _statistics(
    metadata: Mapping[str, Any], shapes: Mapping[str, int], kind: str
) -> dict[str, list[float]]:
    """Rows of all keys, one after the other."""
    rows: dict[str, list[float]] = {row: [] for row in ROWS}
    for key in shapes:
        table = _table(metadata, "statistics", kind, key)
        for row in ROWS:
            values = table.get(row)
            if not isinstance(values, list) or len(values) != shapes[key]:
                raise WamkitError(
                    f"metadata.json: statistics.{kind}.{key} has no {row} of {shapes[key]} values",
                    "download the whole repository again",
                )
            rows[row] += [number(value, f"{key}.{row}", "metadata.json") for value in values]
    return rows
