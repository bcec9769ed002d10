"""What goes wrong with a checkpoint in one of two processes ends both, with a message."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

SMALL = Path(__file__).parent / "data" / "small.toml"
SCRIPT = """
import os, resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import wamkit
from wamkit.errors import WamkitError
from wamkit.testing.training import recordings, short_run

spec, data, out, rank, ports = *sys.argv[1:4], int(os.environ["RANK"]), sys.argv[4:]

def attempt(label, **settings):
    os.environ["MASTER_PORT"] = ports.pop()
    try:
        short_run(wamkit.build(spec), Path(data), Path(out), **settings)
    except WamkitError as error:
        print(f"{label}: {' '.join(str(error).split())}")
    else:
        print(f"{label}: done")

attempt("begun")
before = resource.getrlimit(resource.RLIMIT_FSIZE)
if rank == 1:  # what this one writes of the tensors has no room
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
attempt("full", steps=6, resume=True, parallelism="fsdp")
resource.setrlimit(resource.RLIMIT_FSIZE, before)
if rank == 0:
    next((Path(out) / "checkpoints/step-000004/state").iterdir()).write_bytes(b"")
attempt("damaged", steps=6, resume=True)
"""


def _port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_a_failure_in_one_process_is_reported_by_both_and_neither_waits(tmp_path: Path) -> None:
    from wamkit.config.spec import parse, read
    from wamkit.testing.training import recordings

    data = recordings(tmp_path / "data", parse(read(SMALL)))
    args = [str(SMALL), str(data), str(tmp_path / "run"), *(_port() for _ in range(3))]
    here = os.environ | {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *args],
            env=here | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=480) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    for out, _ in outputs:
        begun, full, damaged = out.splitlines()
        assert begun == "begun: done"
        assert "step-000006 could not be written" in full and "too large" in full
        assert "step-000004 is complete" in full
        assert "step-000004 is damaged" in damaged and "has 0 bytes of" in damaged
