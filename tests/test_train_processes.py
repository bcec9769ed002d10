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

import wamkit
from wamkit.testing.parity import same_values
from wamkit.testing.training import read_log, read_saved_state, recordings, short_run

SMALL = Path(__file__).parent / "data" / "small.toml"
SETTINGS: dict[str, Any] = {"ema": 0.9, "imagine_every": 4}
LORA = {"rank": 2}
SCRIPT = """
import json, os, sys
from functools import partial
from pathlib import Path
import torch
torch.set_num_threads(1)
import wamkit
from wamkit.train import trainer
from wamkit.testing.training import short_run
trainer.compile_blocks = partial(trainer.compile_blocks, backend="eager")
for job in json.loads(sys.argv[1]):
    os.environ["MASTER_PORT"] = str(job["port"])
    data, out = Path(job["data"]), Path(job["out"])
    short_run(wamkit.build(job["spec"]), data, out, resume=job["resume"], **job["settings"])
"""


SHARED = """
import sys
import torch
torch.set_num_threads(1)
from wamkit.policy.policy import Policy
from wamkit.config.registry import registry
from wamkit.train.config import TrainConfig
from wamkit.train.optim import set_trainable
from wamkit.train.processes import gather_tensor, join_processes
from wamkit.train.distributed import DistributedPolicy, LossModule
from wamkit.testing.parity import same_values
from wamkit.testing.fixtures import batch_of, spec_with, observation

def gradients(spec, config, processes):
    policy = Policy.from_spec(spec)
    set_trainable(policy, config.parts)
    loss_module = LossModule(policy, config)
    distributed, batch = None, batch_of(spec)
    if config.parallelism == "fsdp":
        distributed = DistributedPolicy(loss_module, config, processes)
    losses = loss_module(batch, 0) if distributed is None else distributed.losses(batch, 0)
    losses["total"].backward()
    if distributed is not None and spec.latent_frames[1]:
        loss_module.imagine(observation(spec, frames=spec.video.num_observed), 0)
    return {n: gather_tensor(p.grad) for n, p in policy.named_parameters() if p.grad is not None}

with join_processes("cpu") as processes:
    for kind in ("backbone", "action_head"):
        for name in registry().names(kind):
            spec = spec_with(**{kind: name})
            whole = gradients(spec, TrainConfig(), processes)
            config = TrainConfig(parallelism="fsdp", gradient_checkpointing=True)
            parts = gradients(spec, config, processes)
            assert whole.keys() == parts.keys(), name
            least = 1e-3 * max(float(x.abs().max()) for x in whole.values())
            for key, wanted in whole.items():
                scale = max(float(wanted.abs().max()), least)
                same_values(parts[key], wanted, 1e-3, scale=scale)
"""


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def in_two(script: str, *jobs: dict[str, Any]) -> None:
    """Run a script with jobs in two processes, as torchrun would start them."""
    report = json.dumps(
        [{"spec": str(SMALL), "port": port(), "resume": False} | job for job in jobs]
    )
    here = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port())}
    here |= {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, report],
            env=here | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=480)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors


def alone(data: Path, out: Path, **settings: Any) -> None:
    short_run(wamkit.build(SMALL), data, out, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process and of two, each way, and of two that go on where one stopped."""
    place = tmp_path_factory.mktemp("runs")
    data = recordings(place / "data", wamkit.build(SMALL).spec)
    alone(data, place / "one", gradient_accumulation_steps=2)
    alone(data, place / "mixed", gradient_accumulation_steps=2, steps=4, schedule="constant")
    alone(data, place / "lora", gradient_accumulation_steps=2, lora=LORA)
    alone(data, place / "begun", gradient_accumulation_steps=2, steps=2, schedule="constant")
    two = SETTINGS | {"gradient_accumulation_steps": 1}
    job = {"data": str(data)}
    in_two(
        SCRIPT,
        job | {"out": str(place / "ddp"), "settings": two},
        job | {"out": str(place / "fsdp"), "settings": two | {"parallelism": "fsdp"}},
        job | {"out": str(place / "ddp-lora"), "settings": two | {"lora": LORA}},
        job
        | {"out": str(place / "fsdp-lora")}
        | {"settings": two | {"lora": LORA, "parallelism": "fsdp", "compile": True}},
        job
        | {"out": str(place / "begun"), "resume": True}
        | {
            "settings": two
            | {"parallelism": "fsdp", "schedule": "constant", "gradient_checkpointing": True}
        },
        job
        | {"out": str(place / "shared")}
        | {"settings": two | {"parallelism": "fsdp", "schedule": "constant", "steps": 2}},
    )
    alone(data, place / "shared", resume=True, gradient_accumulation_steps=2, schedule="constant")
    return place


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run) if "loss" in line]


@pytest.mark.parametrize(
    ("how", "like"),
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
    ours, theirs = read_saved_state(runs / how), read_saved_state(runs / like)
    assert ours.keys() == theirs.keys()
    for name in ours:
        found, wanted = ours[name], theirs[name]
        if name.endswith("text_kv.bias"):  # of keys it changes nothing: AdamW follows rounding
            found, wanted = (bias.chunk(2)[1] for bias in (found, wanted))
        same_values(found, wanted, 0.001)
    validations = [line["validation"] for line in read_log(runs / how) if "validation" in line]
    held = read_log(runs / like)[-1]["validation"]
    assert validations[-1]["loss"] == pytest.approx(held["loss"], rel=1e-4)
    assert (runs / how / "imagined" / "step-000004.png").is_file()


def test_every_process_writes_what_it_holds(runs: Path) -> None:
    files = sorted(f.name for f in (runs / "fsdp/checkpoints/last/state").iterdir())
    assert len(files) == 2 and all(name.endswith(".safetensors") for name in files)


def test_every_backbone_and_head_can_be_shared_out_and_run_again() -> None:
    in_two(SHARED)
