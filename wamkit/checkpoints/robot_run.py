"""Robots of training runs with Hydra settings on LeRobot data, and the statistics they write.

Several published systems train with the same data code: `data.train` of their settings names
cameras, sizes and the normalization (`shape_meta`, `processor`, `concat_multi_camera`), and
`dataset_stats.json` holds rows `global_*` by data set (github.com/yuantianyuan01/FastWAM, commit
45d8e14, `datasets/lerobot`). What they were released for are two robots, LIBERO and RoboTwin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from ..errors import WamkitError
from .hydra_config import HydraConfig
from .setting_values import number, unknown_values, whole_number
from .source import Source

PROMPT = (
    "A video recorded from a robot's point of view executing the following instruction: "
    "{instruction}"
)
"""The template of all prompts."""
SCALING: dict[str, Any] = {"constant_range": 1e-4, "constants": "min", "std_epsilon": 1e-8}
"""What their normalizer does about dimensions that hardly vary."""
NORMALIZATION = {"min/max": "min_max", "q01/q99": "quantile", "z-score": "mean_std"}
"""Their `norm_default_mode` -> ours."""
LAYOUTS = {"horizontal": "side_by_side", "robotwin": "t_shape"}
"""Their `concat_multi_camera` -> ours."""
ROWS = ("min", "max", "mean", "std", "q01", "q99")
"""Rows of statistics."""
DATA = "data.train"
KNOWN: Mapping[str, tuple[Any, ...]] = {
    f"{DATA}.global_sample_stride": (1,),
    f"{DATA}.camera_key": (None,),
    "model.video_scheduler.num_train_timesteps": (1000,),
    "model.action_scheduler.num_train_timesteps": (1000,),
}
"""Settings of every such run that a spec does not say -> their values here."""
PRECISIONS = {"bf16": "bfloat16", "no": "float32"}
"""Their `mixed_precision` -> `dtype`."""
NO_STATISTICS = "There were no statistics next to the checkpoint: actions stay normalized."

_ARMS = ("left_arm", 6), ("left_gripper", 1), ("right_arm", 6), ("right_gripper", 1)
_ACTIONS: dict[str, dict[str, Any]] = {
    "libero": {
        "control_hz": 20,
        "groups": [
            {"name": "pose", "size": 6, "kind": "delta"},
            {"name": "gripper", "size": 1},
        ],
    },
    "robotwin": {
        "control_hz": 25,
        "groups": [{"name": n, "size": size, "normalization": "mean_std"} for n, size in _ARMS],
    },
}
_STATES: dict[str, dict[str, Any]] = {
    "libero": {"size": 8},
    "robotwin": {"size": 14, "normalization": "mean_std"},
}
_CAMERAS = {
    "libero": ("image", "wrist_image"),
    "robotwin": ("cam_high", "cam_left_wrist", "cam_right_wrist"),
}
CONVENTIONS = {
    "libero": (
        "Cameras show what the training data show: the simulator's images turned by 180 degrees.",
        "The gripper's action is 0 closed, 1 open: for the simulator, 1 - 2 a, rounded to -1 or 1.",
    ),
    "robotwin": (
        "Actions are absolute joint positions: left arm 6 and gripper, right arm 6 and gripper.",
    ),
}
"""Robot -> facts about its cameras and actions that a user must know."""
TITLES = {"libero": " (LIBERO)", "robotwin": " (RoboTwin)"}
"""Robot -> what stands behind the name of a system."""


def robot_tables(
    robot: str, chunk_size: int, sizes: Sequence[Sequence[int]], **view: Any
) -> dict[str, Any]:
    """The tables `actions`, `state` and `cameras` of a released robot.

    Args:
        robot: "libero" or "robotwin".
        chunk_size: Actions in a chunk.
        sizes: Height and width of each view on the canvas, in pixels, in their order.
        view: More keys of every view, such as `rounding`.
    """
    views = [
        {"name": name, "size": list(size), **view}
        for name, size in zip(_CAMERAS[robot], sizes, strict=True)
    ]
    conventions = {"conventions": "fastwam"} if robot == "libero" else {}
    return {
        **conventions,
        "actions": {"chunk_size": chunk_size, "clip": 5.0, "scaling": SCALING, **_ACTIONS[robot]},
        "state": {"clip": 5.0, "scaling": SCALING, **_STATES[robot]},
        "cameras": {
            "layout": "side_by_side" if robot == "libero" else "t_shape",
            "views": views,
        },
    }


def precision_tables(settings: HydraConfig, modalities: Iterable[str]) -> dict[str, Any]:
    """`dtype` and rounding of training levels, as `mixed_precision` says; {} if it is not set."""
    if not (precision := settings.get("mixed_precision")):
        return {}
    rounded = {"bf16_timesteps": precision == "bf16"}
    return {
        "dtype": PRECISIONS[precision],
        "schedules": {modality: dict(rounded) for modality in modalities},
    }


def released_robot(
    named: str, sizes: tuple[int, int], settings: HydraConfig, what: str
) -> str | None:
    """The robot of a release: as `named`, or by the sizes of an action and of a state.

    None for a robot of its own, which the settings describe. `what` names the checkpoint. Raises
    WamkitError if there are no settings then.
    """
    if named != "auto":
        return named
    found = {(7, 8): "libero", (14, 14): "robotwin"}.get(sizes)
    if found is None and not settings:
        raise WamkitError(
            f"{what} is for actions of {sizes[0]} and a state of {sizes[1]} values, which is no "
            "released robot (7 and 8: LIBERO; 14 and 14: RoboTwin)",
            "put the run's config.yaml next to it, or say whose cameras it has: "
            "--set importer.release=libero",
        )
    return found


def unread_settings(settings: HydraConfig) -> Iterator[str]:
    """What the settings ask for that a spec cannot say, a phrase each."""
    processor = "data.train.processor"
    rule = settings.get(f"{processor}.norm_default_mode", "min/max")
    if not isinstance(rule, str) or rule not in NORMALIZATION:
        yield f"values are normalized by {rule!r}; known are {', '.join(NORMALIZATION)}"
    for key in ("action_state_transforms", "norm_exception_mode"):
        if settings.get(f"{processor}.{key}"):
            yield f"{processor}.{key} is set: values are not those of the robot"
    if settings.get(f"{processor}.use_stepwise_action_norm"):
        yield "each step of a chunk is normalized by statistics of its own"
    layout = settings.get("data.train.concat_multi_camera", "horizontal")
    if not isinstance(layout, str) or layout not in LAYOUTS:
        yield f"cameras are arranged as {layout!r}; known are {', '.join(LAYOUTS)}"
    yield from unknown_values(settings.get, KNOWN)


def unread_schedules(settings: HydraConfig) -> Iterator[str]:
    """What the settings say of noise levels that a spec cannot say, a phrase each.

    For systems that denoise in use what they learn to denoise.
    """
    for name in ("video", "action"):
        train, infer = (
            settings.get(f"model.{name}_scheduler.{kind}_shift") for kind in ("train", "infer")
        )
        if train is not None and infer is not None and train != infer:
            yield f"{name}: another shift in training than in use"
    precision = settings.get("mixed_precision", "bf16")
    if not isinstance(precision, str) or precision not in PRECISIONS:
        yield f"mixed_precision = {precision!r}; known are {', '.join(PRECISIONS)}"


def expect_readable(settings: HydraConfig, more: Sequence[str] = ()) -> None:
    """Raise WamkitError with every setting that cannot be composed, and `more` of them."""
    if faults := [*unread_settings(settings), *more]:
        raise WamkitError(
            f"the settings of this run ({settings.where}) cannot be composed: {'; '.join(faults)}",
            "run this checkpoint by the authors' code, or name one that was trained without them",
        )


def schedule_tables(settings: HydraConfig) -> dict[str, dict[str, Any]]:
    """What the settings say of `schedules.video` and `schedules.action`."""
    steps, found = settings.get("eval_num_inference_steps"), {}
    for name in ("video", "action"):
        own: dict[str, Any] = {}
        for kind in ("train_shift", "infer_shift"):
            key = f"model.{name}_scheduler.{kind}"
            if (shift := settings.get(key)) is not None:
                own["shift"] = number(shift, key, settings.where)
        key = f"model.loss.lambda_{name}"
        if (weight := settings.get(key)) is not None:
            own["loss_weight"] = number(weight, key, settings.where)
        if steps is not None:
            own["steps"] = whole_number(steps, "eval_num_inference_steps", settings.where)
        found[name] = own
    return found


def chunk_tables(settings: HydraConfig) -> dict[str, dict[str, Any]]:
    """What the settings say of the actions of a chunk and the images of its future; {} if nothing.

    Raises WamkitError if their numbers of frames do not fit together.
    """
    frames = settings.get(f"{DATA}.num_frames")
    if frames is None:
        return {}
    frames = whole_number(frames, f"{DATA}.num_frames", settings.where, least=2)
    name = f"{DATA}.action_video_freq_ratio"
    stride = whole_number(settings.get(name, 1), name, settings.where)
    if (frames - 1) % stride:
        raise WamkitError(
            f"{settings.where}: {frames - 1} actions are no multiple of {name} = {stride}",
            "copy the file again",
        )
    return {
        "actions": {"chunk_size": frames - 1},
        "video": {"num_frames": (frames - 1) // stride + 1, "frame_stride": stride},
    }


def guesses(
    named: str, robot: str | None, source: Source, settings: HydraConfig, spec: Mapping[str, Any]
) -> Iterator[str]:
    """A note on everything about the robot that no file states.

    Args:
        named: The robot that the user named, or "auto".
        robot: As `released_robot` found it.
        source: The checkpoint.
        settings: Those of its run.
        spec: The tables that were made of them.
    """
    rate = f"actions.control_hz = {spec['actions']['control_hz']}"
    if robot is None:
        yield f"The settings state no rate of control: {rate} is a guess."
        if not settings.get(f"{DATA}.processor.delta_action_dim_mask"):
            yield (
                "The settings mark no values of an action as differences: kind = absolute is a "
                "guess."
            )
    elif named == "auto" and robot not in source.path.lower():
        yield (
            f"By the sizes of action and state this is taken for{TITLES[robot]}: {rate}, and which "
            "actions are differences, are that robot's and stated by no file."
        )


def vector_tables(settings: HydraConfig, base: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the settings say of `actions` and `state`; groups of `base` keep their names.

    Raises WamkitError if the mask of differences is of another size than an action.
    """
    named = settings.get("data.train.processor.norm_default_mode")
    rule = {"normalization": NORMALIZATION[named]} if named else {}
    found: dict[str, dict[str, Any]] = {}
    if size := _vector_size(settings, "state"):
        found["state"] = {"size": size, **rule}
    if size := _vector_size(settings, "action"):
        name = f"{DATA}.processor.delta_action_dim_mask"
        masks = settings.get(name) or {}
        if not isinstance(masks, Mapping) or not all(isinstance(m, list) for m in masks.values()):
            raise WamkitError(
                f"{settings.where}: {name} = {masks!r}, expected a list of true and false by key",
                "copy the file again",
            )
        flags = [bool(flag) for mask in masks.values() for flag in mask] or [False] * size
        if len(flags) != size:
            raise WamkitError(
                f"{settings.where} marks {len(flags)} of {size} values of an action as differences",
                "copy the file again",
            )
        groups = [
            {"name": f"{kind}{i}", "size": len(list(run)), "kind": kind, **rule}
            for i, (kind, run) in enumerate(
                groupby("delta" if flag else "absolute" for flag in flags)
            )
        ]
        known = base["actions"]["groups"]
        found["actions"] = {"groups": known if _values(known) == _values(groups) else groups}
    return found


def _entries(settings: HydraConfig, kind: str) -> list[Mapping[str, Any]]:
    """The entries of `shape_meta` for "images", "action" or "state"; none if there are none."""
    name = f"{DATA}.shape_meta.{kind}"
    found = settings.get(name) or []
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        raise WamkitError(f"{settings.where}: {name} is no list of tables", "copy the file again")
    return found


def _vector_size(settings: HydraConfig, kind: str) -> int:
    """Values of an action or a state; 0 if the settings do not say."""
    name = f"{DATA}.shape_meta.{kind}.shape"
    entries = _entries(settings, kind)
    return sum(whole_number(entry.get("shape"), name, settings.where) for entry in entries)


def _values(groups: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Kind and normalization of every value of an action."""
    return [
        (group.get("kind", "absolute"), group.get("normalization", "min_max"))
        for group in groups
        for _ in range(group["size"])
    ]


def view_tables(settings: HydraConfig) -> list[dict[str, Any]]:
    """Name and size of each camera, in their order; none if the settings do not say."""
    views = []
    for entry in _entries(settings, "images"):
        name, shape = entry.get("key"), entry.get("shape")
        if not isinstance(name, str) or not isinstance(shape, list) or len(shape) != 3:
            raise WamkitError(
                f"{settings.where}: a camera of {DATA}.shape_meta.images has key = {name!r} and "
                f"shape = {shape!r}, expected a name and [3, height, width]",
                "copy the file again",
            )
        views.append({"name": name, "size": shape[1:]})
    return views


def layout_of(settings: HydraConfig) -> str:
    """The layout of the cameras, as `cameras.layout`."""
    return LAYOUTS[settings.get("data.train.concat_multi_camera", "horizontal")]


def read_dataset_stats(
    source: Source, embodiment: str | None = None, vectors: Sequence[str] = ("action", "state")
) -> dict[str, dict[str, list[float]]]:
    """The rows `global_*` of `dataset_stats.json`, by "action" and "state"; {} without the file.

    Args:
        source: The checkpoint that the file is next to.
        embodiment: Key of the statistics of several data sets.
        vectors: Which of the two are wanted.

    Raises:
        WamkitError: A table or a row is missing, or there are several data sets and none is named.
    """
    file = source.find("dataset_stats.json", "*dataset_stats.json")
    if file is None:
        return {}
    raw = source.json(file.relative_to(source.folder).as_posix())
    found = {}
    for name in vectors:
        tables = raw.get(name) if isinstance(raw, dict) else None
        if not isinstance(tables, dict) or not tables:
            raise WamkitError(
                f"{file} holds no table {name!r}", "name the statistics of the run's own training"
            )
        key = embodiment or next(iter(tables))
        if key not in tables or (embodiment is None and len(tables) > 1):
            raise WamkitError(
                f"{file} holds statistics of other data sets than {key!r}: {', '.join(tables)}"
                if key not in tables
                else f"{file} holds statistics of several data sets: {', '.join(tables)}",
                f"choose one: --set importer.embodiment={next(iter(tables))}",
            )
        table = tables[key] if isinstance(tables[key], dict) else {}
        if lost := [row for row in ROWS if not isinstance(table.get(f"global_{row}"), list)]:
            raise WamkitError(
                f"{file} lacks global_{', global_'.join(lost)} of {name}", "copy the file again"
            )
        found[name] = {row: table[f"global_{row}"] for row in ROWS}
    return found
