"""Two checkouts of wamkit against each other: time of a chunk, interleaved in one run.

    python benchmarks/before_after.py --before ../old --before-python ../old/.venv/bin/python
    python benchmarks/before_after.py --before ../old --sizes 64,128 --modes eager --iters 15

Each checkout runs in a process of its own, with one thread, and builds the policy of
`benchmarks/baseline.py` at its sizes (width x layers): from latents to normalized actions, 10
steps, batch 1, random weights. The processes take turns, chunk by chunk. `CPU ms` is the least
processor time of a chunk; the ratio is after to before of these. `first s` is the processor time
of the first chunk, compilation included, with empty caches.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()


def spent() -> float:
    """Processor seconds of this process and of those it has waited for."""
    own = time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + children.ru_utime + children.ru_stime


def work(tree: str, width: int, layers: int, mode: str) -> None:
    """Answer each line on standard input with the processor seconds of one chunk."""
    sys.path.insert(0, str(Path(tree, "benchmarks")))
    import baseline
    import torch

    torch.set_num_threads(1)
    policy = baseline.small(width, layers)
    prepare: Any = getattr(baseline, "inference_inputs", None) or baseline.blank  # older: blank
    sample: Any = getattr(policy, "sample", None) or policy.decide  # older: decide
    inputs = prepare(policy, baseline.observation(policy.spec, batch=1))
    policy.set_mode(mode)
    for _ in sys.stdin:
        begun = spent()
        sample(inputs, seed=0)
        print(json.dumps(spent() - begun), flush=True)


class Worker:
    """A checkout at work in a process of its own."""

    def __init__(self, python: str, tree: Path, width: int, layers: int, mode: str) -> None:
        self._cache = tempfile.TemporaryDirectory()
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": self._cache.name,
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        command = [python, str(HERE), "--work", str(tree), str(width), str(layers), mode]
        pipe = subprocess.PIPE
        self._process: Any = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=env, cwd=tree
        )

    def chunk(self) -> float:
        """Processor seconds of one chunk."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended; its error is above")
        return float(json.loads(line))

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._cache.cleanup()


def main() -> None:
    """Run both checkouts in turn, and print a row for each size and mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="a checkout of the code before")
    parser.add_argument("--before-python", default=sys.executable)
    parser.add_argument("--after", type=Path, default=HERE.parent.parent)
    parser.add_argument("--after-python", default=sys.executable)
    parser.add_argument("--sizes", default="64,128,256")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--modes", default="eager,compile")
    parser.add_argument("--iters", type=int, default=25)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        tree, width, layers, mode = given.work
        work(tree, int(width), int(layers), mode)
        return
    if given.before is None:
        parser.error("--before: name a checkout to compare with")
    print(f"{'size':>8} {'mode':>8} {'before':>8} {'after':>8} {'ratio':>6} {'first s':>15}")
    for mode in given.modes.split(","):
        for width in map(int, given.sizes.split(",")):
            workers = [
                Worker(python, tree.resolve(), width, given.layers, mode)
                for python, tree in (
                    (given.before_python, given.before),
                    (given.after_python, given.after),
                )
            ]
            first = [worker.chunk() for worker in workers]
            for worker in workers:
                worker.chunk()
            times: list[list[float]] = [[], []]
            for k in range(given.iters):
                for i in (0, 1) if k % 2 else (1, 0):
                    times[i].append(workers[i].chunk())
            for worker in workers:
                worker.close()
            one, two = (1000 * min(found) for found in times)
            both = " ".join(f"{seconds:7.1f}" for seconds in first)
            size = f"{width} x {given.layers}"
            print(
                f"{size:>8} {mode:>8} {one:8.2f} {two:8.2f} {two / one:6.3f} {both:>15}", flush=True
            )


if __name__ == "__main__":
    main()
