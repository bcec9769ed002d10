"""Read a checkpoint of GE-Act: a video model with views, and `action_*` next to it.

Written from `transformer_ltx_multiview.py`, `action_patches/patches.py`, the configurations and the
actors of github.com/AgibotTech/Genie-Envisioner, commit 7e007c7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wamkit.checkpoints.setting_values import number, unknown_values, whole_number
from wamkit.checkpoints.source import Source
from wamkit.config.extends import merge
from wamkit.config.importing import Imported, Selection
from wamkit.errors import WamkitError

from .specs import RELEASES

if TYPE_CHECKING:
    from . import GEAct

ROWS = ("min", "max", "mean", "std", "q01", "q99")
SLACK = 1e-6
"""What the published code adds to the range between the quantiles."""
SIZES = {
    "num_layers": "layers",
    "num_attention_heads": "num_heads",
    "attention_head_dim": "head_dim",
    "in_channels": "latent_channels",
    "caption_channels": "text_width",
}
"""Their `diffusion_model.config` -> ours of the backbone."""
HEAD = {"action_num_attention_heads": "num_heads", "action_attention_head_dim": "head_dim"}
NETWORK, DATA = "diffusion_model.config", "data.train"
KNOWN: Mapping[str, tuple[Any, ...]] = {
    "return_action": (True,),
    "add_state": (True,),
    "noisy_video": (True,),
    "pixel_wise_timestep": (True,),
    "diffusion_scheduler_class": ("FlowMatchEulerDiscreteScheduler",),
    "diffusion_scheduler_args": (None, {}),
    f"{NETWORK}.action_expert": (True,),
    f"{NETWORK}.activation_fn": ("gelu-approximate",),
    f"{NETWORK}.attention_bias": (True,),
    f"{NETWORK}.attention_out_bias": (True,),
    f"{NETWORK}.norm_elementwise_affine": (False,),
    f"{NETWORK}.norm_eps": (1e-6,),
    f"{NETWORK}.patch_size": (1,),
    f"{NETWORK}.patch_size_t": (1,),
    f"{NETWORK}.qk_norm": ("rms_norm_across_heads",),
    f"{DATA}.preprocess": ("resize",),
    f"{DATA}.action_type": ("absolute",),
    f"{DATA}.action_space": ("eef",),
    f"{DATA}.use_unified_prompt": (False,),
    f"{DATA}.valid_act_dim": (None,),
    f"{DATA}.valid_sta_dim": (None,),
}
"""Settings of a run's YAML file that decide how it acts -> their values here."""
TRAINING: Mapping[str, tuple[Any, ...]] = {
    "train_mode": ("action_full",),
    "caption_dropout_p": (0.0,),
    "flow_weighting_scheme": ("none",),
    "use_color_jitter": (False,),
    f"{DATA}.random_crop": (False,),
    f"{DATA}.previous_pick_mode": ("uniform",),
}
"""Settings that decide how it learns alone -> their values here; others are noted."""
LTX = "hf:Lightricks/LTX-Video"
VAE = "hf:a-r-r-o-w/LTX-Video-0.9.1-diffusers"
NOTES: Mapping[str, tuple[str, ...]] = {
    "libero": (
        "Cameras show what the training data show: the simulator's images turned by 180 degrees.",
        "Published evaluation: 8 of 36 actions are executed.",
    ),
    "calvin": (
        "Published evaluation: 8 of 54 actions are executed; the gripper's is rounded to -1 or 1.",
    ),
}
MEMORY = (
    "The 4 observed images are memory: the present one last; before it older ones, at the start "
    "the first image. Published: 8 steps apart on CALVIN; on LIBERO renewed every 24 steps, so "
    "that the youngest of them is 8 to 24 steps old (video.observed_stride)."
)


def read(importer: GEAct, source: Source) -> Imported:
    """What becomes of a checkpoint of GE-Act. Raises WamkitError if a fact is missing."""
    settings = source.settings("*action_model*.yaml", "*.yaml", "*.yml")
    size, release = source.tensors["action_proj_in.weight"].shape[1], str(importer.release)
    noted = _expect_known(source, settings)
    if release == "auto":
        release = {15: "libero", 22: "calvin"}.get(size, _domain(settings))
    if release not in RELEASES:
        raise WamkitError(
            f"{source.path} is a GE-Act that denoises vectors of {size} values, which is no "
            "released one that is read (15: LIBERO; 22: CALVIN)",
            "say whose robot it has: --set importer.release=libero",
        )
    spec = _with_sizes(RELEASES[release], source)
    spec = _with_settings(spec, settings)
    statistics, lines = _statistics(source, settings, release, size)
    if statistics:
        spec = _with_state(spec, len(statistics["state"]["min"]), size)
    return Imported(
        spec=spec,
        weights={
            "backbone": Selection(r"^(?!action_)"),
            "action_head": Selection(r"^action_"),
        },
        elsewhere={"vae": VAE, "text_encoder": LTX},
        statistics=statistics,
        system=f"GE-Act ({release.upper()})",
        license="CC BY-NC-SA 4.0",
        notes=(*NOTES[release], MEMORY, *_guesses(importer, settings, spec, size), *noted, *lines),
    )


def _table(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The table of a dotted name; {} if there is none."""
    found: Any = settings
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _value(settings: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value of a dotted name; `default` if it is not stated."""
    table, _, key = name.rpartition(".")
    return (_table(settings, table) if table else settings).get(key, default)


def _expect_known(source: Source, settings: Mapping[str, Any]) -> list[str]:
    """Notes on settings of training that are other ones here.

    Raises WamkitError with every setting in use that is.
    """

    def get(name: str, default: Any) -> Any:
        return _value(settings, name, default)

    if faults := list(unknown_values(get, KNOWN)):
        raise WamkitError(
            f"the YAML file next to {source.path} states what wamkit's GE-Act is not: "
            f"{'; '.join(faults)}",
            "run this checkpoint by the authors' code",
        )
    found = (text.replace(", expected ", ", here ") for text in unknown_values(get, TRAINING))
    return [f"Training there has {text}." for text in found]


def _guesses(
    importer: GEAct, settings: Mapping[str, Any], spec: Mapping[str, Any], size: int
) -> list[str]:
    """A note on everything about the robot that no file states."""
    if importer.release != "auto":
        return []
    return [
        f"By its {size} values of a step, or its data set {_domain(settings) or '(not stated)'}, a "
        f"robot was chosen; actions.control_hz = {spec['actions']['control_hz']}, and which "
        "actions are differences, are that robot's and stated by no file."
    ]


def _with_sizes(spec: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """The spec with the sizes that shapes of tensors tell."""
    tensors = source.tensors
    layers = {name.split(".")[1] for name in tensors if name.startswith("transformer_blocks.")}
    backbone = {
        "layers": len(layers),
        "mlp_dim": tensors["transformer_blocks.0.ff.net.0.proj.weight"].shape[0],
        "views": tensors["view_embed"].shape[0],
    }
    head = {"mlp_dim": tensors["action_blocks.0.ff.net.0.proj.weight"].shape[0]}
    return merge(spec, {"backbone": backbone, "action_head": head})


def _with_settings(spec: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with what a run's YAML file decides."""
    model, data = _table(settings, NETWORK), _table(settings, DATA)
    over: dict[str, Any] = {
        "backbone": {ours: model[theirs] for theirs, ours in SIZES.items() if theirs in model},
        "action_head": {ours: model[theirs] for theirs, ours in HEAD.items() if theirs in model},
    }

    def count(key: str) -> int:
        return whole_number(data[key], f"{DATA}.{key}", "the run's YAML file")

    if "action_chunk" in data:
        over["actions"] = {"chunk_size": count("action_chunk")}
    if {"chunk", "n_previous"} <= set(data):
        chunk, previous = count("chunk"), count("n_previous")
        actions = count("action_chunk") if "action_chunk" in data else chunk
        over["video"] = {
            "num_observed": previous,
            "num_frames": previous + chunk,
            "frame_stride": max(1, actions // chunk),
        }
    if {"valid_cam", "sample_size"} <= set(data):
        size, names = data["sample_size"], data["valid_cam"]
        if not isinstance(names, list) or not isinstance(size, list) or len(size) != 2:
            raise WamkitError(
                f"the run's YAML file: {DATA}.valid_cam = {names!r} and sample_size = {size!r}, "
                "expected names of cameras and [height, width]",
                "copy the file again",
            )
        kept = spec["cameras"]["views"][0]  # how images are resized is in no file
        over["cameras"] = {"views": [{**kept, "name": n, "size": size} for n in names]}
    if "noise_to_first_frame" in settings:
        over["paradigm"] = {"context_noise": settings["noise_to_first_frame"]}
    action: dict[str, Any] = {}
    if "num_inference_step" in settings:
        action["steps"] = settings["num_inference_step"]
    if "action_loss_scale" in settings:
        scale = settings["action_loss_scale"]
        action["loss_weight"] = number(scale, "action_loss_scale", "the run's YAML file")
    return merge(spec, {**over, "schedules": {"action": action}})


def _with_state(spec: Mapping[str, Any], state: int, size: int) -> dict[str, Any]:
    """The spec for a robot with so many values of state among so many of a step."""
    groups = [dict(group) for group in spec["actions"]["groups"]]
    groups[-1]["size"], groups[0]["size"] = state, size - state - groups[1]["size"]
    return merge(spec, {"actions": {"groups": groups}, "state": {"size": state}})


def _statistics(
    source: Source, settings: Mapping[str, Any], release: str, size: int
) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """Rows of actions with the state behind them, and of the state.

    The published code divides by the range between two quantiles and 1e-6: the upper quantile is
    moved by as much.
    """
    raw = source.json("*stat*.json", "*libero*.json", "*calvin*.json")
    if raw is None:
        return {}, ["There were no statistics next to the checkpoint: actions stay normalized."]
    space = _value(settings, f"{DATA}.action_space", "eef")
    domain = _domain(settings) or release
    tables = []
    for key in (f"{domain}_{space}", f"{domain}_state_{space}"):
        table = raw.get(key) if isinstance(raw, dict) else None
        if not isinstance(table, dict) or any(not isinstance(table.get(r), list) for r in ROWS):
            found = ", ".join(raw) if isinstance(raw, dict) else "no table"
            raise WamkitError(
                f"the statistics next to {source.path} lack {', '.join(ROWS)} of {key}; they hold "
                f"{found}",
                "copy the statistics of this checkpoint's own data set next to it",
            )
        tables.append(_widened(table, key))
    action, state = tables
    both = {row: [*action[row], *state[row]] for row in ROWS}
    if len(both["min"]) != size:
        raise WamkitError(
            f"the statistics next to {source.path} are of {len(both['min'])} values, the "
            f"checkpoint denoises {size}",
            "these are the statistics of another robot: copy those of this checkpoint",
        )
    return {"action": both, "state": state}, []


def _widened(table: Mapping[str, Sequence[float]], key: str) -> dict[str, list[float]]:
    """Rows with the upper quantile a little higher, and the maximum not below it."""
    rows = {row: [number(x, f"{key}.{row}", "the statistics") for x in table[row]] for row in ROWS}
    if len({len(values) for values in rows.values()}) > 1:
        raise WamkitError(f"the rows of {key} are of different sizes", "copy the file again")
    rows["q99"] = [x + SLACK for x in rows["q99"]]
    rows["max"] = [max(pair) for pair in zip(rows["max"], rows["q99"], strict=True)]
    return rows


def _domain(settings: Mapping[str, Any]) -> str:
    """The name of the data set in a run's YAML file; empty without."""
    domains = _value(settings, f"{DATA}.domains")
    return str(domains[0]) if isinstance(domains, list) and domains else ""
