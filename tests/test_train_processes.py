"""Two processes train as one does, with whole weights or shares of them, and read each other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from wamkit.data import Columns
from wamkit.data.example import record
from wamkit.policy import Policy
from wamkit.spec import parse
from wamkit.train.config import TrainConfig
from wamkit.train.logs import read
from wamkit.train.trainer import Data, train

RAW: dict[str, Any] = {
    "backbone": {"name": "toy", "depth": 2, "heads": 2, "head_size": 12, "text_width": 16},
    "vae": {"name": "pixel_shuffle", "strides": [2, 8, 8]},
    "text_encoder": {"name": "bytes"},
    "action_head": {"name": "mot", "width": 16, "feed_forward": 32},
    "paradigm": {"name": "single_pass"},
    "actions": {"chunk": 4, "groups": [{"name": "arm", "size": 3}]},
    "cameras": {"views": [{"name": "front", "size": [16, 16]}]},
    "video": {"frames": 3, "every": 2},
}
SETTINGS: dict[str, Any] = {
    "steps": 4,
    "batch": 4,
    "lr": 3e-3,
    "ema": 0.9,
    "validation": 0.3,
    "validation_batches": 1,
    "log_every": 1,
    "save_every": 2,
    "imagine_every": 4,
}
LORA = {"rank": 2}
SCRIPT = """
import json, os, sys
import torch
torch.set_num_threads(1)
import wamkit
from wamkit.data import Columns
from wamkit.train.config import TrainConfig
from wamkit.train.trainer import Data, train
from functools import partial
from wamkit.train import trainer
trainer.compile_blocks = partial(trainer.compile_blocks, backend="eager")
for job in json.loads(sys.argv[1]):
    os.environ["MASTER_PORT"] = str(job["port"])
    config = TrainConfig.model_validate(job["settings"])
    data = Data(__import__("pathlib").Path(job["data"]), Columns())
    train(wamkit.build(job["spec"]), data, job["out"], config, resume=job["resume"])
"""


SHARED = """
import sys
import torch
torch.set_num_threads(1)
from wamkit.compositions import compose, default
from wamkit.policy import Policy
from wamkit.registry import registry
from wamkit.train.config import TrainConfig
from wamkit.train.learning import choose
from wamkit.train.processes import full, joined
from wamkit.train.trainee import Team, Trainee
from wamkit.trial import batch_of

def gradients(spec, config, processes):
    policy = Policy.from_spec(spec)
    choose(policy, config.parts)
    trainee = Trainee(policy, config)
    team = Team(trainee, config, processes) if config.sharding == "fsdp" else None
    losses = trainee(batch_of(spec), 0) if team is None else team.losses(batch_of(spec), 0)
    losses["total"].backward()
    return {n: full(p.grad) for n, p in policy.named_parameters() if p.grad is not None}

with joined("cpu") as processes:
    for kind in ("backbone", "action_head"):
        for name in registry().names(kind):
            spec = compose(default(registry().get(kind, name)))
            whole = gradients(spec, TrainConfig(), processes)
            parts = gradients(spec, TrainConfig(sharding="fsdp", recompute=True), processes)
            assert whole.keys() == parts.keys(), name
            for key in whole:
                torch.testing.assert_close(whole[key], parts[key], rtol=1e-3, atol=1e-5)
"""


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def in_two(script: str, *jobs: dict[str, Any]) -> None:
    """Run a script with jobs in two processes, as torchrun would start them."""
    told = json.dumps([{"spec": RAW, "port": port(), "resume": False} | job for job in jobs])
    here = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port())}
    here |= {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, told],
            env=here | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=480)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors


def alone(data: Path, out: Path, *, resume: bool = False, **settings: Any) -> None:
    import wamkit

    config = TrainConfig.model_validate(SETTINGS | settings)
    train(wamkit.build(RAW), Data(data, Columns()), out, config, resume=resume)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process and of two, each way, and of two that go on where one stopped."""
    place = tmp_path_factory.mktemp("runs")
    data = record(
        place / "data", parse(RAW), episodes=3, frames=10, size=(16, 16), pictures="image"
    )
    alone(data, place / "one", accumulate=2)
    alone(data, place / "mixed", accumulate=2, steps=4, schedule="constant")
    alone(data, place / "lora", accumulate=2, lora=LORA)
    alone(data, place / "begun", accumulate=2, steps=2, schedule="constant")
    two = SETTINGS | {"accumulate": 1}
    job = {"data": str(data)}
    in_two(
        SCRIPT,
        job | {"out": str(place / "ddp"), "settings": two},
        job | {"out": str(place / "fsdp"), "settings": two | {"sharding": "fsdp"}},
        job | {"out": str(place / "ddp-lora"), "settings": two | {"lora": LORA}},
        job
        | {"out": str(place / "fsdp-lora")}
        | {"settings": two | {"lora": LORA, "sharding": "fsdp", "compile": True}},
        job
        | {"out": str(place / "begun"), "resume": True}
        | {"settings": two | {"sharding": "fsdp", "schedule": "constant", "recompute": True}},
        job
        | {"out": str(place / "shared")}
        | {"settings": two | {"sharding": "fsdp", "schedule": "constant", "steps": 2}},
    )
    alone(data, place / "shared", resume=True, accumulate=2, schedule="constant")
    return place


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read(run / "log.jsonl") if "loss" in line]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return Policy.load(run / "checkpoints" / "last" / "policy").state_dict()


@pytest.mark.parametrize(
    "how, like",
    [
        ("ddp", "one"),
        ("fsdp", "one"),
        ("ddp-lora", "lora"),
        ("fsdp-lora", "lora"),
        ("begun", "mixed"),
        ("shared", "mixed"),
    ],
)
def test_two_processes_train_as_one_does(runs: Path, how: str, like: str) -> None:
    assert losses(runs / how) == pytest.approx(losses(runs / like), rel=1e-4)
    ours, theirs = weights(runs / how), weights(runs / like)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=2e-5)
    told = [line["validation"] for line in read(runs / how / "log.jsonl") if "validation" in line]
    assert told[-1]["loss"] == pytest.approx(
        read(runs / like / "log.jsonl")[-1]["validation"]["loss"], rel=1e-4
    )
    assert (runs / how / "imagined" / "step-000004.png").is_file()


def test_every_process_writes_what_it_holds(runs: Path) -> None:
    files = sorted(f.name for f in (runs / "fsdp/checkpoints/last/state").iterdir())
    assert len(files) == 2 and all(name.endswith(".safetensors") for name in files)


def test_every_backbone_and_head_can_be_shared_out_and_run_again() -> None:
    in_two(SHARED)
