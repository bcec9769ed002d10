"""Read a checkpoint of ImageWAM: `mot.mixtures.{video,action}.*` and `proprio_encoder.*`.

Written from `ImageWAM.save_checkpoint` and `load_checkpoint`, `lora.py` and the Hydra
configurations of github.com/yuyangalin/ImageWAM, commit 5d4a341.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wamkit.checkpoints.hydra_config import HydraConfig
from wamkit.checkpoints.robot_run import (
    CONVENTIONS,
    NO_STATISTICS,
    TITLES,
    guesses,
    read_dataset_stats,
    released_robot,
)
from wamkit.checkpoints.source import Source
from wamkit.config.extends import merge
from wamkit.config.importing import Imported, Selection
from wamkit.errors import WamkitError

from .layouts import ACTION, HEAD, STATE, TWICE, VIDEO
from .settings import from_settings, lora_scale
from .specs import ENCODERS, KLEIN, LIBERO, ROBOTWIN, SIZES

if TYPE_CHECKING:
    from . import ImageWAM

TRAINED = "mot.mixtures.video.transformer"
SETTINGS = ("train_config.yaml", "config.yaml", "*config.yaml")
PLAIN = (r"\.base\.(weight|bias)$", r".\1")
NOTES: Mapping[str, tuple[str, ...]] = {
    "libero": (*CONVENTIONS["libero"], "Published evaluation: 12 of 16 actions are executed."),
    "robotwin": (*CONVENTIONS["robotwin"], "Published evaluation: 16 of 16 actions are executed."),
}


def read(importer: ImageWAM, source: Source) -> Imported:
    """What becomes of a checkpoint of ImageWAM. Raises WamkitError if a fact is missing."""
    settings, sizes = HydraConfig(source.settings(*SETTINGS)), Sizes.of(source)
    what = f"{source.path}, an ImageWAM,"
    robot = released_robot(importer.release, (sizes.action, sizes.state), settings, what)
    spec = merge(ROBOTWIN if robot == "robotwin" else LIBERO, sizes.spec())
    spec = merge(spec, from_settings(settings, spec))
    if not sizes.state:
        spec = merge(spec, {"state": {"size": 0}, "action_head": {"state": "none"}})
    variant = sizes.variant or "klein-4b"
    elsewhere = {"vae": KLEIN["klein-4b"], "text_encoder": ENCODERS[variant][1]}
    weights = {"action_head": Selection(rf"{ACTION}|{STATE}", layouts=(HEAD,))}
    notes = [*NOTES.get(robot or "", ())]
    notes += guesses(importer.release, robot, source, settings, spec)
    if sizes.has_lora and (scale := lora_scale(settings)) is not None:
        spec = merge(spec, {"backbone": {"lora_scale": scale}})
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
    vectors = ("action", "state") if sizes.state else ("action",)
    statistics = read_dataset_stats(source, importer.embodiment, vectors)
    if not statistics:
        notes.append(NO_STATISTICS)
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
        system=f"ImageWAM FLUX.2 {variant.removeprefix('klein-').upper()}"
        f"{TITLES.get(robot or '', '')}",
        license="not stated; code MIT; FLUX.2 klein 4B Apache-2.0"
        if variant == "klein-4b"
        else "not stated; code MIT; FLUX.2 klein 9B FLUX Non-Commercial License",
        notes=notes,
    )


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
