"""What is NaN or infinite never becomes a checkpoint, and no setting may be either."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

import wamkit as package
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec, parse, read
from wamkit.data import Columns
from wamkit.errors import WamkitError
from wamkit.testing.training import SHORT, read_saved_state, recordings, same, short_run, state
from wamkit.train.config import TrainConfig, read_config
from wamkit.train.nonfinite import not_finite
from wamkit.train.processes import Processes
from wamkit.train.trainer import Data, Trainer

SMALL = Path(__file__).parent / "data" / "small.toml"
HERE = Processes(torch.device("cpu"))
UNUSED = "text_encoder.table.weight"  # its rows for bytes that no prompt has
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("data") / "set", parse(read(SMALL)))


def spoiled(folder: Path, out: Path, spoil: Callable[[Trainer], Tensor], at: int) -> Trainer:
    """A run of six updates, saved every two, in which a number is made infinite after one."""
    config = TrainConfig.model_validate(SHORT | {"steps": 6, "ema": 0.9})
    trainer = Trainer(package.build(SMALL), Data(folder, Columns()), out, config, HERE)

    def on_step(step: int, _: Any) -> None:
        if step == at:
            spoil(trainer).detach().view(-1)[5] = math.inf

    with pytest.raises(WamkitError) as error:
        trainer.go(resume=False, on_step=on_step)
    trainer.error = error.value  # type: ignore[attr-defined]
    return trainer


@pytest.mark.parametrize(
    ("named", "spoil"),
    [
        (f"weight {UNUSED}", lambda t: t.trainable_weights[UNUSED]),
        (
            f"first moment of {UNUSED}",
            lambda t: t.optimizer.state[t.trainable_weights[UNUSED]]["exp_avg"],
        ),
        (f"second moment of {UNUSED}", lambda t: _moment(t)),
        (f"average {UNUSED}", lambda t: t.ema.values[list(t.trainable_weights).index(UNUSED)]),
    ],
)
def test_a_number_that_no_loss_shows_is_found_before_it_is_saved(
    folder: Path, tmp_path: Path, named: str, spoil: Callable[[Trainer], Tensor]
) -> None:
    out = tmp_path / "run"
    error = spoiled(folder, out, spoil, at=4).error  # type: ignore[attr-defined]
    assert f"after update 4 of 6 these are not finite: {named}" in error.what
    assert "lower lr" in error.hint and str(out / "checkpoints/step-000002/policy") in error.hint
    assert [p.name for p in sorted((out / "checkpoints").glob("step-*"))] == ["step-000002"]
    assert (out / "checkpoints/last").resolve().name == "step-000002"
    assert all(bool(x.isfinite().all()) for x in state(out).values())
    short_run(package.build(SMALL), folder, out, steps=6, ema=0.9, resume=True)
    short_run(package.build(SMALL), folder, tmp_path / "healthy", steps=6, ema=0.9)
    assert same(state(out), state(tmp_path / "healthy"))


def _moment(trainer: Trainer) -> Tensor:
    found: Tensor = trainer.optimizer.state[trainer.trainable_weights[UNUSED]]["exp_avg_sq"]
    return found


def test_a_loss_that_weights_have_spoiled_saves_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    error = spoiled(folder, out, _of_the_head, at=3).error  # type: ignore[attr-defined]
    assert error.what.startswith("the loss (action) of update 4 is not finite")
    assert "before it these were not finite: weight action_head." in error.what
    assert [p.name for p in (out / "checkpoints").glob("step-*")] == ["step-000002"]


def _of_the_head(trainer: Trainer) -> Tensor:
    weights = [
        p
        for n, p in trainer.trainable_weights.items()
        if n.startswith("action_head") and p.ndim > 1
    ]
    return weights[-1]


def test_a_learning_rate_that_diverges_leaves_no_checkpoint_that_is_not_finite(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(WamkitError, match="not finite") as error:
        short_run(
            package.build(SMALL),
            folder,
            out,
            lr=1e30,
            save_every=1,
            warmup_ratio=0,
            max_grad_norm=None,
        )
    assert "lower lr, and clip gradients (max_grad_norm=1)" in error.value.hint
    for checkpoint in (out / "checkpoints").glob("step-*"):
        assert all(bool(x.isfinite().all()) for x in state(out, checkpoint.name).values())
        read_saved_state(out, checkpoint.name)


def test_a_state_that_is_saved_is_not_saved_again(folder: Path, tmp_path: Path) -> None:
    policy, out = package.build(SMALL), tmp_path / "run"
    place = out / "checkpoints" / "step-000002"
    inodes = []

    def spoil(step: int, _: Any) -> None:
        if step == 2:
            weights = list(policy.action_head.parameters())  # type: ignore[attr-defined]
            weights[0].register_hook(spoil_gradient)

    def spoil_gradient(gradient: Tensor) -> Tensor:
        inodes.append(place.stat().st_ino)
        return gradient * math.inf

    with pytest.raises(WamkitError) as error:
        short_run(policy, folder, out, steps=6, on_step=spoil)
    assert f"{place} is the state before" in error.value.hint
    assert inodes == [place.stat().st_ino]


def test_a_checkpoint_that_is_not_finite_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from wamkit.config.records import manifest

    out = tmp_path / "run"
    short_run(package.build(SMALL), folder, out)
    checkpoint = out / "checkpoints" / "step-000004"
    file = next((checkpoint / "state").iterdir())
    tensors = load_file(file)
    tensors[f"weight/{UNUSED}"].view(-1)[0] = math.nan
    save_file(tensors, file)
    (checkpoint / "files.json").unlink()
    (checkpoint / "files.json").write_text(manifest(checkpoint).model_dump_json())
    with pytest.raises(WamkitError, match=f"is not finite: weight {UNUSED}") as error:
        short_run(package.build(SMALL), folder, out, steps=6, resume=True)
    assert "--resume then continues from step-000002" in error.value.hint


def test_of_tensors_every_kind_of_number_that_is_none_is_found() -> None:
    tensors = {
        "weight/a": torch.tensor([3e38, -3e38]),
        "weight/nan": torch.tensor([1.0, math.nan]),
        "weight/low": torch.tensor([[1.0], [-math.inf]]),
        "weight/half": torch.tensor([math.inf], dtype=torch.bfloat16),
        "weight/none": torch.empty(0),
        "buffer/mask": torch.tensor([0.0, -math.inf]),
        "buffer/nan": torch.tensor([math.nan]),
        "buffer/count": torch.tensor([3]),
    }
    found = not_finite(tensors, HERE)
    assert found == ["weight/nan", "weight/low", "weight/half", "buffer/nan"]


def _tables(cls: type[BaseModel]) -> set[type[BaseModel]]:
    """A class of settings, and those of the tables in it."""
    found = {cls}
    for field in cls.model_fields.values():
        for kind in _classes(field.annotation):
            found |= _tables(kind)
    return found


def _classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [cls for inner in get_args(annotation) for cls in _classes(inner)]


@pytest.mark.parametrize("cls", [PolicySpec, TrainConfig, *registry()], ids=lambda c: c.__name__)
def test_every_table_of_settings_refuses_nan_and_infinity(cls: type[BaseModel]) -> None:
    assert [c for c in _tables(cls) if c.model_config.get("allow_inf_nan") is not False] == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "name",
    [
        "lr",
        "betas",
        "max_grad_norm",
        "ema",
        "timeout",
        "peak_flops",
        "lora.alpha",
        "parts.backbone.lr",
    ],
)
def test_a_training_setting_that_is_no_finite_number_is_refused(name: str, value: str) -> None:
    written = f"[0.9, {value}]" if name == "betas" else value
    with pytest.raises(WamkitError, match=name.replace(".", r"\.")):
        read_config(None, [f"{name}={written}"])
    with pytest.raises(WamkitError, match=r"betas\.0"):
        read_config(None, ["betas=[1.5, 0.9]"])


@pytest.mark.parametrize(
    "args",
    [
        ["train", SMALL, "--data", "d", "--out", "o", "--lr", "nan"],
        ["train", SMALL, "--data", "d", "--out", "o", "--tolerance", "inf"],
        ["data", "check", "d", "--tolerance", "nan"],
        ["estimate", SMALL, "--utilization", "nan"],
        ["serve", SMALL, "--ping-interval", "inf"],
        ["collect", "pusht", "--out", "o", "--noise", "nan"],
    ],
)
def test_an_option_that_is_no_finite_number_is_refused(wamkit: Run, args: list[Any]) -> None:
    code, _, err = wamkit(*args)
    assert code == 2 and "a bug" not in err
    assert f"{args[-2]} is {args[-1]}" in err or f"Invalid value for '{args[-2]}'" in err


def test_lists_of_a_file_are_tuples_where_a_table_has_tuples() -> None:
    from wamkit.train.config import TrainConfig

    config = TrainConfig.model_validate({"loggers": ["wandb"], "lora": {"parts": ["action_head"]}})
    assert TrainConfig.model_validate_json(config.model_dump_json(), strict=True) == config
