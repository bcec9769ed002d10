"""What a run tells besides its weights: loggers, pace, the share of a device's peak, the best."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import wamkit
from wamkit.config.spec import parse, read
from wamkit.testing.dataset import record
from wamkit.testing.training import short_run
from wamkit.train.config import TrainConfig
from wamkit.train.devices import find_device, peak_for
from wamkit.train.logs import read as lines
from wamkit.train.plan import work
from wamkit.train.trainer import Summary

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
SMALL = ["backbone.depth=1", "cameras.views.0.size=[16, 16]"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data") / "set"
    return record(
        place, parse(read(TOY)), episodes=2, frames=12, size=(16, 16), image_format="image"
    )


def run(folder: Path, out: Path, **settings: Any) -> Summary:
    policy = wamkit.build(TOY, SMALL)
    return short_run(policy, folder, out, **{"batch_size": 2, "val_fraction": 0.5, **settings})


def train_command(folder: Path, out: Path, *more: Any) -> list[Any]:
    sets = [word for value in SMALL for word in ("--set", value)]
    return ["train", TOY, *sets, "--data", folder, "--out", out, "--batch", 2, *more]


def test_tensorboard_shows_scalars_and_images_and_forgets_what_comes_again(
    folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    how: dict[str, Any] = {"loggers": ["tensorboard"], "imagine_every": 4, "schedule": "constant"}
    run(folder, tmp_path / "run", **how, steps=4)
    run(folder, tmp_path / "run", **how, steps=6, resume=True)
    logged_images = EventAccumulator(str(tmp_path / "run")).Reload()
    logged = [line for line in lines(tmp_path / "run/log.jsonl") if "loss" in line]
    expected = {
        "loss": lambda line: line["loss"],
        "parts/action": lambda line: line["parts"]["action"],
        "lr/backbone": lambda line: line["lr"]["backbone"],
        "gradients/action_head": lambda line: line["gradients"]["action_head"],
        "samples_per_second": lambda line: line["samples_per_second"],
        "waiting": lambda line: line["waiting"],
    }
    for name, value in expected.items():
        found = [(event.step, event.value) for event in logged_images.Scalars(name)]
        assert [step for step, _ in found] == [1, 2, 3, 4, 5, 6]
        assert [x for _, x in found] == pytest.approx([value(x) for x in logged], rel=1e-5)
    assert [event.step for event in logged_images.Scalars("validation/loss")] == [2, 4, 6]
    (image,) = logged_images.Images("imagined")
    assert (image.step, image.width, image.height) == (4, 9 * 16, 2 * 16 + 4)


def test_wandb_works_without_a_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(folder, tmp_path / "run", loggers=["wandb"], imagine_every=4)
    name = (tmp_path / "run" / "tracking.txt").read_text().strip()
    run(folder, tmp_path / "run", loggers=["wandb"], imagine_every=4, resume=True)
    assert (tmp_path / "run" / "tracking.txt").read_text().strip() == name
    assert list((tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{name}.wandb"))
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/files/media/images/*.png"))


def test_trackio_works_without_a_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    run(folder, tmp_path / "run", loggers=["trackio"], imagine_every=4)
    assert list((tmp_path / "trackio").rglob("wamkit*"))


def test_loggers_are_named_on_the_command_line(wamkit: Run, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    code, _, _ = wamkit(*train_command(folder, out, "--steps", 1, "--logger", "tensorboard"))
    assert code == 0 and list(out.glob("events.out.tfevents.*"))
    absent = [name for name in ("trackio", "wandb") if find_spec(name) is None]
    for name in absent:
        listed = f"tensorboard,{name}"
        code, _, err = wamkit(
            *train_command(folder, tmp_path / name, "--steps", 1, "--logger", listed)
        )
        assert code == 2 and f"the logger {name} is not installed" in err
        assert f'hint: pip install -e ".[{name}]"' in err and not (tmp_path / name).exists()
    code, _, err = wamkit(*train_command(folder, tmp_path / "typo", "--logger", "tensorbored"))
    assert code == 2 and "'tensorboard', 'trackio' or 'wandb'" in err


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A10G", None),
        ("NVIDIA A10", "A10"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("NVIDIA L4", "L4"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", None),
    ],
)
def test_devices_are_known_by_name(name: str, found: str | None) -> None:
    peak = find_device(name)
    assert (None if peak is None else peak.name) == found


def test_utilization_is_operations_over_the_peak(folder: Path, tmp_path: Path) -> None:
    done = run(folder, tmp_path / "run", peak_flops=2e9, parts={"backbone": {"freeze": True}})
    spec = wamkit.build(TOY, SMALL).spec
    config = TrainConfig.model_validate({"parts": {"backbone": {"freeze": True}}})
    one = work(spec, config.parts).operations
    assert done.utilization == pytest.approx(done.samples_per_second * one / 2e9)
    logged = lines(tmp_path / "run/log.jsonl")[0]
    assert logged["utilization"] == pytest.approx(logged["samples_per_second"] * one / 2e9)
    tokens = sum(spec.tokens().values())
    assert done.tokens_per_second == pytest.approx(done.samples_per_second * tokens)


def test_a_peak_that_is_not_known_can_be_measured() -> None:
    cpu = torch.device("cpu")
    assert peak_for(TrainConfig(), cpu) is None
    assert peak_for(TrainConfig(peak_flops=3e9), cpu) == 3e9
    measured = peak_for(TrainConfig(measure_peak=True), cpu)
    assert measured is not None and measured > 1e8


def test_the_share_of_the_peak_is_reported_or_why_it_is_not(
    wamkit: Run, folder: Path, tmp_path: Path
) -> None:
    code, out, err = wamkit(*train_command(folder, tmp_path / "one", "--steps", 1))
    assert code == 0 and "of the device's peak" not in out
    assert "note: this device's peak is not known: --train measure_peak=true" in err
    more = ["--steps", 1, "--train", "measure_peak=true"]
    code, out, err = wamkit(*train_command(folder, tmp_path / "two", *more))
    assert code == 0 and "of the device's peak" in out and "peak is not known" not in err


def test_the_best_is_named_if_there_is_one(wamkit: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = wamkit(*train_command(folder, tmp_path / "held", "--steps", 1))
    best = tmp_path / "held/checkpoints/step-000001/policy"
    assert code == 0 and f"the best so far on held-out episodes: {best}" in out
    none = train_command(folder, tmp_path / "none", "--steps", 1, "--train", "val_fraction=0")
    code, out, err = wamkit(*none)
    assert code == 0 and "held-out" not in out
    assert not (tmp_path / "none/checkpoints/best").exists()
    last = tmp_path / "none/checkpoints/last/policy"
    assert f"nothing was validated, so none is the best: {last}" in err and last.is_dir()
    code, out, _ = wamkit(*train_command(folder, tmp_path / "json", "--steps", 1, "--json"))
    assert json.loads(out)["best"].endswith("json/checkpoints/step-000001")
