"""Record training steps of Fast-WAM's variants, for `test_fastwam_training.py`.

Run it as `make_fastwam_runs.py`, which holds what both need, in the same checkout of
https://github.com/yuantianyuan01/FastWAM (commit 45d8e14): `PYTHONPATH=src python
make_fastwam_training.py OUT.safetensors`. The optional IDM is younger: put its one file there,
`src/fastwam/models/wan22/fastwam_optional_idm.py` of commit 7faa711. It rests here on the classes
of the older commit, which lack two of its arguments: `parents` drops these. Whether the action sees
the future is drawn for each sample there; the older training loss takes one mask, so that a step is
recorded with the future for all samples, and one for none. Shifts are those of the release.

What is theirs: `training_loss` of every variant as it stands, the masks that it builds, the two
ways in which the optional IDM acts, and levels rounded to bfloat16. What is not: the latents, which
are given in place of a VAE's, and the random draws, which are drawn before and recorded. The
weights are those of `fastwam_runs.safetensors`. Networks and losses are computed in float64.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import make_fastwam_runs as runs
import torch
from fastwam.models.wan22 import fastwam, fastwam_idm
from fastwam.models.wan22.schedulers.scheduler_continuous import WanContinuousFlowMatchScheduler
from safetensors.torch import save_file
from torch import Tensor

from wamkit.testing.parity import same_values
from wamkit.testing.recorded import part_of, read_record
from wamkit.testing.tolerance import float64, to_float64

BATCH, CHUNK, FRAMES, SIZE = 2, 8, 3, 8
IDM: Any = fastwam_idm.FastWAMIDM
"""Their class, before another stands for it."""


def parents() -> tuple[type, type]:
    """FastWAM and FastWAMIDM, for a class that passes two arguments more."""

    class Base(fastwam.FastWAM):  # type: ignore[misc]
        def infer_action(self, *, compile_action_infer: bool, **given: Any) -> Any:
            return fastwam.FastWAM.infer_action(self, **given)

    class Parent(IDM):  # type: ignore[misc]
        def infer_action(self, *, compile_action_infer: bool, **given: Any) -> Any:
            return IDM.infer_action(self, **given)

        def _build_teacher_forcing_attention_mask(self, *, batch_size: int, **given: Any) -> Any:
            return super()._build_teacher_forcing_attention_mask(**given)

    return Base, Parent


def optional() -> type:
    """The optional IDM, with one mask for all samples, as the older training loss needs it."""
    base, parent = parents()
    with patch.object(fastwam, "FastWAM", base), patch.object(fastwam_idm, "FastWAMIDM", parent):
        from fastwam.models.wan22.fastwam_optional_idm import FastWAMOptionalIDM

    class Once(FastWAMOptionalIDM):  # type: ignore[misc]
        video_cond_noise_prob = 0.0  # as configs/model/fastwam_optional_idm.yaml has it

        def _build_teacher_forcing_attention_mask(self, **given: Any) -> Tensor:
            each = super()._build_teacher_forcing_attention_mask(batch_size=BATCH, **given)
            assert torch.equal(each, each[:1].expand_as(each))
            return each[0, 0]

    return Once


def inputs() -> dict[str, Tensor]:
    """One batch, noise and uniform draws; the end of one sample is padding."""
    rng = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    clip, actions = (BATCH, runs.LATENT, FRAMES, SIZE, SIZE), drawn(BATCH, CHUNK, 4)
    actions[1, 6:, :3] = 0.0  # differences behind the end of an episode, as their data set has them
    return {
        **{name: drawn(*clip).half() for name in ("latents", "noise_video", "noise_copy")},
        "actions": actions, "noise_action": drawn(BATCH, CHUNK, 4),
        "text": drawn(BATCH, 5, runs.TEXT), "proprio": drawn(BATCH, 3),
        "action_is_pad": torch.tensor([[0] * 8, [0] * 6 + [1] * 2], dtype=torch.uint8),
        "image_is_pad": torch.tensor([[0] * 9, [0] * 5 + [1] * 4], dtype=torch.uint8),
        "level_video": torch.tensor([0.8, 0.1]), "level_action": torch.tensor([0.02, 0.4]),
        "noised": torch.tensor([0.2, 0.7]), "level_copy": torch.tensor([0.3, 0.6]),
    }  # fmt: skip


def replay(tensors: list[Tensor]) -> Callable[..., Tensor]:
    """A function that gives each tensor once, in this order, whatever it is asked for."""
    left = list(tensors)
    return lambda *given, **named: left.pop(0)


@torch.no_grad()
@float64()
def training_step(model: Any, x: dict[str, Tensor], more: list[Tensor]) -> dict[str, Tensor]:
    """What one training step predicts and costs; `more` are uniform draws behind the levels."""
    model._encode_video_latents = lambda *given, **named: x["latents"].clone()
    kept: dict[str, Tensor] = {}

    def keep(name: str, function: Any) -> Any:
        def kept_too(*given: Any, **named: Any) -> Any:
            kept[name] = function(*given, **named)
            return kept[name]

        return kept_too

    seen: list[Tensor] = []
    mixed = model.mot.forward

    def watched(*given: Any, attention_mask: Tensor, **named: Any) -> Any:
        seen.append(attention_mask)
        return mixed(*given, attention_mask=attention_mask, **named)

    noise = [x[f"noise_{name}"] for name in ("video", "action", "copy")]
    uniform = [x["level_video"], x["level_action"], *more]
    with (
        patch.object(torch, "randn_like", replay(noise)),
        patch.object(torch, "rand", replay(uniform)),
        patch.object(model.mot, "forward", watched),
        patch.object(model.video_expert, "post_dit", keep("video", model.video_expert.post_dit)),
        patch.object(model.action_expert, "post_dit", keep("action", model.action_expert.post_dit)),
    ):
        sample = {
            "video": torch.zeros(BATCH, 3, 9, 16, 16), "action": x["actions"], "context": x["text"],
            "context_mask": torch.ones(x["text"].shape[:2], dtype=torch.bool),
            "proprio": x["proprio"][:, None], "action_is_pad": x["action_is_pad"].bool(),
            "image_is_pad": x["image_is_pad"].bool(),
        }  # fmt: skip
        total, parts = model.training_loss(sample)
    return {
        "mask": seen[0].to(torch.uint8), "velocity_video": kept["video"][:, :, 1:],
        "velocity_action": kept["action"], "loss": total,
        **{name: torch.tensor(value) for name, value in parts.items()},
    }  # fmt: skip


def steps(x: dict[str, Tensor]) -> dict[str, Tensor]:
    """A training step of every variant; none changes what is predicted for the video."""
    wide = {k: v.double() if v.is_floating_point() else v for k, v in x.items()}
    lengths: dict[str, list[Tensor]] = {"joint": [], "idm": [wide["noised"], wide["level_copy"]]}
    found: dict[str, Tensor] = {}
    for variant in ("joint", "idm", "optional/whole", "optional/first_frame"):
        model = runs.build(variant.partition("/")[0], 4, 3)
        if variant.startswith("optional"):
            model.action_idm_prob = float(variant == "optional/whole")
            model.train_action_scheduler = WanContinuousFlowMatchScheduler(shift=1.0)
        drawn = torch.full((BATCH, 1, 1, 1), 0.5, dtype=torch.float64)
        more = lengths.get(variant, [wide["noised"], drawn])
        step = to_float64(training_step(model, wide, more))
        video = step.pop("velocity_video")
        first = found.setdefault("velocity_video", video)
        same_values(video, first, 1e-13)
        found |= {f"{variant}/{name}": value for name, value in step.items()}
    return found


@torch.no_grad()
def ways() -> dict[str, Tensor]:
    """Actions of the optional IDM that imagines or does not, for what the other record saw."""
    seen = read_record(Path(__file__).parent / "fastwam_runs.safetensors", "libero/")
    theirs = runs.functions(
        "experiments/libero/eval_libero_single.py", "_normalize_proprio", "_denormalize_action"
    )
    stats = {
        kind: {"default": part_of(seen, f"statistics/{kind}/")} for kind in ("action", "state")
    }
    own = runs.processor(4, 3, "min/max", stats)
    state = theirs["_normalize_proprio"](seen["state"].numpy(), own)
    image = seen["canvas"].permute(2, 0, 1)[None].double() * (2.0 / 255.0) - 1.0
    model, found = runs.build("optional", 4, 3), {}
    for way in ("idm", "first_frame"):
        with float64():
            chunk = model.infer_action(
                prompt=None, input_image=image, action_horizon=CHUNK, num_video_frames=runs.FRAMES,
                proprio=state, context=seen["text"].double(),
                context_mask=torch.ones(seen["text"].shape[:2], dtype=torch.bool),
                num_inference_steps=runs.STEPS, seed=11, sigma_shift=1.0,
                action_infer_mode=way,
            )["action"].float()  # fmt: skip
        found[f"ways/{way}"] = torch.from_numpy(theirs["_denormalize_action"](chunk, own))[0]
    return found


def rounded() -> dict[str, Tensor]:
    """Levels of training as runs in bfloat16 round them, by what was drawn, and their weights."""
    drawn = torch.rand(64, generator=torch.Generator().manual_seed(4))
    scheduler = runs.build("uncond", 4, 3).train_video_scheduler
    with patch.object(torch, "rand", replay([drawn])):
        times = scheduler.sample_training_t(64, torch.device("cpu"), torch.bfloat16)
    with float64():
        weights = scheduler.training_weight(times)
    return {"rounded/drawn": drawn, "rounded/timesteps": times, "rounded/weights": weights}


def main(out: str) -> None:
    runs.CLASSES["optional"] = optional()
    x = inputs()
    state = {f"inputs/{k}": v for k, v in x.items()} | steps(x) | ways() | rounded()
    save_file({k: v.detach().contiguous().clone() for k, v in state.items()}, out)


if __name__ == "__main__":
    main(sys.argv[1])
