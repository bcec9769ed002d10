"""Read a checkpoint of ImageWAM: `mot.mixtures.{video,action}.*` and `proprio_encoder.*`.

Written from `ImageWAM.save_checkpoint` and `load_checkpoint`, `lora.py` and the Hydra
configurations of github.com/yuyangalin/ImageWAM, commit 5d4a341.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wamkit.checkpoints.source import Source
from wamkit.config.importing import Imported, Selection
from wamkit.errors import WamkitError

from .layouts import ACTION, HEAD, STATE, TWICE, VIDEO
from .settings import from_settings, merge
from .specs import ENCODERS, KLEIN, LIBERO, ROBOTWIN, SIZES
from .statistics import read_statistics

if TYPE_CHECKING:
    from . import ImageWAM

TRAINED = "mot.mixtures.video.transformer"
SETTINGS = ("train_config.yaml", "config.yaml", "*config.yaml")
PLAIN = (r"\.base\.(weight|bias)$", r".\1")
NOTES: Mapping[str, tuple[str, ...]] = {
    "libero": (
        "Cameras show what the training data show: the simulator's images turned by 180 degrees.",
        "The gripper's action is 0 closed, 1 open: for the simulator, 1 - 2 a, rounded to -1 or 1.",
        "Published evaluation: 12 of 16 actions are executed.",
    ),
    "robotwin": (
        "Actions are absolute joint positions: left arm 6 and gripper, right arm 6 and gripper.",
        "Published evaluation: 16 of 16 actions are executed.",
    ),
}


def read(importer: ImageWAM, source: Source) -> Imported:
    """What becomes of a checkpoint of ImageWAM. Raises WamkitError if a fact is missing."""
    settings, sizes = source.settings(*SETTINGS), Sizes.of(source)
    release: str = importer.release
    if release == "auto":
        release = {(7, 8): "libero", (14, 14): "robotwin"}.get((sizes.action, sizes.state), "auto")
    if release == "auto" and not settings:
        raise WamkitError(
            f"{source.path} is an ImageWAM for actions of {sizes.action} and a state of "
            f"{sizes.state} values, which is no released robot (7 and 8: LIBERO; 14 and 14: "
            "RoboTwin)",
            "put the run's train_config.yaml next to it, or say whose cameras it has: "
            "--set importer.release=libero",
        )
    spec = merge(ROBOTWIN if release == "robotwin" else LIBERO, sizes.spec())
    spec = merge(spec, from_settings(settings))
    if not sizes.state:
        spec = merge(spec, {"state": {"size": 0}, "action_head": {"state": "none"}})
    variant = sizes.variant or "klein-4b"
    elsewhere = {"vae": KLEIN["klein-4b"], "text_encoder": ENCODERS[variant][1]}
    weights = {"action_head": Selection(rf"{ACTION}|{STATE}", layouts=(HEAD,))}
    notes = list(NOTES.get(release, ()))
    if sizes.has_lora:
        spec = merge(spec, {"backbone": {"lora_scale": _lora_scale(settings)}})
    if sizes.has_video:
        weights["backbone"] = Selection(VIDEO, ((VIDEO, ""), PLAIN))
    else:
        elsewhere["backbone"] = KLEIN[variant]
        notes.append(
            "The checkpoint holds only what was trained: the image network is that of FLUX.2."
        )
        if sizes.has_lora:
            spec = merge(spec, {"backbone": {"lora": f"{source.path}#{TRAINED}"}})
            notes.append(
                "Its LoRA is merged into FLUX.2; the authors' loader leaves it out where the "
                "weights it belongs to are not in the same file."
            )
    rules = {
        "action": spec["actions"]["groups"][0].get("normalization", "min_max"),
        "state": spec["state"].get("normalization", "min_max"),
    }
    if not sizes.state:
        del rules["state"]
    statistics = read_statistics(importer, source, rules)
    if not statistics:
        notes.append("There were no statistics next to the checkpoint: actions stay normalized.")
    where = {"libero": " (LIBERO)", "robotwin": " (RoboTwin)"}.get(release, "")
    dropped = {
        TWICE: "second name of a block of the image network",
        r"^optimizer\.": "state of the optimizer",
    }
    if not sizes.has_video:
        dropped[VIDEO] = "read by the backbone"
    return Imported(
        spec=spec,
        weights=weights,
        dropped=dropped,
        elsewhere=elsewhere,
        statistics=statistics,
        system=f"ImageWAM FLUX.2 {variant.removeprefix('klein-').upper()}{where}",
        license="MIT; FLUX.2 klein 9B is under the FLUX Non-Commercial License",
        notes=notes,
        untested=("weights at their published size", "training and use in bfloat16"),
    )


def _lora_scale(settings: Mapping[str, Any]) -> float:
    """alpha / rank; 1 where no settings say, as the authors' loader takes it."""
    config = (settings.get("model") or {}).get("flux2_lora_config") or {}
    return float(config.get("alpha", 1.0)) / float(config.get("rank", 1.0))


@dataclass(frozen=True)
class Sizes:
    """Sizes of a checkpoint, by the names and shapes of its tensors."""

    shapes: Mapping[str, tuple[int, ...]]
    """Of the tensors, by names without `mot.`."""

    @staticmethod
    def of(source: Source) -> Sizes:
        """Those of a checkpoint."""
        return Sizes({n.removeprefix("mot."): e.shape for n, e in source.tensors.items()})

    def _shape(self, name: str) -> tuple[int, ...]:
        try:
            return self.shapes[name]
        except KeyError:
            raise WamkitError(
                f"the checkpoint lacks {name}", "download or copy the whole file again"
            ) from None

    def _layers(self, kind: str) -> int:
        found = {m[1] for n in self.shapes if (m := re.match(rf"{kind}_blocks\.(\d+)\.", n[16:]))}
        return len(found)

    @property
    def action(self) -> int:
        """Values of an action."""
        return self._shape("mixtures.action.action_encoder.weight")[1]

    @property
    def state(self) -> int:
        """Values of a state; 0 for none."""
        return self.shapes.get("proprio_encoder.weight", (0, 0))[1]

    @property
    def has_video(self) -> bool:
        """Whether the image network is in the file."""
        return "mixtures.video.transformer.img_in.weight" in self.shapes

    @property
    def has_lora(self) -> bool:
        """Whether there are adapters that were not merged."""
        return any(re.match(r"mixtures\.video\.transformer\..*\.lora_A$", n) for n in self.shapes)

    def _heads(self) -> dict[str, int]:
        head = self._shape("mixtures.action.double_blocks.0.img_attn.norm.query_norm.scale")[0]
        rows = self._shape("mixtures.action.double_blocks.0.img_attn.qkv.weight")[0]
        return {
            "double_layers": self._layers("double"),
            "single_layers": self._layers("single"),
            "num_heads": rows // 3 // head,
            "head_dim": head,
        }

    @property
    def variant(self) -> str | None:
        """The published variant of FLUX.2, if it is one."""
        mine = self._heads()
        return next((name for name, sizes in SIZES.items() if sizes == mine), None)

    def spec(self) -> dict[str, Any]:
        """The tables of a spec that follow from the sizes."""
        head = {
            "width": self._shape("mixtures.action.action_encoder.weight")[0],
            "mlp_dim": self._shape("mixtures.action.double_blocks.0.img_mlp.2.weight")[1],
        }
        if (variant := self.variant) is not None:
            encoder = {"embedding": ENCODERS[variant][0]}
            backbone: dict[str, Any] = {"variant": variant}
            return {"backbone": backbone, "text_encoder": encoder, "action_head": head}
        backbone = {"variant": "tiny", **self._heads()}
        if not self.has_video:
            return {"backbone": backbone, "action_head": head}
        video = "mixtures.video.transformer."
        backbone |= {
            "latent_channels": self._shape(f"{video}img_in.weight")[1],
            "text_width": self._shape(f"{video}txt_in.weight")[1],
        }
        name = f"{video}double_blocks.0.img_mlp.2.weight"
        name = name if name in self.shapes else f"{name.removesuffix('.weight')}.base.weight"
        backbone["mlp_dim"] = self._shape(name)[1]
        return {"backbone": backbone, "action_head": head}
