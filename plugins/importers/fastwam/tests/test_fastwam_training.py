"""Imported checkpoints of Joint, IDM and optional IDM learn as the authors' code makes them.

`data/fastwam_training.safetensors` was recorded from the published code by
`data/make_fastwam_training.py`: one training step of each, from the weights of the other record.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from wamkit_fastwam import FastWAM
from wamkit_fastwam.specs import LIBERO

from wamkit.engine.noise_schedule import shift_sigma
from wamkit.engine.passes import PassRunner
from wamkit.interfaces.streams import embed_video
from wamkit.interfaces.types import DenoisingTargets, ModelInputs, ModelOutput, Text
from wamkit.policy.losses import modality_loss
from wamkit.policy.observation import Batch, Observation
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import training_inputs
from wamkit.testing.parity import float64, same_values, to_float64
from wamkit.testing.recorded import RecordedNoise, part_of, read_record

VERIFIED = FastWAM.verified
RECORD = Path(__file__).parent / "data" / "fastwam_training.safetensors"
STEPS = {"joint": None, "idm": 0.5, "optional/whole": 0.5, "optional/first_frame": 0.49}
"""A recorded step -> the number that decides whether the copy of the future is left out."""
Import = Callable[..., Policy]


class Step(NamedTuple):
    """One training step of an imported policy, on what was recorded."""

    policy: Policy
    batch: Batch
    noisy: ModelInputs
    goals: DenoisingTargets
    found: ModelOutput


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    return read_record(RECORD)


@pytest.fixture(scope="module")
def policies(import_tiny: Import, tmp_path_factory: Any) -> dict[str, Policy]:
    """An imported policy of each variant, in float64, for values that are normalized already."""
    return {
        variant: to_float64(
            import_tiny(tmp_path_factory.mktemp(variant), "libero", variant, statistics=False)
        )
        for variant in ("joint", "idm", "optional_idm")
    }


@pytest.fixture(params=STEPS)
def name(request: pytest.FixtureRequest) -> str:
    """The step that is compared."""
    return str(request.param)


@pytest.fixture
@torch.no_grad()
@float64()
def step(
    policies: dict[str, Policy],
    trained: dict[str, Tensor],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Step:
    """The step with the authors' draws, in the order in which they are drawn here."""
    policy = policies[name.replace("optional", "optional_idm").partition("/")[0]]
    given = part_of(trained, "inputs/")
    x = {k: v.double() if v.is_floating_point() else v.bool() for k, v in given.items()}
    monkeypatch.setattr(
        "wamkit.policy.preprocessing.embed_prompts", lambda *_, **__: Text(x["text"])
    )
    views = [view.name for view in policy.spec.cameras.views]
    blank = {view: torch.zeros(2, 9, 3, 32, 24, dtype=torch.uint8) for view in views}
    batch = Batch(
        Observation(blank, ("a", "b"), x["proprio"]),
        x["actions"],
        step_valid=~x["action_is_pad"],
        frame_valid=~x["image_is_pad"],
        latents=x["latents"],
    )
    uniform = [x["level_action"], x["level_video"]]
    if (left_out := STEPS[name]) is not None:
        uniform += [torch.tensor(left_out), x["noised"], x["level_copy"]]
    draws = iter(uniform)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(draws))
    noise = [x[f"noise_{part}"] for part in ("action", "video", "copy")]
    rng = RecordedNoise([noise[0], *(clip[:, :, 1:] for clip in noise[1:])])
    noisy, goals = policy.paradigm.add_noise(training_inputs(policy, batch), policy.schedules, rng)
    return Step(policy, batch, noisy, goals, policy.model(noisy))


@float64()
def test_a_training_step_predicts_the_same(
    step: Step, name: str, trained: dict[str, Tensor]
) -> None:
    assert step.found.video is not None and step.found.action is not None
    video = step.found.video[:, :, list(step.goals["video"].places)]
    same_values(video, trained["velocity_video"], VERIFIED["network"], scale=1.0)
    expected = trained[f"{name}/velocity_action"]
    same_values(step.found.action, expected, VERIFIED["network"], scale=1.0)


@float64()
def test_a_training_step_costs_the_same(step: Step, name: str, trained: dict[str, Tensor]) -> None:
    losses = {
        part: modality_loss(step.policy, part, goal, step.noisy, step.found, step.batch)
        for part, goal in step.goals.items()
    }
    losses[""] = losses["video"] + losses["action"]
    for part, loss in losses.items():
        expected = trained[f"{name}/loss{'_' * bool(part)}{part}"]
        same_values(loss, expected, VERIFIED["loss"], scale=1.0)


@float64()
def test_who_sees_whom_is_the_published_mask(
    step: Step, name: str, trained: dict[str, Tensor]
) -> None:
    assert step.noisy.video is not None
    head: Any = step.policy.action_head
    streams = embed_video(
        PassRunner(), step.policy.backbone, step.noisy.video, step.noisy.text
    ).streams
    roles = [s.role for st in streams for s in st.segments for _ in range(s.length)]
    roles += [role for group in head.token_groups(step.noisy, ()) for role in group.roles]
    sees = step.policy.paradigm.sees
    assert isinstance(sees, dict)
    mask = torch.tensor([[key in sees[query] for key in roles] for query in roles])
    published = trained[f"{name}/mask"].bool()
    if name != "joint":
        published = with_one_first_frame(published, roles.count("context"))
    if name == "optional/first_frame":  # the copy, which no action sees, is not there
        copy = range(len(roles) - 8, len(published) - 8)
        rest = [i for i in range(len(published)) if i not in copy]
        published = published[rest][:, rest]
    assert int((mask != published).sum()) <= VERIFIED["mask"]


def with_one_first_frame(mask: Tensor, size: int) -> Tensor:
    """A mask of [frames, copied frames, actions], both first frames of `size` tokens made one.

    They hold the same clean frame, and see nothing but themselves.
    """
    start = (len(mask) - 8) // 2
    one, other = range(size), range(start, start + size)
    for first in (one, other):
        alone = torch.zeros(size, len(mask), dtype=torch.bool)
        alone[:, list(first)] = True
        assert torch.equal(mask[list(first)], alone)
    folded = mask.clone()
    folded[:, list(one)] |= mask[:, list(other)]
    rest = [i for i in range(len(mask)) if i not in other]
    return folded[rest][:, rest]


def test_the_optional_idm_is_trained_as_its_settings_say(
    import_tiny: Import, policies: dict[str, Policy], tmp_path: Path
) -> None:
    paradigm: Any = policies["optional_idm"].spec.paradigm
    assert (paradigm.context_noise_prob, paradigm.drop_future_prob) == (0.0, 0.5)
    settings = {"action_idm_prob": 0.75, "video_cond_noise_prob": "0.2"}
    paradigm = import_tiny(tmp_path, "libero", "optional_idm", **settings).spec.paradigm
    assert (paradigm.context_noise_prob, paradigm.drop_future_prob) == (0.2, 0.25)


@float64()
def test_levels_of_training_are_rounded_as_the_published_ones(
    policies: dict[str, Policy], trained: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    for flow in (LIBERO["schedules"]["video"], LIBERO["schedules"]["action"]):
        assert flow["bf16_timesteps"]
    flow, drawn = policies["joint"].schedules["video"], trained["rounded/drawn"]
    rounded = type(flow)(flow.config.model_copy(update={"bf16_timesteps": True}), flow.tokens)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn)
    levels = rounded.sample((64,), torch.zeros(1), torch.Generator())
    assert torch.equal(1000 * levels, trained["rounded/timesteps"].double())
    assert not torch.equal(levels, shift_sigma(drawn, flow.shift).double())
    error = float((rounded.weight(levels) - trained["rounded/weights"]).abs().max())
    assert error <= VERIFIED["rounded_levels"], error
