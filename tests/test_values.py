"""Values that only seem to fit: booleans as numbers, unbounded integers, weights without room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wamkit import SpecError, WamkitError, build
from wamkit.checkpoints import random_weights
from wamkit.config.check import check
from wamkit.config.spec import parse, read
from wamkit.config.values import MOST, MOST_LAYERS
from wamkit.train.config import read_config

TOY = Path(__file__).parent.parent / "examples/toy.toml"
PHOTO = TOY.parent / "images/coffee.jpg"
HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("action_head.width=true", "action_head.width: found true, expected a number"),
        ("actions.control_hz=false", "actions.control_hz: found false"),
        ("seed=true", "seed: found true"),
        ("format=true", "format: found true"),
        ("cameras.views.0.size=[true, 3]", "cameras.views.0.size.0: found true"),
        ("cameras.views.0.rotate=true", "rotate: found true"),
        ("schedules.action.shift=true", "shift: found true"),
        (f"backbone.depth={HUGE}", "backbone.depth: found an integer of 1329 bits"),
        (f"video.frame_stride={HUGE}", "video.frame_stride: found an integer of 1329 bits"),
        (f"seed={2**64}", "seed: found an integer of 65 bits"),
        (f"backbone.depth={MOST_LAYERS + 1}", "found 4097, expected at most 4096"),
        (f"backbone.depth='{MOST_LAYERS + 1}'", "found 4097, expected at most 4096"),
        (f"action_head.width={MOST}", f"found {MOST}, expected less than {MOST}"),
        ("action_head.mlp_dim=1e12", "found 1000000000000, expected less"),
        (f"text_encoder.max_length=-{MOST}", f"found -{MOST}"),
    ],
)
def test_a_value_that_only_seems_to_fit_is_refused_at_its_place(override: str, found: str) -> None:
    (conflict,) = check(read(TOY, [override]))
    assert found in f"{conflict.between[0]}: {conflict.why}" and conflict.hint


@pytest.mark.parametrize(
    "override",
    [f"seed={2**64 - 1}", "schedules.action.bf16_timesteps=true", "actions.control_hz=10"],
)
def test_what_fits_is_taken(override: str) -> None:
    assert parse(read(TOY, [override]))


def test_the_same_holds_for_the_settings_of_a_training() -> None:
    with pytest.raises(SpecError) as error:
        read_config(settings=["batch_size=true", f"steps={HUGE}"])
    assert "batch_size: found true" in str(error.value) and "steps: found an integer" in str(
        error.value
    )


def test_a_value_of_a_megabyte_is_not_echoed_whole() -> None:
    for override in ("dtype=", "actions.chunk_size=", "backbone.name=", "actions."):
        end = "=1" if override.endswith(".") else ""
        (conflict,) = check(read(TOY, [f"{override}{'x' * 1_000_000}{end}"]))
        assert len(str(conflict)) < 1_000


def test_thousands_of_unknown_keys_are_counted_and_fifty_listed() -> None:
    raw: dict[str, Any] = read(TOY)
    raw.update({f"key{i}": 1 for i in range(5_000)})
    raw["actions"].update({f"key{i}": 1 for i in range(5_000)})
    conflicts = check(raw)
    assert len(conflicts) == 102
    assert sum(c.why == "4950 more mistakes" for c in conflicts) == 2


def test_weights_without_room_are_refused_before_they_are_filled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random_weights, "available_memory", lambda: 100_000)
    with pytest.raises(WamkitError, match=r"text encoder need more than the 0\.0 GB"):
        build(TOY)
    monkeypatch.setattr(random_weights, "available_memory", lambda: None)
    assert build(TOY)


@pytest.mark.parametrize("width", [2**21, MOST - 1])
def test_a_width_that_no_machine_holds_ends_with_a_message(
    width: int, wamkit: Callable[..., tuple[int, str, str]]
) -> None:
    sets = ("--set", f"action_head.mlp_dim={width}", "--set", f"action_head.width={width}")
    code, _, err = wamkit("act", TOY, "--image", PHOTO, "--prompt", "go", *sets)
    assert code == 2 and "memory" in err and "bug" not in err


def test_the_memory_of_this_machine_is_known() -> None:
    found = random_weights.available_memory()
    assert found is None or found > 2**28


def test_tuples_of_a_table_are_read_from_json_as_strictly_as_anything() -> None:
    from wamkit.train.config import TrainConfig

    config = TrainConfig(betas=(0.8, 0.9), loggers=("wandb",))
    assert TrainConfig.model_validate_json(config.model_dump_json(), strict=True) == config
