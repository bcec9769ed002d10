"""Read a checkpoint of Fast-WAM: `mot.mixtures.{video,action}.*` and `proprio_encoder.*`.

Written from `FastWAM.save_checkpoint`, the Hydra configurations and the normalizer of
github.com/yuantianyuan01/FastWAM, commit 45d8e14.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wamkit.checkpoints.source import Source
from wamkit.config.importing import Imported, Selection
from wamkit.errors import WamkitError

from . import lerobot
from .specs import LIBERO, ROBOTWIN, ROWS, VARIANTS, WAN

if TYPE_CHECKING:
    from . import FastWAM

NORMALIZATION = {"min/max": "min_max", "q01/q99": "quantile", "z-score": "mean_std"}
"""Their `norm_default_mode` -> ours."""
LAYOUTS = {"horizontal": "side_by_side", "robotwin": "t_shape"}
"""Their `concat_multi_camera` -> ours."""
VIDEO, ACTION = (rf"^(mot\.)?mixtures\.{kind}\." for kind in ("video", "action"))


def read(importer: FastWAM, source: Source) -> Imported:
    """What becomes of a checkpoint of Fast-WAM. Raises WamkitError if a fact is missing."""
    if lerobot.is_folder(source):
        return lerobot.read(source)
    settings = source.settings("config.yaml", "*config.yaml")
    sizes = _sizes(source)
    release: str = importer.release
    if release == "auto":
        release = {(7, 8): "libero", (14, 14): "robotwin"}.get(sizes, "auto")
    if release == "auto" and not settings:
        raise WamkitError(
            f"{source.path} is a Fast-WAM for actions of {sizes[0]} and a state of {sizes[1]} "
            "values, which is no released robot (7 and 8: LIBERO; 14 and 14: RoboTwin)",
            "put the run's config.yaml next to it, or say whose cameras it has: "
            "--set importer.release=libero",
        )
    base = ROBOTWIN if release == "robotwin" else LIBERO
    variant = _variant(importer, source, settings)
    spec = _merge(base, VARIANTS[variant])
    if settings:
        spec = _merge(spec, _from_settings(settings))
    statistics, lines = _statistics(importer, source)
    title = {"uncond": "Fast-WAM", "joint": "Fast-WAM-Joint", "idm": "Fast-WAM-IDM"}[variant]
    where = {"libero": " (LIBERO)", "robotwin": " (RoboTwin)"}.get(release, "")
    return Imported(
        spec=spec,
        weights={
            "backbone": Selection(VIDEO, ((VIDEO, ""),)),
            "action_head": Selection(rf"{ACTION}|^proprio_encoder\."),
        },
        dropped={r"^optimizer\.": "state of the optimizer"},
        elsewhere={"vae": WAN, "text_encoder": WAN},
        statistics=statistics,
        system=f"{title}{where}",
        license="MIT",
        notes=(*NOTES.get(release, ()), *lines),
    )


NOTES: Mapping[str, tuple[str, ...]] = {
    "libero": (
        "Cameras show what the training data show: the simulator's images turned by 180 degrees.",
        "The gripper's action is 0 closed, 1 open: for the simulator, 1 - 2 a, rounded to -1 or 1.",
        "Published evaluation: 10 of 32 actions are executed, after 30 steps of waiting.",
    ),
    "robotwin": (
        "Actions are absolute joint positions: left arm 6 and gripper, right arm 6 and gripper.",
        "Published evaluation: 24 of 32 actions are executed.",
    ),
}


def _sizes(source: Source) -> tuple[int, int]:
    """Sizes of an action and of a state, from the shapes of their encoders."""
    tensors = source.tensors
    action = next(e for n, e in tensors.items() if n.endswith("action.action_encoder.weight"))
    state = next((e for n, e in tensors.items() if n == "proprio_encoder.weight"), None)
    return action.shape[1], state.shape[1] if state is not None else 0


def _variant(importer: FastWAM, source: Source, settings: Mapping[str, Any]) -> str:
    if importer.variant != "auto":
        return importer.variant
    target = str(_look(settings, "model", "_target_") or "")
    name = target.rpartition(".")[2] if target else source.place.stem.lower()
    if "optional" in name:
        raise WamkitError(
            f"{source.place.name} was trained with the future shown in some samples and left out "
            "in others, and its code is not public",
            "--set importer.variant=uncond acts without imagining, idm imagines first; neither was "
            "compared with the authors' code",
        )
    for key in ("joint", "idm", "uncond"):
        if key in name:
            return key
    if target.endswith("create_fastwam"):
        return "uncond"
    raise WamkitError(
        f"nothing tells which Fast-WAM {source.place.name} is: uncond, joint or idm",
        "say it: --set importer.variant=uncond",
    )


def _from_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The spec's part that a run's `config.yaml` decides."""
    video = _look(settings, "model", "video_dit_config") or {}
    action = _look(settings, "model", "action_dit_config") or {}
    data = _look(settings, "data", "train") or {}
    processor = data.get("processor") or {}
    found: dict[str, Any] = {"backbone": {}, "action_head": {}, "text_encoder": {}}
    names = {
        "num_layers": "layers",
        "num_heads": "num_heads",
        "attn_head_dim": "head_dim",
        "ffn_dim": "mlp_dim",
        "text_dim": "text_width",
    }
    found["backbone"] = {ours: video[theirs] for theirs, ours in names.items() if theirs in video}
    if "hidden_dim" in action:
        found["action_head"] = {"width": action["hidden_dim"], "mlp_dim": action["ffn_dim"]}
    if data.get("context_len"):
        found["text_encoder"] = {"max_length": data["context_len"]}
    if data.get("num_frames"):
        stride = data.get("action_video_freq_ratio", 1)
        found["actions"] = {"chunk_size": data["num_frames"] - 1}
        found["video"] = {
            "num_frames": (data["num_frames"] - 1) // stride + 1,
            "frame_stride": stride,
        }
    shapes = data.get("shape_meta") or {}
    rule = processor.get("norm_default_mode")
    if rule is not None and rule not in NORMALIZATION:
        raise WamkitError(
            f"config.yaml normalizes by {rule!r}; known are {', '.join(NORMALIZATION)}",
            "write the statistics' range into dataset_stats.json, and min/max here",
        )
    for section, theirs in (("actions", "action"), ("state", "state")):
        if shapes.get(theirs):
            size = sum(entry["shape"] for entry in shapes[theirs])
            found.setdefault(section, {})
            if section == "state":
                found["state"] = {"size": size}
                found["state"] |= {"normalization": NORMALIZATION[rule]} if rule else {}
            else:
                found["actions"]["groups"] = _groups(size, processor, rule)
    if shapes.get("images"):
        found["cameras"] = _cameras(shapes["images"], data)
    shifts = {
        "video": _look(settings, "model", "video_scheduler", "infer_shift"),
        "action": _look(settings, "model", "action_scheduler", "infer_shift"),
    }
    steps = settings.get("eval_num_inference_steps")
    found["schedules"] = {
        name: {"shift": shift} | ({"steps": steps} if steps else {})
        for name, shift in shifts.items()
        if shift
    }
    return found


def _groups(size: int, processor: Mapping[str, Any], rule: str | None) -> list[dict[str, Any]]:
    """Groups of dimensions that are differences, and those that are targets."""
    masks = processor.get("delta_action_dim_mask") or {}
    mask = [bool(flag) for flags in masks.values() for flag in flags] or [False] * size
    kinds = ["delta" if flag else "absolute" for flag in mask]
    groups: list[dict[str, Any]] = []
    for kind in kinds:
        if groups and groups[-1]["kind"] == kind:
            groups[-1]["size"] += 1
        else:
            groups.append({"name": f"{kind}{len(groups)}", "size": 1, "kind": kind})
    for group in groups:
        group |= {"normalization": NORMALIZATION[rule]} if rule else {}
    return groups


def _cameras(images: list[Mapping[str, Any]], data: Mapping[str, Any]) -> dict[str, Any]:
    mode = data.get("concat_multi_camera", "horizontal")
    if mode not in LAYOUTS:
        raise WamkitError(
            f"config.yaml lays cameras out as {mode!r}; known are {', '.join(LAYOUTS)}",
            "this layout of Fast-WAM is not read",
        )
    # Both evaluations resize by Pillow; that of LIBERO keeps the ratio, that of RoboTwin does not.
    fit = "stretch" if mode == "robotwin" else "cover"
    views = [
        {"name": entry["key"], "size": list(entry["shape"][1:]), "fit": fit, "rounding": "uint8"}
        for entry in images
    ]
    if mode == "robotwin":  # sizes are fixed in the code: head 256 x 320, wrists 128 x 160
        for view, size in zip(views, ([256, 320], [128, 160], [128, 160]), strict=True):
            view["size"] = size
    return {"layout": LAYOUTS[mode], "views": views}


def _statistics(
    importer: FastWAM, source: Source
) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """The rows `global_*` of the statistics next to the file, for "action" and "state"."""
    file = source.find("*dataset_stats.json", f"{_parent(source)}/dataset_stats.json")
    if file is None:
        return {}, ["There were no statistics next to the checkpoint: actions stay normalized."]
    raw = source.json(file.relative_to(source.folder).as_posix())
    found = {}
    for name in ("action", "state"):
        tables = raw.get(name) if isinstance(raw, dict) else None
        if not isinstance(tables, dict) or not tables:
            raise WamkitError(
                f"{file} holds no table {name!r}", "name the statistics of Fast-WAM's own training"
            )
        key = importer.embodiment or next(iter(tables))
        if key not in tables or (importer.embodiment is None and len(tables) > 1):
            raise WamkitError(
                f"{file} holds statistics of several data sets: {', '.join(tables)}",
                f"choose one: --set importer.embodiment={next(iter(tables))}",
            )
        table = tables[key]
        if lost := [row for row in ROWS if f"global_{row}" not in table]:
            raise WamkitError(
                f"{file} lacks global_{', global_'.join(lost)} of {name}",
                "copy the whole file again",
            )
        found[name] = {row: table[f"global_{row}"] for row in ROWS}
    return found, []


def _parent(source: Source) -> str:
    return Path(source.place).parent.name


def _look(table: Mapping[str, Any], *keys: str) -> Any:
    """A value in nested tables; None if it is not there."""
    for key in keys:
        if not isinstance(table, Mapping) or key not in table:
            return None
        table = table[key]
    return table


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    made = dict(base)
    for key, value in over.items():
        old = made.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        switched = both and "name" in value and value["name"] != old.get("name")  # type: ignore[union-attr]
        made[key] = _merge(old, value) if both and not switched else value  # type: ignore[arg-type]
    return made
