"""`wamkit train`, as a user types it, interrupts it and mistypes it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wamkit.config.spec import parse, read
from wamkit.policy.policy import Policy
from wamkit.testing.dataset import record
from wamkit.train.logs import read as lines

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
SMALL = ["--set", "backbone.depth=1", "--set", "cameras.views.0.size=[16, 16]"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data") / "set"
    return record(
        place, parse(read(TOY)), episodes=2, frames=12, size=(16, 16), image_format="image"
    )


def train_command(folder: Path, out: Path, *more: Any) -> list[Any]:
    return ["train", TOY, *SMALL, "--data", folder, "--out", out, "--batch", 2, *more]


def test_a_run_states_where_its_policy_is(wamkit: Run, folder: Path, tmp_path: Path) -> None:
    code, out, err = wamkit(*train_command(folder, tmp_path / "run", "--steps", 2))
    assert code == 0 and "done at step 2 after" in out and "waiting for data" in out
    assert f"the policy: {tmp_path}/run/checkpoints/step-000002/policy" in out
    assert "note: random weights: backbone" in err
    code, out, _ = wamkit("explain", tmp_path / "run/checkpoints/last/policy")
    assert code == 0
    code, out, _ = wamkit(*train_command(folder, tmp_path / "other", "--steps", 1, "--json"))
    report = json.loads(out)
    assert code == 0 and report["step"] == 1 and not report["interrupted"]


def test_ctrl_c_ends_with_a_checkpoint_and_resume_goes_on(
    wamkit: Run, folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def interrupt() -> None:
        while not lines(run / "log.jsonl"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    forever = train_command(folder, run, "--train", "log_every=1", "--train", "schedule=constant")
    code, out, _ = wamkit(*forever, "--steps", 100_000, "--train", "warmup_ratio=0")
    assert code == 130 and "interrupted at step" in out and "--resume" in out
    step = json.loads((run / "checkpoints/last/run.json").read_text())["step"]
    again = [*forever, "--steps", step + 1, "--train", "warmup_ratio=0", "--resume"]
    code, out, _ = wamkit(*again)
    assert code == 0 and f"done at step {step + 1} after" in out
    assert Policy.load(run / "checkpoints/last/policy").statistics


def test_latents_that_were_stored_train_alike(wamkit: Run, folder: Path, tmp_path: Path) -> None:
    code, _, err = wamkit(
        "precompute", "latents", TOY, *SMALL, "--data", folder, "--out", tmp_path / "z"
    )
    assert code == 0, err
    one = wamkit(*train_command(folder, tmp_path / "one", "--steps", 1))
    two = wamkit(
        *train_command(folder, tmp_path / "two", "--steps", 1, "--latents", tmp_path / "z")
    )
    assert one[0] == two[0] == 0
    losses = [lines(tmp_path / name / "log.jsonl")[0]["loss"] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resume"], "there is no run in"),
        (["--set", "actions.control_hz=5"], "has 10 frames a second"),
        (["--train", "lr=-1"], "lr: input should be greater than 0, found -1"),
        (["--train", "parts.vea.freeze=true"], "no such key"),
        (["--batch", "1000"], "samples do not fill a batch"),
        (["--train", "val_fraction=0.9"], "leaves none to train on"),
        (["--device", "toaster"], "there is no device 'toaster'"),
        (["--config", "nothing.toml"], "nothing.toml cannot be read"),
        (["--train", "parallelism=fsdp"], "parallelism is fsdp, and there is one process"),
        (["--train", "loggers=['wandb']"], "the logger wandb is not installed"),
        (["--latents", "nowhere"], "holds no stored latents"),
        (["--key-map", "front=nothing"], "nothing"),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(
    wamkit: Run, folder: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    if "wandb" in message:
        from importlib.util import find_spec

        if find_spec("wandb") is not None:
            pytest.skip("wandb is installed here")
    code, out, err = wamkit(*train_command(folder, tmp_path / "run", *more))
    assert code == 2 and message in err
    assert out == "" and not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_is_left_alone(
    wamkit: Run, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = wamkit(*train_command(folder, tmp_path))
    assert code == 2 and "is not empty" in err and "--resume" in err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_composition_is_trained_with_every_size_made_tiny_and_resumed(
    wamkit: Run, folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tiny = ["train", TOY, "--tiny", "--data", folder, "--out", run, "--batch", 2]
    code, _, err = wamkit(*tiny, "--steps", 1)
    assert code == 0 and "note: tiny backbone: toy, tiny" in err
    assert wamkit(*tiny, "--steps", 2, "--resume")[0] == 0
    code, _, err = wamkit(*["train", TOY, *tiny[3:]], "--steps", 3, "--resume")
    assert code == 2 and "was trained with another spec" in err and "backbone.depth was" in err
    saved = ["train", run, "--tiny", "--data", folder, "--batch", 2, "--steps", 1]
    code, _, err = wamkit(*saved, "--out", tmp_path / "again")
    assert code == 0 and "taking checkpoints/" in err and "left out" not in err
    assert wamkit("build", TOY, "--out", tmp_path / "policy")[0] == 0
    saved[1] = tmp_path / "policy"
    code, _, err = wamkit(*saved, "--out", tmp_path / "smaller")
    assert code == 0 and "do not fit toy size and are left out" in err
